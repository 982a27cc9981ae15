"""TLS by certificates in this Python, and by pre-shared keys in one that has them; what is checked stands in tls_checks.py."""

import json
import os
import socket
import subprocess
import sys
import threading
import types

import pytest
import tls_checks

from dfs_lib import errors
from dfs_lib.net import tls

BY_KEY = [check for check in tls_checks.CHECKS if check.__name__.startswith("psk_")]


@pytest.fixture(scope="module")
def verdicts(psk_python):
    """{check: failure or ""} of a run of all checks under a Python that has pre-shared keys."""
    if tls.HAS_PSK:
        return None
    done = subprocess.run([psk_python, os.path.join(os.path.dirname(__file__), "tls_checks.py")], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return {said["check"]: said["failure"] for said in map(json.loads, done.stdout.splitlines())}


@pytest.mark.parametrize("check", [check for check in tls_checks.CHECKS if check not in BY_KEY], ids=lambda check: check.__name__)
def test_by_certificate(check):
    check()


@pytest.mark.parametrize("check", tls_checks.CHECKS, ids=lambda check: check.__name__)
def test_where_there_are_keys(check, verdicts):
    if verdicts is None:
        if check in BY_KEY:  # the others have run already
            check()
    else:
        assert verdicts[check.__name__] == ""


def test_without_psk_an_asker_is_told_what_to_do(monkeypatch):
    monkeypatch.setattr(tls, "HAS_PSK", False)
    own = tls.trust.client_credentials(tls_checks.KEY, tls.trust.Tls("auto"))
    with pytest.raises(tls.errors.TlsRequired, match="Python .*3.13 or later"):
        tls.asker(own, "there:7000", tls.trust.PSK)
    with pytest.raises(tls.errors.BadSetting, match="require: .*3.13 or later; or name --tls-ca FILE"):
        tls.asker(own, "there:7000")


@pytest.mark.parametrize("mode, cert, has_psk, has_keys, wanted", [
    ("auto", None, False, True, "none"), ("auto", None, True, False, "none"), ("require", None, False, True, "names no way"),
    ("allow", None, True, False, "names no way"), ("auto", "node.pem", False, True, "certificate"), ("require", "node.pem", False, False, "certificate"),
])
def test_the_gate_that_settings_ask_for(monkeypatch, mode, cert, has_psk, has_keys, wanted):
    monkeypatch.setattr(tls, "HAS_PSK", has_psk)
    with tls_checks.private(cert or "node.pem") as path:
        settings = type("Settings", (), {"tls": mode, "tls_cert": path if cert else None, "tls_key": None})
        if wanted == "names no way":
            with pytest.raises(tls.errors.BadSetting, match=f"{mode}: .*name --tls-cert FILE"):
                tls.gate_of(settings, has_keys, None, None)
        else:
            gate = tls.gate_of(settings, has_keys, None, None)
            assert (gate.how if gate else "none") == wanted


@pytest.mark.skipif(os.name != "posix" or not hasattr(os, "chmod"), reason="modes of files")
def test_a_private_key_that_others_can_read_is_refused():
    with tls_checks.private("node.pem") as path:
        os.chmod(path, 0o640)
        settings = type("Settings", (), {"tls": "auto", "tls_cert": path, "tls_key": None})
        with pytest.raises(tls.errors.BadKeyFile, match="its mode is 0640"):
            tls.gate_of(settings, True, None, None)


def test_a_client_without_tls_does_not_load_it():
    said = subprocess.run([sys.executable, "-c", "import sys, dfs_lib.client, dfs_lib.net.servers; print('ssl' in sys.modules)"],
                          capture_output=True, text=True, cwd=os.path.dirname(os.path.dirname(tls.__file__)) + "/..", timeout=30)
    assert said.stdout == "False\n"


def test_the_wait_for_the_first_byte_is_part_of_the_handshakes_time(monkeypatch):
    left = []

    def handshake(_stream, _context, seconds, **_side):
        left.append(seconds)
        raise TimeoutError

    monkeypatch.setattr(tls, "_wrapped", handshake)
    certificates = os.path.join(os.path.dirname(__file__), "certificates")
    gate = tls.Gate(os.path.join(certificates, "node.pem"), None, lambda role, identity: None, lambda: "require")
    ours, theirs = socket.socketpair()
    with ours, theirs:
        late = threading.Timer(0.3, theirs.sendall, (b"\x16",))
        late.start()
        with pytest.raises(errors.PeerTimeout):
            gate.admit(types.SimpleNamespace(sock=ours, address="peer"), 5.0)
        late.join()
    assert len(left) == 1 and left[0] <= 4.75
