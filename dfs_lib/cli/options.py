"""Options as a table: parsed, explained and refused. argparse would cost each `ls` ten milliseconds.

Never reads settings, files or the environment: words in, values out.

    --name VALUE  --name=VALUE  -n VALUE  -nVALUE  -lR (two flags)  -- (the rest are names)  - (a name: standard input or output)
"""

from dfs_lib import errors
from dfs_lib.records import record

# names: ("-l", "--long"), the last one gives the key (`-` becomes `_`); metavar: "" for a flag; parse: text → value, may
# raise ValueError; many: True collects a list; hidden: not in --help; is_setting: the value of the setting of that name.
Option = record("Option", "names metavar help parse many hidden is_setting", defaults=(str, False, False, False))

# name; run(call) → exit status or None; form: what follows the name in the usage line; summary: one line; options;
# n_least and n_most words (None: any number); notes: paragraphs and examples for --help; role: whose settings are flags.
Verb = record("Verb", "name run form summary options n_least n_most notes role", defaults=((), 0, None, "", ""))


def flag(*names, help, hidden=False):
    """An option without a value: True when given."""
    return Option(names, "", help, None, False, hidden)


COMMON = (
    flag("--json", help="one JSON object a line on stdout, errors as JSON on stderr"),
    flag("-q", "--quiet", help="no progress, no remarks"),
    flag("--progress", help="progress bars even when stderr is no terminal"),
    Option(("-v", "--verbose"), "", "log more to stderr; twice: each message", None, True),
    Option(("--config",), "FILE", "settings from this file (DFS_CONFIG) and not from ./dfs.toml or the user's dfs/dfs.toml"),
    flag("-h", "--help", help="this text"),
)


def key_of(option):
    """The key of an option's value: its last name without dashes, `_` for `-`."""
    return option.names[-1].lstrip("-").replace("-", "_")


def parse(verb, words, options):
    """({key: value}, [words that are no options]) of a command line. Raises UsageError that names the word at fault."""
    table = {name: option for option in options for name in option.names}
    values, rest = {}, []
    words = list(words)
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word == "--":
            rest += words[at:]
            break
        if word == "-" or not word.startswith("-"):
            rest.append(word)
            continue
        if word.startswith("--"):
            name, equals, value = word.partition("=")
            tail = value if equals else None
        else:
            name, tail = word[:2], word[2:] or None
        option = table.get(name)
        if option is None:
            raise errors.UsageError(detail=f"{verb}: there is no option {name}{_nearest(name, table)}", verb=verb)
        if option.metavar:
            if tail is None:
                if at >= len(words):
                    raise errors.UsageError(detail=f"{verb}: {name} needs a value: {name} {option.metavar}", verb=verb)
                tail = words[at]
                at += 1
            _keep(verb, values, option, name, tail)
            continue
        if tail is not None and word.startswith("--"):
            raise errors.UsageError(detail=f"{verb}: {name} takes no value", verb=verb)
        if option.many:
            values.setdefault(key_of(option), []).append(True)
        else:
            values[key_of(option)] = True
        if tail is not None:
            words.insert(at, "-" + tail)  # -lR: the next flag
    return values, rest


def _keep(verb, values, option, name, text):
    try:
        value = option.parse(text)
    except (ValueError, TypeError) as e:
        foreign = str(e).startswith(("invalid literal", "could not convert"))
        detail = f"{text!r} is not a number" if foreign else str(e)
        raise errors.UsageError(detail=f"{verb}: {name}: {detail}", verb=verb) from e
    if option.many:
        values.setdefault(key_of(option), []).append(value)
    else:
        values[key_of(option)] = value


def check_words(verb, words):
    """Raises UsageError when there are too few or too many words for this verb."""
    if len(words) < verb.n_least:
        given = f"{len(words)} given" if words else "none given"
        raise errors.UsageError(detail=f"{verb.name} needs {verb.form.partition('[-')[0].strip() or verb.form} ({given})",
                                verb=verb.name)
    if verb.n_most is not None and len(words) > verb.n_most:
        raise errors.UsageError(detail=f"{verb.name}: {words[verb.n_most]!r} is one word too many", verb=verb.name)


def _nearest(name, names):
    import difflib  # only on the way to an error

    near = difflib.get_close_matches(name, list(names), 1)
    return f"; did you mean {near[0]}?" if near else ""


def explain(verb, options):
    """The text of `dfs VERB --help`."""
    own = [option for option in options if not option.hidden]
    lines = [f"usage: dfs {verb.name} {verb.form}".rstrip(), "", verb.summary]
    if verb.notes:
        lines += ["", verb.notes.strip("\n")]
    lines += ["", "options:"]
    for option in own:
        left = ", ".join(option.names) + (f" {option.metavar}" if option.metavar else "")
        lines += _two_columns(left, option.help)
    return "\n".join(lines) + "\n"


def _two_columns(left, text, indent=26, width=100):
    lines, line = [], ""
    for word in text.split():
        if line and len(line) + 1 + len(word) > width - indent:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    lines.append(line)
    head = f"  {left}"
    if len(head) > indent - 2:
        return [head] + [" " * indent + each for each in lines]
    return [head.ljust(indent) + lines[0]] + [" " * indent + each for each in lines[1:]]
