"""The table of verbs, and from the first word to the exit status: what every command has in common.

Never imports a verb that is not asked for: `--version` and `--help` import nothing, `ls` what `ls` needs.

    words ─> verb ─> options ─> run(call) ─> 0 done · 1 refused · 2 usage · 3 network · 4 protocol · 5 integrity ·
                                             6 not permitted · 70 a bug · 130 interrupted · 141 the reader of stdout has gone
"""

import os
import sys

from dfs_lib import __version__


# Plain imports inside functions: the freezer finds them, and a client pays for one family alone.
def _daemons():
    from dfs_lib.cli import daemons

    return daemons


def _cluster():
    from dfs_lib.cli import cluster

    return cluster


def _operators():
    from dfs_lib.cli import operators

    return operators


def _admin():
    from dfs_lib.cli import admin

    return admin


def _keys():
    from dfs_lib.cli import keys

    return keys


def _local():
    from dfs_lib.cli import local_verbs

    return local_verbs


def _names():
    from dfs_lib.cli import names

    return names


def _find():
    from dfs_lib.cli import find

    return find


def _transfers():
    from dfs_lib.cli import transfers

    return transfers


def _bench():
    from dfs_lib.cli import bench

    return bench


def _doctor():
    from dfs_lib.cli import doctor

    return doctor


def _completion():
    from dfs_lib.cli import completion

    return completion


# name, the module that knows it, one line for `dfs --help`; in the order people meet them
VERBS = (
    ("local", _local, "a whole cluster on this machine, in the foreground"),
    ("demo", _local, "the tour: put a file, kill a keeper, watch the repair, get the file back"),
    ("put", _transfers, "local files and trees into the store"),
    ("get", _transfers, "files and trees out of the store"),
    ("cat", _transfers, "files to standard output"),
    ("sum", _transfers, "SHA-256 of files, as sha256sum prints it"),
    ("ls", _names, "what is in a directory"),
    ("stat", _names, "all that is known of a path: size, version, copies, blocks and their keepers"),
    ("find", _find, "paths below a directory, by name, size and age"),
    ("du", _names, "how much a tree holds"),
    ("rm", _names, "remove files, and trees with -r"),
    ("mv", _names, "rename; no bytes move"),
    ("cp", _names, "a second name for the same bytes; no bytes move"),
    ("mkdir", _names, "make directories"),
    ("set", _names, "change how many copies a file shall have"),
    ("status", _cluster, "keepers, space, copies that are missing, repairs under way"),
    ("wait", _cluster, "until every file has its copies, or enough keepers are live"),
    ("df", _cluster, "space on the keepers"),
    ("scrub", _cluster, "re-read every replica now and compare its checksums"),
    ("rebalance", _cluster, "even out how full the keepers are"),
    ("fsck", _operators, "how whole the files are: healthy, under-replicated, missing, corrupt"),
    ("why", _operators, "the decisions behind the state of a path or a keeper, in plain words"),
    ("drain", _operators, "empty a keeper: its blocks go elsewhere first"),
    ("undrain", _operators, "use a drained keeper again"),
    ("bench", _bench, "how fast this cluster is from here"),
    ("doctor", _doctor, "what is wrong with this machine or its way to the cluster"),
    ("admin", _admin, "users and their keys, and codes by which keepers join"),
    ("master", _daemons, "run the master tracker"),
    ("keeper", _daemons, "run a data keeper node"),
    ("gateway", _daemons, "the store over HTTP: a page, plain files, numbers for monitoring"),
    ("recover", _local, "files back by name from keepers' directories, with no cluster running"),
    ("keygen", _keys, "make a cluster key"),
    ("settings", _keys, "each setting, its value and where it came from"),
    ("completion", _completion, "a script that completes verbs and options in bash, zsh or fish"),
)
ALIASES = {"upload": "put", "download": "get"}

_HEAD = """dfs: a distributed file store for ordinary machines

usage: dfs VERB …            dfs VERB --help explains one
       dfs client [--master HOST[:PORT][,HOST…]] VERB …   the same

"""
_TAIL = """
A remote path starts with / (or dfs:/). Start with `dfs local`, then, in another terminal, `dfs put FILE /`.
Exit status: 0 done, 1 refused, 2 usage, 3 network, 4 protocol, 5 integrity, 6 not permitted, 70 a bug, 130 interrupted,
141 the reader of the output has gone.
"""
# Options that take a value and may stand before the verb, as in `dfs client --master HOST ls`.
_EARLY_WITH_VALUE = ("--master", "--key-file", "--config")


def overview():
    """The text of `dfs --help`."""
    return _HEAD + "".join(f"  {name:<11} {line}\n" for name, _family, line in VERBS) + _TAIL


def main(argv=None):
    """Run one command line (without the program's name); returns the exit status, and raises nothing."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] in (["--version"], ["-V"]):
        return _print(f"dfs {__version__}\n")
    if not words or words[0] in ("-h", "--help") or words == ["help"]:
        return _print(overview())
    early = []
    if words[0] == "help":
        words = [words[1], "--help"]
    elif words[0] == "client":
        words = words[1:]
        if not words or words[0] in ("-h", "--help"):
            return _print(overview())
    while words and words[0].startswith("-"):
        n = 2 if words[0] in _EARLY_WITH_VALUE else 1
        early, words = early + words[:n], words[n:]
    return _guarded(words[0] if words else "", early + words[1:])


def run():
    """The whole program: `main` on the process's own words, and out with its exit status.

    Taking the interpreter apart would cost each `ls` 2 ms. It has to be done where threads or exit handlers may be left, and there
    are none where nobody has imported `threading` or `atexit`: then only the two streams remain to be looked after.
    """
    status = main()
    if sys.modules.keys().isdisjoint(("threading", "atexit")):
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        except (OSError, ValueError, AttributeError):
            pass  # closed, or never there: the long way out copes with it as ever
        else:
            os._exit(status)
    sys.exit(status)


def _print(text):
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except OSError:
        return _reader_has_gone()
    return 0


def _reader_has_gone():
    """The reader of our stdout has closed it (`dfs ls | head`): quiet, as Unix tools are."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the interpreter's last flush does not complain
    except OSError:
        pass  # it complains to nobody
    return 141


def _guarded(name, words):
    """Find the verb, run it, and turn whatever comes out into an exit status."""
    from dfs_lib import errors
    from dfs_lib.cli import output

    try:
        try:
            status = _run(name, words)
            sys.stdout.flush()
            return status
        except BrokenPipeError:
            return _reader_has_gone()
        except KeyboardInterrupt:
            sys.stderr.write("\n" if sys.stderr.isatty() else "")
            return 130
        except errors.DfsError as e:
            output.show_error(e, as_json="--json" in words, verbose=_is_verbose(words), verb=ALIASES.get(name, name))
            return e.status
        except OSError as e:
            # Files are turned into LocalFileError where they are opened; what is left is our own standard output.
            ours = errors.LocalFileError(path=str(e.filename or "standard output"), detail=e.strerror or str(e))
            _reader_has_gone()  # first: what is still buffered for it would fail again, and hide the error
            output.show_error(ours, as_json="--json" in words, verbose=_is_verbose(words))
            return ours.status
        except Exception as e:  # a bug: said so, with the traceback for whoever asks
            output.show_bug(e, as_json="--json" in words, verbose=_is_verbose(words))
            return errors.DfsError.status
    except KeyboardInterrupt:
        return 130
    except OSError:  # stderr is gone too
        return _reader_has_gone()


def _is_verbose(words):
    return any(word == "--verbose" or word.startswith("-v") and not word.startswith("--") for word in words)


def _run(name, words):
    from dfs_lib import errors
    from dfs_lib.cli import calls, options

    name = ALIASES.get(name, name)
    family = next((family for verb, family, _line in VERBS if verb == name), None)
    if family is None:
        raise errors.UsageError(detail=_unknown(name))
    verb = family().VERBS[name]
    table = calls.options_of(verb)
    if "--help" in words or "-h" in words:
        before = words[:words.index("--")] if "--" in words else words
        if "--help" in before or "-h" in before:
            return _print(options.explain(verb, table))
    values, rest = options.parse(name, words, table)
    options.check_words(verb, rest)
    call = calls.Call(verb, values, rest)
    return verb.run(call) or call.worst


def _unknown(name):
    if not name:
        return "name a verb; `dfs --help` lists them"
    import difflib

    near = difflib.get_close_matches(name, [verb for verb, _family, _line in VERBS], 1)
    return f"there is no verb {name!r}" + (f"; did you mean {near[0]}?" if near else "; `dfs --help` lists them")
