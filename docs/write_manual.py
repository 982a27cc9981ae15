"""Writes docs/dfs.1, the manual page, from the tables that parse command lines: `python3 docs/write_manual.py [--check]`.

With --check it changes nothing and ends with status 1 when the page is out of date, as a test asks it to.
"""

import itertools
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(HERE))

from dfs_lib import __version__, errors, settings  # noqa: E402
from dfs_lib.cli import calls, main, options  # noqa: E402

PAGE = os.path.join(HERE, "dfs.1")
_FAMILIES = ("UsageError", "Refusal", "NetworkError", "ProtocolError", "NotPermitted", "IntegrityError", "DfsError")


def roff(text):
    """Text that roff prints as it stands."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\n".join("\\&" + line if line.startswith((".", "'")) else line for line in text.split("\n"))


def notes(text):
    """Lines that begin at the margin are filled, those that are indented stand as they are; one below the margin that is indented more
    than an example goes on with it."""
    found, given = [], []
    for line in filter(None, text.strip("\n").split("\n")):
        goes_on = line.startswith("    ") and given and not given[-1].startswith(" ")
        given.append(line.lstrip() if goes_on else line)
    for is_example, run in itertools.groupby(given, lambda line: line.startswith(" ")):
        lines = list(run)
        found += [".PP", f".nf\n{roff(chr(10).join(lines))}\n.fi" if is_example else roff(" ".join(lines))]
    return found


def option_lines(option):
    names = ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names)
    value = f" \\fI{roff(option.metavar)}\\fR" if option.metavar else ""
    return [".TP", names + value, roff(option.help)]


def verb_lines(name, verb):
    common = {each for option in options.COMMON for each in option.names} | {"--" + flag.replace("_", "-") for flag in calls._CLIENT_FLAGS}
    lines = [f".SS dfs {name} {roff(verb.form)}".rstrip(), roff(verb.summary)]
    if verb.notes.strip():
        lines += notes(verb.notes)
    for option in calls.options_of(verb):
        if not option.hidden and not (verb.role in ("", settings.CLIENT) and set(option.names) & common):
            if not set(option.names) & {each for common_ in options.COMMON for each in common_.names}:
                lines += option_lines(option)
    return lines


def page():
    """The text of docs/dfs.1."""
    lines = [f'.TH DFS 1 "" "dfs {__version__}" "User Commands"', ".SH NAME", "dfs \\- a distributed file store for ordinary machines",
             ".SH SYNOPSIS", ".B dfs\n.I VERB\n\\&...", ".br", ".B dfs client\n[\\fB\\-\\-master\\fR \\fIHOST\\fR[:\\fIPORT\\fR]]\n.I VERB\n\\&...",
             ".SH DESCRIPTION",
             roff("Files are cut into blocks, and each block is kept by several keepers: ordinary machines with idle disks. A master knows which "
                  "keeper has what, and has a block copied anew when one is lost. One program is every part: master, keeper and client."),
             ".PP", roff("A remote path starts with / (or dfs:/, where a verb takes local and remote paths)."),
             ".SH OPTIONS", roff("Of every verb:")]
    for option in options.COMMON:
        lines += option_lines(option)
    lines += [".PP", roff("Of every verb that asks a cluster:")]
    for flag in calls._CLIENT_FLAGS:
        lines += option_lines(calls.setting_option(flag))
    lines.append(".SH VERBS")
    for name, family, _line in main.VERBS:
        lines += verb_lines(name, family().VERBS[name])
    lines += [".SH EXIT STATUS", ".TP", ".B 0", "done"]
    told = {1: "refused: no such file, no room, too few keepers …", 2: "the command or a setting is wrong", 3: "network: no master, time\\-out",
            4: "protocol: the peer is no dfs, or another version", 5: "integrity: damage found or proven", 6: "not permitted", 70: "a bug in dfs",
            130: "interrupted (Ctrl\\-C)", 141: "the reader of standard output has gone, as in dfs ls | head"}
    assert {getattr(errors, name).status for name in _FAMILIES} <= set(told)
    for status, words in told.items():
        lines += [".TP", f".B {status}", words]
    lines += [".SH ENVIRONMENT", roff("Each setting can be given as DFS_ and its name in capitals, such as DFS_MASTER or DFS_KEY_FILE; a flag is stronger, "
                                      "a file of settings weaker. `dfs settings` shows each value and where it came from. NO_COLOR switches colours off."),
              ".SH FILES", ".TP", "\\fI./dfs.toml\\fR, \\fI~/.config/dfs/dfs.toml\\fR", "settings, unless \\-\\-config or DFS_CONFIG names a file", ".TP",
              ".I dfs\\-local/client.toml", "written by dfs local; client verbs run beside it find that cluster by themselves"]
    return "\n".join(line for line in lines if line).replace("…", "\\&...").replace("→", "\\(->") + "\n"


if __name__ == "__main__":
    wanted = page()
    if "--check" in sys.argv[1:]:
        with open(PAGE, encoding="utf-8") as source:
            sys.exit(source.read() != wanted)
    with open(PAGE, "w", encoding="utf-8") as out:
        out.write(wanted)
