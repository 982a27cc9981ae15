"""Who may ask for what: the one place that decides, before any handler sees the request; and the audit log of it.

    message ──▶ the role it needs ──▶ the paths it names against the user's home ──▶ handler
                     └── NotPermitted ──────────┘ one audit line each, exit 6

Roles are keys of clients; what masters and keepers may send is settled by the messages' own table (`who`). A message that is not
in RULES needs an administrator: a new one is closed until somebody has thought about it.

A home confines: all that a user names has to lie at or below it, and the home itself may not be removed or renamed. Directories
above it may be looked at by name (`Stat`), because clients do that on the way down; they cannot be listed. What an answer names by itself
(`Status`, `Inspect`) its handler filters by `home_of`.

Audit lines (logger `dfs.audit`): what changes something, with its result, at INFO; each refusal at WARNING, repeated ones of one
user and kind once a minute with their number.
"""

import json
import logging
from collections import namedtuple
from json.encoder import encode_basestring_ascii as _quoted

from dfs_lib import errors, model
from dfs_lib.net.servers import Complaints
from dfs_lib.wire import messages, trust

audit = logging.getLogger("dfs.audit")

READER, WRITER, ADMIN = 1, 2, 3
ROLES = {"reader": READER, "writer": WRITER, "admin": ADMIN}
_NAMES = {level: name for name, level in ROLES.items()}

# role: the least that is needed; paths(message) → paths that must lie in the home; inside(message) → paths that must lie truly
# below it; versions(message) → versions whose file must lie there; above: directories above the home will do as well; changes:
# it stands in the audit log.
Rule = namedtuple("Rule", "role paths inside versions above changes")


def _none(_message):
    return ()


def _rule(role, paths=_none, inside=_none, versions=_none, above=False, changes=False):
    return Rule(role, paths, inside, versions, above, changes)


def _path(message):
    return (message.path,)


RULES = {
    messages.Ping: _rule(READER),
    messages.Identify: _rule(READER),
    messages.Examine: _rule(READER),
    messages.Status: _rule(READER),
    messages.MeasureTraffic: _rule(READER),
    messages.Inspect: _rule(READER, _path),
    # Its answer may name anybody's paths (of shared blocks, of a keeper's): only for those whom no home confines.
    messages.Why: _rule(READER, lambda m: ("/",)),
    messages.ReplicaBad: _rule(READER),  # starts a check by the keeper itself, and tells nothing
    messages.Stat: _rule(READER, lambda m: m.paths, above=True),
    messages.List: _rule(READER, _path),
    messages.Usage: _rule(READER, _path),
    messages.OpenDownload: _rule(READER, lambda m: [one["path"] for one in m.files],
                                 versions=lambda m: [one["version"] for one in m.files if one["version"] is not None]),
    messages.OpenUpload: _rule(WRITER, inside=lambda m: [one["path"] for one in m.uploads]),
    # An upload belongs to the identity that opened it, and was opened for a path that was checked.
    messages.GrantBlocks: _rule(WRITER),
    messages.RegrantBlock: _rule(WRITER),
    messages.ListStored: _rule(WRITER),
    messages.RecordBlocks: _rule(WRITER),
    messages.CommitUpload: _rule(WRITER, changes=True),
    messages.AbandonUpload: _rule(WRITER),
    messages.MakeDirectory: _rule(WRITER, _path, changes=True),
    messages.Remove: _rule(WRITER, inside=_path, changes=True),
    messages.Rename: _rule(WRITER, inside=lambda m: (m.source, m.target), changes=True),
    messages.Copy: _rule(WRITER, lambda m: (m.source,), inside=lambda m: (m.target,), changes=True),
    messages.SetCopies: _rule(WRITER, _path, changes=True),
    messages.RecordSum: _rule(WRITER, versions=lambda m: (m.version,)),
}
_ADMINISTRATION = _rule(ADMIN, changes=True)
# What of it only looks on needs the role as well, but is no change, and people poll it.
_LOOKING = _rule(ADMIN)
_ONLY_LOOKS = {
    messages.ListUsers: lambda m: True, messages.Scrub: lambda m: not m.start, messages.Rebalance: lambda m: m.dry_run or not m.start,
    messages.TryKeepers: lambda m: True, messages.FetchBackup: lambda m: True,
    messages.Drain: lambda m: m.draining is None, messages.Pending: lambda m: not m.approve,
}


# What changes nothing, whoever asks and however: most of what is asked.
_QUIET = frozenset(kind for kind, rule in RULES.items() if not rule.changes)

# What people call what they asked for; the log says the message.
_PUTTING = "putting files"
_WORDS = {
    messages.OpenUpload: _PUTTING, messages.GrantBlocks: _PUTTING, messages.RegrantBlock: _PUTTING, messages.ListStored: _PUTTING,
    messages.RecordBlocks: _PUTTING, messages.CommitUpload: _PUTTING, messages.AbandonUpload: _PUTTING,
    messages.MakeDirectory: "making directories", messages.Remove: "removing files", messages.Rename: "renaming files",
    messages.Copy: "copying files", messages.SetCopies: "changing how many copies there are", messages.RecordSum: "keeping a checksum",
    messages.AddUser: "adding users", messages.ListUsers: "listing users", messages.RemoveUser: "removing users",
    messages.RotateUser: "making a user's new key", messages.Invite: "inviting a keeper", messages.Inspect: "having every copy read again",
    messages.Scrub: "a scrub", messages.Rebalance: "a rebalance", messages.Drain: "draining keepers", messages.Pending: "what waits for an approval",
    messages.Forget: "forgetting a keeper", messages.TryKeepers: "trying the keepers' ports", messages.MakeBackup: "a backup",
    messages.FetchBackup: "a backup",
}


class Permissions:
    """Asked by the service before each handler, and told afterwards how it went."""

    def __init__(self, tracker):
        self._t = tracker
        self._complaints = Complaints(tracker.clock)

    def rule(self, message):
        """The Rule for one message."""
        kind = type(message)
        if kind is messages.Inspect and message.verify:
            return _LOOKING  # every replica is read again: for whoever may order a scrub
        rule = RULES.get(kind)
        if rule is not None:
            return rule
        only_looks = _ONLY_LOOKS.get(kind)
        return _LOOKING if only_looks is not None and only_looks(message) else _ADMINISTRATION

    def check(self, message, exchange):
        """Raise NotPermitted unless the peer may ask this. Keepers and masters may: the messages' table has let them through."""
        if exchange.peer.role != messages.CLIENT or exchange.peer.identity == trust.ADMIN:
            return
        try:
            self._check(message, exchange.peer.identity)
        except errors.NotPermitted as e:
            self._refused(message, exchange, e)
            raise

    def _check(self, message, identity):
        rule, what = self.rule(message), _WORDS.get(type(message), type(message).__name__)
        user = self._t.users.known(identity)
        if user is None:
            raise errors.NotPermitted(f"user {identity} was removed, or has a newer key", user=identity)
        if ROLES[user.role] < rule.role:
            raise errors.NotPermitted(f"{user.name} is a {user.role}, and {what} needs {_article(_NAMES[rule.role])}",
                                      user=user.name, role=user.role)
        if user.home != "/":
            self._check_home(message, rule, user)

    def _check_home(self, message, rule, user):
        for path in rule.paths(message):
            if not is_within(path, user.home) and not (rule.above and is_within(user.home, path)):
                raise _outside(user, path)
        for path in rule.inside(message):
            if not is_within(path, user.home):
                raise _outside(user, path)
            if model.clean_path(path) == user.home:
                raise errors.NotPermitted(f"{user.name} may change what is in {user.home}, and not {user.home} itself: it is the home that an "
                                          "administrator gave", user=user.name, home=user.home)
        for version in rule.versions(message):
            # The path beside a version is the asker's word; the file's own path is what counts.
            row = self._t.queries().version(version)
            path = row and self._t.queries().path_of_entry(row.entry)
            if path is None or not is_within(path, user.home):
                raise errors.NotPermitted(f"{user.name} may only use what is in {user.home}, and version {version} is not",
                                          user=user.name, home=user.home)

    # -- the audit log --------------------------------------------------------------------------------------------------
    def _refused(self, message, exchange, error):
        self._t.count("requests_not_permitted")
        what = type(message).__name__
        n_held = self._complaints.due(f"{exchange.peer.identity} {exchange.peer_host} {what}")
        if n_held is not None:
            audit.warning("who=%s from=%s what=%s result=%s reason=%s repeated=%s", exchange.peer.identity, exchange.peer_host, what,
                          error.code, error.message, n_held)

    def note(self, message, exchange, answer, error=None):
        """A handler has answered, or refused with `error`: what was to change something stands in the audit log."""
        role = exchange.peer.role
        if role == messages.JOINER or role == messages.CLIENT and type(message) not in _QUIET and self.rule(message).changes:
            for what, result in _told(message, answer, error):
                audit.info("who=%s from=%s what=%s result=%s", exchange.peer.identity, exchange.peer_host, what, result)


def home_of(tracker, exchange):
    """The home that confines who asks; "/" confines nobody. exchange: None for the master itself."""
    if exchange is None or exchange.peer.role != messages.CLIENT or exchange.peer.identity == trust.ADMIN:
        return "/"
    user = tracker.users.known(exchange.peer.identity)
    if user is None:  # removed since `check` let the request through
        raise errors.NotPermitted(f"user {exchange.peer.identity} was removed, or has a newer key", user=exchange.peer.identity)
    return user.home


def name_within(queries, block, home):
    """A path of a block that may be told to whom `home` confines, or None."""
    return next((path for path, _version, _index in queries.paths_of_block(block) if is_within(path, home)), None)


def is_within(path, home):
    """Whether a path is the home or below it. One that the handler will refuse as no path at all passes."""
    try:
        path = model.clean_path(path)
    except errors.BadName:
        return True
    return home == "/" or path == home or path.startswith(home + "/")


def _outside(user, path):
    return errors.NotPermitted(f"{user.name} may only use what is in {user.home}, not {path[:300]}", user=user.name, home=user.home)


def _article(role):
    return f"an {role}" if role[0] in "aeiou" else f"a {role}"


_SECRET_FIELDS = ("op", "nonce")
_LONGEST = 9000  # characters of what an audit line says was asked


def _told(message, answer, error):
    """[(what was asked, how it ended)] of one request; a commit of many files is as many changes."""
    name = type(message).__name__
    if isinstance(answer, messages.UploadCommitted):
        return [(_committed(name, one), one["refused"]["error"] if one.get("refused") else "rejected" if one.get("rejected") else "done")
                for one in answer.results]
    fields = {field: getattr(message, field) for field in message.known if field not in _SECRET_FIELDS}
    if isinstance(message, messages.CommitUpload):
        fields = {"uploads": [one["upload"] for one in message.commits]}
    return [(f"{name} {_text(fields)}", "done" if error is None else error.code)]


def _committed(name, result):
    """The same of one commit, a line a file: what `_text` would say of three fields whose kinds are known, in a third of the time."""
    path, version, size = result.get("path"), result.get("version"), result.get("size")
    if path is None or version is None or size is None:
        return f"{name} {_text({'path': path, 'version': version, 'size': size})}"
    said = f'{{"path": {_quoted(path)}, "size": {size}, "version": {version}}}'
    return f"{name} {said[:_LONGEST]}"


def _text(fields):
    """One line, whatever a name holds."""
    return json.dumps({name: value for name, value in sorted(fields.items()) if value is not None})[:_LONGEST]
