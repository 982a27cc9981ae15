"""`ls`, `stat`, `du`, `rm`, `mv`, `cp`, `mkdir`, `set`: verbs about names. No byte of a file passes through here.

Never imports what transfers need: `ls` is what people wait for.
"""

from dfs_lib import errors, model, settings
from dfs_lib.cli import options, output, paths


def _each(call, action):
    """Do something to each path named; a failure is shown, and the others still have their turn."""
    for word in call.words:
        try:
            action(paths.remote(call.verb.name, word)[0])
        except (errors.Refusal, errors.IntegrityError, errors.NotPermitted) as e:
            call.failed(e)


# -- ls ---------------------------------------------------------------------------------------------------------------
def ls(call):
    words = call.words or ["/"]
    wants_have = call.out.as_json or bool(call["long"])
    show_entry = _long_line if call["long"] else _short_line
    n_shown = 0
    with call.client() as client:
        for word in words:
            try:
                path, means_directory = paths.remote("ls", word)
                pending = [path]
                while pending:
                    directory = pending.pop()
                    is_headed = not call.out.as_json and (call["recursive"] or len(words) > 1)
                    heading = ("\n" if n_shown else "") + f"{output.safe_text(directory)}:" if is_headed else None
                    n_shown += 1
                    below = _list_one(call, client, directory, wants_have, show_entry, means_directory, heading)
                    if call["recursive"]:
                        pending += reversed(below)
            except (errors.Refusal, errors.IntegrityError, errors.NotPermitted) as e:
                call.failed(e)


def _list_one(call, client, path, wants_have, show_entry, means_directory, heading):
    """Print what is in a directory, below its heading if it has one, or a file itself; returns the directories in it."""
    below = []
    try:
        for entry in client.list(path, have=wants_have):
            if heading is not None:
                call.out.line(heading)
                heading = None
            if entry.kind == model.DIRECTORY:
                below.append(entry.path)
            if call.out.as_json:
                call.out.record(output.entry_record(entry))
            else:
                call.out.line(show_entry(call, entry, paths.last_name(entry.path)))
        if heading is not None:
            call.out.line(heading)  # of an empty one
    except errors.NotADirectory as e:
        if means_directory or e.facts.get("path", path) != path:
            raise
        entry = output.entry_of(client.stat(path))
        call.out.both(show_entry(call, entry, path), output.entry_record(entry))
    return below


def _short_line(call, entry, name):
    is_marked = entry.kind == model.DIRECTORY and call.out.is_terminal
    return output.safe_text(name) + ("/" if is_marked else "")


def _long_line(call, entry, name):
    at = (output.time_text(entry.mtime_at) or "")[:19].replace("T", " ")
    if entry.kind == model.DIRECTORY:
        return f"dir           {'-':>9}  {at:<19}  {output.safe_text(name)}/"
    have = "?" if entry.copies_have is None else str(entry.copies_have)
    copies = f"{have}/{entry.copies_wanted}"
    if entry.copies_have is not None and entry.copies_have < entry.copies_wanted:
        copies = call.out.colored(copies.rjust(5), "yellow" if entry.copies_have else "red")
    return f"file  {copies:>5}   {output.size_text(entry.size):>9}  {at:<19}  {output.safe_text(name)}"


# -- stat -------------------------------------------------------------------------------------------------------------
def stat(call):
    with call.client() as client:
        names = None
        for word in call.words:
            try:
                found = client.stat(paths.remote("stat", word)[0], blocks=True)
            except (errors.Refusal, errors.IntegrityError, errors.NotPermitted) as e:
                call.failed(e)
                continue
            if call.out.as_json:
                call.out.record(_stat_record(found))
                continue
            if names is None:
                names = {keeper["keeper_id"]: keeper["name"] for keeper in client.status().keepers}
            _show_stat(call.out, found, names)


def _stat_record(found):
    record = output.entry_record(output.entry_of(found))
    if found["type"] == model.FILE:
        record.update(block_size=found["block_size"], sha256=found["sha256"])
        record["blocks"] = [{"block": block["block"], "index": block["index"], "size": block["size"],
                             "keepers": list(block["keepers"])}
                            for block in found["blocks"]]
    return record


def _show_stat(out, found, names):
    out.line(output.safe_text(found["path"]))
    if found["type"] == model.DIRECTORY:
        out.line("  directory")
        return
    have = "?" if found["copies_have"] is None else found["copies_have"]
    out.line(f"  {output.size_text(found['size'])} ({found['size']:,} bytes), changed {output.time_text(found['mtime_at'])}, "
             f"version {found['version']}")
    out.line(f"  {have} of {found['copies_wanted']} copies" + (f", sha256 {found['sha256']}" if found["sha256"] else ""))
    for block in found["blocks"]:
        holders = " ".join(names.get(keeper, keeper[:8]) for keeper in block["keepers"]) or "no keeper"
        out.line(f"  block {block['index']}  {block['block']}  {output.size_text(block['size'])} on {holders}")


# -- du ---------------------------------------------------------------------------------------------------------------
def du(call):
    with call.client() as client:
        def show(path):
            used = client.usage(path)
            call.out.both(f"{output.size_text(used.size):>9}  {used.files:>9,} files  {output.size_text(used.stored):>9} stored  "
                          f"{output.safe_text(path)}",
                          {"path": path, "bytes": used.size, "files": used.files, "directories": used.directories,
                           "stored": used.stored})

        call.words = call.words or ["/"]
        _each(call, show)


# -- changes ----------------------------------------------------------------------------------------------------------
def rm(call):
    with call.client() as client:
        def remove(path):
            if path == "/":
                raise errors.Refusal("/ itself is never removed; name what is in it", path=path)
            try:
                client.remove(path, recursive=bool(call["recursive"]))
            except errors.NoSuchFile:
                if not call["force"]:
                    raise
                return
            call.out.record({"path": path, "removed": True})

        _each(call, remove)


def mv(call):
    _move_or_copy(call, lambda client: client.rename)


def cp(call):
    for word in call.words:
        if not word.startswith("/") and not paths.is_remote(word):
            raise errors.UsageError(f"cp: {word!r} is not in the store; `dfs put` and `dfs get` carry files in and out",
                                    verb="cp")
    _move_or_copy(call, lambda client: client.copy)


def _move_or_copy(call, method):
    target, means_directory = paths.remote(call.verb.name, call.words[-1])
    sources = call.words[:-1]
    unique = paths.Unique()
    with call.client() as client:
        action = method(client)
        landing = paths.Landing(call.verb.name, target, kind_of(client, target), len(sources), means_directory, model.join)
        for word in sources:
            try:
                source = paths.remote(call.verb.name, word)[0]
                is_tree = means_directory and not landing.is_into and kind_of(client, source) == model.DIRECTORY
                final = landing.place(paths.last_name(source), is_tree)
                unique.take(final, source)
                copied = _copy_tree(call, client, source, final) if call["recursive"] and call.verb.name == "cp" else None
                if copied is None:
                    action(source, final, no_clobber=bool(call["no_clobber"]))
                call.out.record({"path": final, "source": source})
            except (errors.Refusal, errors.IntegrityError, errors.NotPermitted) as e:
                call.failed(e)


def _copy_tree(call, client, source, target):
    """Copy a directory's tree name by name; None when `source` is a file, which the caller copies."""
    if kind_of(client, source) != model.DIRECTORY:
        return None
    if target == source or target.startswith(source.rstrip("/") + "/"):
        raise errors.IntoItself(path=source)
    n_files = 0
    pending = [(source, target)]
    while pending:
        directory, copy = pending.pop()
        client.mkdir(copy, parents=True)
        for entry in client.list(directory):
            final = model.join(copy, paths.last_name(entry.path))
            if entry.kind == model.DIRECTORY:
                pending.append((entry.path, final))
                continue
            try:
                client.copy(entry.path, final, no_clobber=bool(call["no_clobber"]))
                n_files += 1
            except errors.Refusal as e:
                call.failed(e)
    return n_files


def kind_of(client, path):
    """model.FILE, model.DIRECTORY, or None when there is nothing of that name."""
    if path == "/":
        return model.DIRECTORY
    try:
        return client.stat(path)["type"]
    except errors.NoSuchFile:
        return None
    except errors.NotADirectory:
        return None  # a part above is a file: the verb itself will say so


def mkdir(call):
    with call.client() as client:
        def make(path):
            client.mkdir(path, parents=bool(call["parents"]))
            call.out.record({"path": path, "type": model.DIRECTORY})

        _each(call, make)


def set_copies(call):
    if call["copies"] is None:
        raise errors.UsageError(detail="set: name what to change: --copies N", verb="set")
    with call.client() as client:
        def change(path):
            client.set_copies(path, call["copies"])
            wanted = output.count_text(call["copies"], "copy", "copies")
            call.out.both(f"{output.safe_text(path)}   {wanted} wanted; repair makes it so",
                          {"path": path, "copies_wanted": call["copies"]})

        _each(call, change)


_NO_CLOBBER = options.flag("-n", "--no-clobber", help="refuse to replace a file that is there")

VERBS = {
    "ls": options.Verb("ls", ls, "[-l] [-R] [PATH…]", "What is in a directory (default /).", (
        options.flag("-l", "--long", help="with copies had and wanted, size and time"),
        options.flag("-R", "--recursive", help="and all directories below"),
    ), 0, None, "", settings.CLIENT),
    "stat": options.Verb("stat", stat, "PATH…",
                         "All that is known of a path: size, version, time, copies, blocks and their keepers.", (), 1, None, "",
                         settings.CLIENT),
    "du": options.Verb("du", du, "[PATH…]", "How much a tree holds, as users see it and on the keepers' disks.", (), 0, None, "",
                       settings.CLIENT),
    "rm": options.Verb("rm", rm, "[-r] [-f] PATH…", "Remove files, and trees with -r.", (
        options.flag("-r", "-R", "--recursive", help="directories with all they hold"),
        options.flag("-f", "--force", help="a name that is not there is no failure"),
    ), 1, None, "", settings.CLIENT),
    "mv": options.Verb("mv", mv, "SOURCE… TARGET", "Rename, or move into a directory; no bytes move.", (_NO_CLOBBER,), 2, None,
                       "", settings.CLIENT),
    "cp": options.Verb("cp", cp, "[-r] SOURCE… TARGET", "A second name for the same bytes within the store; no bytes move.", (
        options.flag("-r", "-R", "--recursive", help="directories with all they hold"), _NO_CLOBBER,
    ), 2, None, "", settings.CLIENT),
    "mkdir": options.Verb("mkdir", mkdir, "[-p] PATH…", "Make directories.", (
        options.flag("-p", "--parents", help="with those above it; one that is there is no failure"),
    ), 1, None, "", settings.CLIENT),
    "set": options.Verb("set", set_copies, "PATH… --copies N", "Change how many copies a file shall have.", (
        options.Option(("--copies",), "N", "copies wanted from now on", settings.parse_copies),
    ), 1, None, "", settings.CLIENT),
}
