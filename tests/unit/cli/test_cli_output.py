"""What people and scripts see."""

import io
import json
import sys

import pytest

from dfs_lib import errors
from dfs_lib.cli import output


@pytest.mark.parametrize("n, text", [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (4_200_000, "4.2 MB"), (99_940, "99.9 kB"),
                                     (99_960, "100 kB"),
                                     (999_700, "1.0 MB"), (10**15, "1.0 PB"), (10**19, "10000 PB")])
def test_sizes_have_three_digits(n, text):
    assert output.size_text(n) == text


def test_sizes_to_type_are_exact():
    assert [output.exact_size(n) for n in (1 << 30, 64 << 20, 1536, 1000)] == ["1GiB", "64MiB", "1536", "1000"]


@pytest.mark.parametrize("at, text", [(0, "1970-01-01T00:00:00Z"), (1.5, "1970-01-01T00:00:01.500Z"),
                                      (-0.25, "1969-12-31T23:59:59.750Z"),
                                      (1e18, "9999-12-31T23:59:59Z"), (None, None)])
def test_times_are_iso_8601_utc(at, text):
    assert output.time_text(at) == text


@pytest.mark.parametrize("seconds, text", [(0.94, "0.9 s"), (14, "14 s"), (180, "3 min"), (9000, "2.5 h"), (400000, "5 d")])
def test_durations(seconds, text):
    assert output.duration_text(seconds) == text


def test_names_forge_no_lines_on_a_terminal():
    assert output.safe_text("a\nb\x1b[31mc") == "a\\nb\\x1b[31mc"
    assert output.safe_text("schön \udcff") == "schön \udcff"


def test_json_is_utf_8_and_survives_undecodable_names():
    assert output.to_json({"a": "ö"}) == '{"a":"ö"}'
    assert json.loads(output.to_json({"a": "\udcff"})) == {"a": "\udcff"}


def test_an_error_says_what_and_what_next(capsys):
    output.show_error(errors.NoSuchFile(path="/a"))
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines() == ["dfs: no such file or directory: /a",
                                              "try: `dfs ls` on the directory above shows what is there"]


def test_an_error_as_json_has_the_keys_that_scripts_use(capsys):
    output.show_error(errors.NoSuchFile(path="/a"), as_json=True)
    record = json.loads(capsys.readouterr().err)
    assert record["error"] == "no_such_file" and record["message"] and record["path"] == "/a" and record["hint"]


def test_every_error_has_a_hint_that_can_be_shown():
    for cls in errors.by_code().values():
        bare = output.hint_of(cls())
        assert bare and "{" not in bare and "?" != bare, cls
    assert "--safe 1" in output.hint_of(errors.TooFewKeepers(live=1, safe=2))
    assert "--safe" not in output.hint_of(errors.TooFewKeepers(live=0, safe=2))
    assert output.hint_of(errors.UsageError(detail="x", verb="ls")) == "dfs ls --help"


def test_a_bug_says_so_and_shows_where_only_when_asked(capsys):
    try:
        raise ValueError("odd")
    except ValueError as e:
        output.show_bug(e)
        quiet = capsys.readouterr().err
        output.show_bug(e, verbose=True)
        loud = capsys.readouterr().err
    assert quiet.startswith("dfs: this is a bug in dfs: ValueError: odd (test_cli_output.py line") and "Traceback" not in quiet
    assert "-v" in quiet and "Traceback" in loud


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_is_drawn_after_a_second_and_wiped(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with output.Output().progress("put a", 100) as bar:
        bar(10)
        assert terminal.getvalue() == ""
        now[0] = 2.0
        bar(40)
        assert "put a" in terminal.getvalue() and "50 %" in terminal.getvalue() and "25 B/s" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")


def test_a_bar_of_many_files_has_total_rate_and_time_left_in_80_columns(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    label = "put /a/very/long/path/of/a/tree/that/somebody/has/put/together/thesis"
    with output.Output().progress(label) as bar:
        now[0] = 1.0
        bar(500_000_000)
        assert terminal.getvalue().endswith("500 MB  500 MB/s")  # while the total is not known
        bar.expect(2_000_000_000, 2450)
        for second in range(2, 12):
            now[0] = float(second)
            bar(100_000_000)
            bar.file_done()
        lines = terminal.getvalue().split("\r")
        assert all(len(line) < 80 for line in lines)
        assert "[#######---]  75 %  1.5 GB of 2.0 GB  9 of 2,450 files  100 MB/s  5.0 s left" == lines[-1].strip()
        for second in range(12, 40):
            now[0] = float(second)
            bar(1_000_000)
        # the rate is that of the last seconds, not the mean of all
        assert "1.0 MB/s" in terminal.getvalue().split("\r")[-1]


def test_a_label_gives_way_before_a_figure_does():
    assert output.fitted("put a", "50 %", 80) == "put a  50 %"
    assert output.fitted("put " + "x" * 90, "50 %", 20) == "…" + "x" * 12 + "  50 %"
    assert output.fitted("put abc", "y" * 15, 20) == "y" * 15
    assert len(output.fitted("put abc", "y" * 50, 20)) == 19


def test_bars_keep_away_from_files_json_and_the_quiet(monkeypatch):
    for stream, given, shows in ((io.StringIO(), {}, False), (Terminal(), {}, True), (Terminal(), {"is_quiet": True}, False),
                                 (Terminal(), {"as_json": True}, False), (io.StringIO(), {"wants_progress": True}, True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert output.Output(**given).progress("x")._shows is shows


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert output.Output().colored("a", "red") == "\x1b[31ma\x1b[0m"
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.Output().colored("a", "red") == "a"


def test_json_keeps_stdout_for_objects(capsys):
    out = output.Output(as_json=True)
    out.line("words")
    out.remark("words")
    out.table([("a", "b")])
    out.both("words", {"a": 1})
    assert capsys.readouterr() == ('{"a":1}\n', "")
