"""Parsers of settings, their units and refusals; which layer wins."""

import pytest

from dfs_lib import errors, model, settings

GOOD = [
    (settings.parse_size, [("4096", 4096), ("64MiB", 64 << 20), ("64 mib", 64 << 20), ("1GB", 10**9), ("1g", 1 << 30), ("0", 0), ("1.5k", 1536), (7, 7),
                           ("2b", 2), ("3TiB", 3 << 40), ("1pb", 10**15)]),
    (settings.parse_block_size, [("1MiB", 1 << 20), ("1GiB", 1 << 30), ("3145728", 3 << 20)]),
    (settings.parse_ports, [("7000-7002", (7000, 7001, 7002)), ("7000,7005", (7000, 7005)), ("0,0,0", (0, 0, 0)), (7000, (7000,)), ([1, "2-3"], (1, 2, 3))]),
    (settings.parse_masters, [("h", (("h", 7000), ("h", 7001), ("h", 7002))), ("h:9", (("h", 9),)), ("a:1, b:2", (("a", 1), ("b", 2))), ("[::1]:9", (("::1", 9),)),
                              ("::1", (("::1", 7000), ("::1", 7001), ("::1", 7002))), ("[::1]", (("::1", 7000), ("::1", 7001), ("::1", 7002))), (["a:1"], (("a", 1),))]),
    (settings.parse_seconds, [("60", 60), ("0.5", 0.5), ("5m", 300), ("2h", 7200), ("1d", 86400), ("3s", 3), (0, 0)]),
    (settings.parse_copies, [("1", 1), (16, 16)]),
    (settings.parse_count, [("0", 0), (5, 5)]),
    (settings.parse_jobs, [("1", 1), (64, 64)]),
    (settings.parse_bool, [("yes", True), ("1", True), (True, True), ("off", False), ("", False), ("NO", False)]),
    (settings.parse_labels, [("room=a,rack=2", {"room": "a", "rack": "2"}), (["a=b", "c="], {"a": "b", "c": ""}), ({"a": 1}, {"a": "1"}), ("", {})]),
    (settings.parse_names, [("a, b,,c", ("a", "b", "c")), (["x"], ("x",)), ("", ())]),
]
BAD = [
    (settings.parse_size, ["", "MiB", "1x", "-5", "1.2.3", "five", "0x10", "1 2 q", None]),
    (settings.parse_block_size, ["0", "5", "7", "2G", "1500000", "1025MiB", "x", "1MB"]),
    (settings.parse_ports, ["", "a", "7002-7000", "65536", "-1", "1-100", "1,,2", "1-2-3"]),
    (settings.parse_masters, ["", ",", "h:0", "h:65536", "h:x", "[::1]:x"]),
    (settings.parse_seconds, ["", "nan", "inf", "-1", "x", "5q", "1e10", "5 m x"]),
    (settings.parse_copies, ["0", "17", "x", "-1", "1.5"]),
    (settings.parse_count, ["-1", "x", ""]),
    (settings.parse_jobs, ["0", "-1", "x", "1.5"]),
    (settings.parse_bool, ["maybe", "2"]),
    (settings.parse_labels, ["a", "=b", ["a"]]),
]


@pytest.mark.parametrize("parse, text, wanted", [(parse, text, wanted) for parse, rows in GOOD for text, wanted in rows])
def test_understood(parse, text, wanted):
    assert parse(text) == wanted


@pytest.mark.parametrize("parse, text", [(parse, text) for parse, texts in BAD for text in texts])
def test_refused(parse, text):
    with pytest.raises((ValueError, TypeError)):
        parse(text)


def test_table():
    assert len(settings.BY_NAME) == len(settings.SETTINGS)
    for setting in settings.SETTINGS:
        assert setting.name.isidentifier() and setting.reason and setting.who
        assert set(setting.who) <= {settings.CLIENT, settings.MASTER, settings.KEEPER, settings.LOCAL, settings.GATEWAY}
        if setting.default is not None and setting.parse not in (str, int):
            assert setting.default == setting.parse(setting.default) or setting.name == "master"


def test_defaults_keep_the_promises():
    found = settings.resolve([])
    assert found.copies == 3 and found.safe == 2 and found.block_size == model.BLOCK_SIZE == 64 << 20
    assert found.suspect_after < found.dead_after < found.repair_grace < found.stop_grace
    assert found.heartbeat_every < found.suspect_after and found.insecure is False and found.key_file is None
    assert found.block_size % model.CHUNK_SIZE == 0
    assert set(found.origins.values()) == {"default"}


@pytest.mark.parametrize("setting", settings.SETTINGS, ids=lambda setting: setting.name)
@pytest.mark.parametrize("text", ["x", "1.2.3", "", "5x", "-"])
def test_no_refusal_speaks_of_python(setting, text):
    try:
        setting.parse(text)
    except ValueError as e:
        assert not str(e).startswith(("invalid literal", "could not convert")), e


def test_faults_may_be_collected():
    faults = []
    found = settings.resolve([("DFS_COPIES", {"copies": "x"}), ("dfs.toml", {"copies": 2, "jobs": "7", "jobz": 1})], faults)
    assert (found.copies, found.jobs, found.origins["copies"]) == (2, 7, "dfs.toml")
    assert [(fault.facts["name"], fault.facts["origin"]) for fault in faults] == [("jobz", "dfs.toml"), ("copies", "DFS_COPIES")]


def test_the_strongest_layer_wins():
    found = settings.resolve([("the flag", {"copies": "5", "safe": None}), ("DFS_COPIES", {"copies": "4"}), ("dfs.toml", {"safe": 1, "repair_grace": "2m"})])
    assert (found.copies, found.safe, found.repair_grace) == (5, 1, 120)
    assert found.origins["copies"] == "the flag" and found.origins["safe"] == "dfs.toml" and found.origins["jobs"] == "default"


@pytest.mark.parametrize("layer, words", [
    ({"copys": 3}, "copys from dfs.toml: there is no such setting"), ({"copies": "many"}, "copies from dfs.toml: "),
    ({"block_size": "x"}, "block-size from dfs.toml: 'x' is not a size"), ({"copies": [1]}, "copies from dfs.toml: "),
    ({"copies": "x"}, "copies from dfs.toml: 'x' is not a whole number"), ({"copies": 1.5}, "1.5 is not a whole number"),
    ({"ports": "5-3"}, "the range 5-3 ends before it begins; 3-5 is one"), ({"heartbeat_port": "70000"}, "ports go from 0 to 65535")])
def test_bad_settings_are_named_with_their_origin(layer, words):
    with pytest.raises(errors.BadSetting) as caught:
        settings.resolve([("dfs.toml", layer)])
    assert words in caught.value.message


def test_read_only_and_but():
    found = settings.resolve([])
    with pytest.raises(AttributeError):
        found.copies = 1
    other = found.but(copies=1)
    assert other.copies == 1 and found.copies == 3 and other.origins["copies"] == "given"
    with pytest.raises(errors.Misuse):
        found.but(copys=1)


def test_each_setting_is_there_once():
    names = [setting.name for setting in settings.SETTINGS]
    assert sorted(names) == sorted(set(names))


def test_insecure_may_be_said_twice():
    for given, wanted in ((True, True), ("yes", True), ("no", False), ([True], True), ([True, True], "everywhere"), ("Everywhere", "everywhere"), ("", False)):
        assert settings.resolve([("flag", {"insecure": given})]).insecure == wanted
    with pytest.raises(errors.BadSetting):
        settings.resolve([("flag", {"insecure": "twice"})])


def test_tls_modes():
    for given, wanted in (("off", "off"), (False, "off"), (True, "require"), (" Require ", "require"), ("allow", "allow")):
        assert settings.resolve([("file", {"tls": given})]).tls == wanted
    with pytest.raises(errors.BadSetting, match="none of off, auto, allow, require"):
        settings.resolve([("file", {"tls": "psk"})])


@pytest.mark.parametrize("text, found", [("7080", ("127.0.0.1", 7080)), ("0.0.0.0:80", ("0.0.0.0", 80)), ("[::1]:0", ("::1", 0)), (7080, ("127.0.0.1", 7080))])
def test_where_to_listen(text, found):
    assert settings.parse_listen(text) == settings.parse_web(text) == found
    assert settings.parse_web("Off") == settings.OFF
    for wrong in ("", ":80", "x", "h:", "h:70000", "h:\u0661"):
        with pytest.raises(ValueError):
            settings.parse_listen(wrong)
