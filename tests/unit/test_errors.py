"""Codes, exit statuses, templates and hints of every error; there and back over the wire."""

import pathlib
import re
import string

import pytest

from dfs_lib import errors

ALL = [cls for cls in errors._all_classes(errors.DfsError) if cls.__module__ == errors.__name__]
FAMILIES = {errors.UsageError: 2, errors.Refusal: 1, errors.NetworkError: 3, errors.ProtocolError: 4, errors.NotPermitted: 6, errors.IntegrityError: 5}
EACH = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)


def test_codes_are_unique_and_stable_in_form():
    codes = [cls.code for cls in ALL]
    assert len(set(codes)) == len(codes)
    assert all(code == code.lower() and code.replace("_", "").isalnum() for code in codes)
    assert all("code" in vars(cls) for cls in ALL), "a code is given, never inherited"
    assert errors.by_code().items() >= {cls.code: cls for cls in ALL}.items()


@EACH
def test_status_by_family(cls):
    if cls is errors.DfsError:
        assert cls.status == 70
        return
    family, = [family for family in FAMILIES if issubclass(cls, family)]
    assert cls.status == FAMILIES[family]


@EACH
def test_words(cls):
    assert cls.template.strip() and cls.hint.strip() and cls.__doc__
    assert cls.retry in (errors.NOW, errors.ELSEWHERE, errors.LATER, errors.NEVER)
    fields = [name for _text, name, _spec, _conversion in string.Formatter().parse(cls.template) if name is not None]
    assert all(name.isidentifier() and name not in ("message", "self") for name in fields)
    bare = cls()
    assert bare.message == str(bare) and bare.facts == {}
    assert all(f"{{{name}" not in bare.message for name in fields) and ("?" in bare.message) == bool(fields)
    full = cls(**{name: f"«{name}»" for name in fields})
    assert all(f"«{name}»" in full.message for name in fields)


@EACH
def test_there_and_back_over_the_wire(cls):
    error = cls(detail="x", path="/a", size=5)
    again = errors.from_wire(error.code, error.message, error.facts)
    assert type(again) is cls and again.message == error.message and again.facts == error.facts
    assert (again.status, again.retry, again.hint) == (error.status, error.retry, error.hint)


def test_a_code_of_a_newer_peer_is_a_refusal():
    error = errors.from_wire("from_the_future", "words", {"a": 1})
    assert type(error) is errors.Refusal and error.message == "words" and error.facts == {"a": 1} and error.status == 1


def test_an_own_message_wins_over_the_template():
    assert errors.NoSuchFile("words", path="/x").message == "words"
    assert errors.NoSuchFile(path="/x").message == "no such file or directory: /x"
    assert "{path}" not in errors.NoSuchFile(path="{path}{0}").message.replace("{path}{0}", "")


def test_readme_lists_every_code_with_its_status():
    readme = (pathlib.Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    listed = {}
    for line in readme.splitlines():
        row = re.match(r"\| (\d+) \| .* \| (.*) \|$", line)
        if row:
            listed.update({code: int(row[1]) for code in re.findall(r"`(\w+)`", row[2])})
    assert listed == {code: cls.status for code, cls in errors.by_code().items()}
