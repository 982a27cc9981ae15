"""`dfs find`: a walk with tests on name, kind, size and time. Never changes anything."""

import time

from dfs_lib import errors, model, settings
from dfs_lib.cli import options, output, paths


def parse_time(text, now=None):
    """Unix seconds from ISO 8601 (`2026-11-22`, `2026-11-22T13:00:00Z`, an offset) or an age (`2h`, `3d`). Raises ValueError."""
    from datetime import datetime, timezone

    if text[-1:] in "smhd" and text[:-1].replace(".", "", 1).isdigit():
        return (time.time() if now is None else now) - settings.parse_seconds(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2026-11-22, 2026-11-22T13:00:00Z, or 3d for three days ago") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def _parse_kind(text):
    kinds = {"f": model.FILE, "file": model.FILE, "d": model.DIRECTORY, "dir": model.DIRECTORY}
    if text not in kinds:
        raise ValueError(f"{text!r} is neither file nor dir")
    return kinds[text]


def make_test(values):
    """entry → bool from the options given."""
    import re
    from fnmatch import translate  # case counts, as in the store

    tests = []
    for key, takes_path in (("name", False), ("path", True)):
        if values.get(key) is not None:
            fits = re.compile(translate(values[key])).match
            tests.append(lambda entry, fits=fits, whole=takes_path: fits(entry.path if whole else paths.last_name(entry.path)))
    if values.get("type") is not None:
        tests.append(lambda entry: entry.kind == values["type"])
    # A size or an age says something of files alone, as nobody looks for directories by it.
    if values.get("larger") is not None:
        tests.append(lambda entry: entry.kind == model.FILE and entry.size > values["larger"])
    if values.get("smaller") is not None:
        tests.append(lambda entry: entry.kind == model.FILE and entry.size < values["smaller"])
    if values.get("newer") is not None:
        tests.append(lambda entry: entry.kind == model.FILE and entry.mtime_at > values["newer"])
    if values.get("older") is not None:
        tests.append(lambda entry: entry.kind == model.FILE and entry.mtime_at < values["older"])
    if values.get("short"):
        tests.append(lambda entry: entry.kind == model.FILE and (entry.copies_have or 0) < entry.copies_wanted)
    return lambda entry: all(test(entry) for test in tests)


def find(call):
    fits = make_test(call.values)
    wants_have = call.out.as_json or bool(call["short"])
    end = "\0" if call["print0"] else "\n"
    with call.client() as client:
        for word in call.words or ["/"]:
            try:
                for entry in _walk(client, paths.remote("find", word)[0], wants_have):
                    if fits(entry):
                        call.out.line(entry.path if end == "\0" else output.safe_text(entry.path), end)
                        call.out.record(output.entry_record(entry))
            except (errors.Refusal, errors.IntegrityError, errors.NotPermitted) as e:
                call.failed(e)


def _walk(client, path, wants_have):
    """The entry of `path` and all below it, directories before what they hold, in name order."""
    if path != "/":
        yield output.entry_of(client.stat(path))
    # Depth first with one open page a level: memory grows with depth, not with the size of a directory.
    try:
        pending = [client.list(path, have=wants_have)]
        while pending:
            entry = next(pending[-1], None)
            if entry is None:
                pending.pop()
                continue
            yield entry
            if entry.kind == model.DIRECTORY:
                pending.append(client.list(entry.path, have=wants_have))
    except errors.NotADirectory as e:
        if e.facts.get("path", path) != path:
            raise


VERBS = {
    "find": options.Verb("find", find, "[PATH…] [--name GLOB] [--larger SIZE] [--newer TIME]",
                         "Paths at and below PATH (default /) that pass all tests.", (
        options.Option(("--name",), "GLOB", "the last name fits, as in '*.pdf'"),
        options.Option(("--path",), "GLOB", "the whole path fits"),
        options.Option(("--type",), "KIND", "file or dir", _parse_kind),
        options.Option(("--larger",), "SIZE", "files of more bytes", settings.parse_size),
        options.Option(("--smaller",), "SIZE", "files of fewer bytes", settings.parse_size),
        options.Option(("--newer",), "TIME",
                       "files changed after: 2026-11-22, 2026-11-22T13:00:00Z (UTC if it does not say), or 3d for three days ago",
                       parse_time),
        options.Option(("--older",), "TIME", "files changed before", parse_time),
        options.flag("--short", help="files with fewer copies than wanted"),
        options.flag("-0", "--print0", help="end each path with NUL instead of a line feed"),
    ), 0, None, "", settings.CLIENT),
}
