"""`dfs admin …`: users, and codes by which keepers join. Never decides who may: the master does.

A row of ACTIONS is one action: its words, how many more it takes, what it does.
"""

from dfs_lib import errors, settings
from dfs_lib.cli import calls, options, output


# -- users ------------------------------------------------------------------------------------------------------------
def user_add(call, name):
    """A new user; its key is shown now and never again."""
    if call["role"] is None:
        raise errors.UsageError(detail="admin user add: name the role: --role reader, writer or admin", verb="admin")
    from dfs_lib.client import admin

    with call.client() as client:
        identity, line = admin.add_user(client, name, call["role"], call["home"] or "/")
    _show_key(call, name, identity, line)


def user_rotate(call, name):
    """A new key for a user."""
    from dfs_lib.client import admin

    with call.client() as client:
        identity, line = admin.rotate_user(client, name)
    _show_key(call, name, identity, line)


def _show_key(call, name, identity, line):
    call.out.both(line, {"name": name, "identity": identity, "key": line})
    call.out.remark("this key is shown once: it goes into a file that only its user can read (chmod 600), named with --key-file or "
                    "DFS_KEY_FILE")


def user_list(call):
    """Every user."""
    from dfs_lib.client import admin

    with call.client() as client:
        users = admin.users(client)
    rows = [("USER", "ROLE", "HOME", "KEY")]
    for user in users:
        call.out.record(dict(user))
        rows.append((user["name"], user["role"], output.safe_text(user["home"]), user["identity"]))
    call.out.table(rows if users else [("no users yet: `dfs admin user add NAME --role reader|writer|admin` makes one",)])


def user_remove(call, name):
    """A user's key opens nothing any more."""
    from dfs_lib.client import admin

    with call.client() as client:
        admin.remove_user(client, name)
    call.out.both(f"removed {name}: the key opens nothing any more", {"name": name, "removed": True})


# -- keepers ----------------------------------------------------------------------------------------------------------
def invite(call):
    """A join code for one keeper."""
    from dfs_lib.client import admin

    with call.client() as client:
        code, lapses_s = admin.invite(client)
    master = calls.value_text(settings.BY_NAME["master"], call.settings.master)
    call.out.both(f"dfs keeper --data DIR --master {master} --join {code}", {"code": code, "lapses_s": lapses_s, "master": master})
    call.out.remark(f"for one keeper, within {lapses_s / 60:.0f} minutes; DFS_JOIN={code}, --join FILE and --join - (standard input) keep the "
                    "code out of the list of processes")


# -- what waits for a human -------------------------------------------------------------------------------------------
def pending(call):
    """Drops that wait for an approval."""
    _show_pending(call, _pending(call))


def approve(call, *words):
    """Let drops go on: those on the keepers named, or all that wait now."""
    from dfs_lib.cli.cluster import keeper_ids

    with call.client() as client:
        ids = keeper_ids(client, words)
        waiting = client.ask(_messages().Pending(approve=[])).pending
        chosen = [one for one in waiting if not ids or one["keeper_id"] in ids]
        if chosen:
            client.ask(_messages().Pending(approve=[one["keeper_id"] for one in chosen]))
    for one in chosen:
        call.out.both(output.safe_text(f"approved: {one['n']} drops on {one['name']}, as far as they are still surplus"),
                      {**one, "approved": True})
    if not chosen:
        call.out.line("nothing waits for an approval")


def _pending(call):
    with call.client() as client:
        return client.ask(_messages().Pending(approve=[])).pending


def _messages():
    from dfs_lib.wire import messages

    return messages


def _show_pending(call, waiting):
    for one in waiting:
        example = f", such as of {one['path']}" if one["path"] else ""
        call.out.both(output.safe_text(f"{one['name']}: {one['n']:,} of its {one['n_blocks']:,} blocks are to be dropped{example}: {one['reason']}"),
                      dict(one))
    call.out.line("`dfs admin approve [KEEPER…]` lets them go" if waiting else "nothing waits for an approval")


def forget(call, word):
    """A dead keeper will never return."""
    from dfs_lib.cli.cluster import keeper_ids

    with call.client() as client:
        (id_,) = keeper_ids(client, [word])
        facts = client.ask(_messages().Forget(keeper=id_, force=bool(call["force"]))).facts
    call.out.both(output.safe_text(f"{facts['name']} is forgotten, with {output.count_text(facts['replicas'], 'replica')}; repair makes the copies anew"),
                  {"keeper_id": id_, **facts})


def backup(call, path):
    """A copy of the master's catalog in a local file."""
    from dfs_lib.client import admin

    with call.client() as client, call.out.progress("backup") as bar:
        size = admin.backup(client, path, bar)
    call.out.both(output.safe_text(f"{path}: {output.size_text(size)}, whole and durable"), {"local": path, "size": size})
    call.out.remark("the cluster's key is not in it: keep DATA/cluster.key too. docs/operations/README.md says how a catalog is put back")


# words → (run(call, *more words), names of the words that follow)
ACTIONS = {
    ("user", "add"): (user_add, ("NAME",)),
    ("user", "list"): (user_list, ()),
    ("user", "remove"): (user_remove, ("NAME",)),
    ("user", "rotate"): (user_rotate, ("NAME",)),
    ("invite",): (invite, ()),
    ("pending",): (pending, ()),
    ("approve",): (approve, ("[KEEPER…]",)),
    ("forget",): (forget, ("KEEPER",)),
    ("backup",): (backup, ("FILE",)),
}


def admin(call):
    """Find the action that the words name, and run it."""
    for words, (run, more) in ACTIONS.items():
        if tuple(call.words[:len(words)]) == words:
            rest = call.words[len(words):]
            if len(rest) != len(more) and more != ("[KEEPER…]",):
                raise errors.UsageError(detail=f"admin {' '.join(words)} takes {' '.join(more) or 'no more words'}", verb="admin")
            return run(call, *rest)
    known = ", ".join(" ".join(words) for words in ACTIONS)
    raise errors.UsageError(detail=f"admin: {' '.join(call.words[:2])!r} is none of: {known}", verb="admin")


def _parse_role(text):
    if text not in ("reader", "writer", "admin"):
        raise ValueError(f"{text!r} is none of reader, writer, admin")
    return text


VERBS = {
    "admin": options.Verb("admin", admin, "user add|list|remove|rotate [NAME] | invite | pending | approve [KEEPER…] | forget KEEPER | backup FILE", "Users and their keys, and codes by which keepers join; what waits for a human.", (
        options.Option(("--role",), "ROLE", "of a new user: reader, writer or admin", _parse_role),
        options.flag("--force", help="of forget: even when it has the last copy of something, which is then lost"),
        options.Option(("--home",), "PATH", "confines a new user to this path and what is below it (default /)"),
    ), 1, None, """
  dfs admin user add anna --role writer --home /anna     prints the key once: a line for a file of mode 600
  dfs admin user list
  dfs admin user rotate anna                             a new key; the old one opens nothing from now on
  dfs admin user remove anna
  dfs admin invite                                       prints a command by which one keeper joins, within 15 minutes
  dfs admin pending                                      drops of an improbable share of a keeper's blocks, which wait
  dfs admin approve k3                                   lets them go (without a KEEPER: all that wait now)
  dfs admin backup catalog.db                            a copy of the catalog, while the cluster runs
  dfs admin forget k3                                    a dead keeper that will never return: repair stops waiting for it
""", settings.CLIENT),
}
