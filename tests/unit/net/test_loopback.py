"""What can be reached from this machine alone."""

import pytest

from dfs_lib import errors, settings
from dfs_lib.net import inherited


@pytest.mark.parametrize("host, wanted", [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False),
                                          ("::", False), ("192.0.2.1", False), ("128.0.0.1", False)])
def test_is_loopback(host, wanted):
    assert inherited.is_loopback(host) is wanted


def test_a_name_that_nobody_knows():
    with pytest.raises(errors.BadSetting, match="is not known"):
        inherited.is_loopback("x" * 70)  # no label of a name is so long: nobody is asked for it


@pytest.mark.parametrize("insecure, host, is_refused", [(False, "0.0.0.0", False), (True, "127.0.0.1", False), (True, "0.0.0.0", True),
                                                        ("everywhere", "0.0.0.0", False)])
def test_insecure_beyond_this_machine_wants_to_be_said_twice(insecure, host, is_refused):
    own = settings.resolve([]).but(insecure=insecure)
    if is_refused:
        with pytest.raises(errors.UsageError, match="Give --insecure twice"):
            inherited.refuse_insecure(own, host)
    else:
        inherited.refuse_insecure(own, host)
