"""Every message and its code: one table, whose first half is here. A message that is in neither half does not exist.

Here is what each conversation begins with, and names: all that `ls` needs. `further_messages.py` has the other half, and is loaded
when the first of its messages is asked for, by name or by code: making ninety classes would cost each start of `ls` over a
millisecond. To everybody else all of them, and BY_CODE {code: class}, are attributes of this module.

A *request* asks and names its answers; a *notice* is a request whose answer is an empty acknowledgement; a *continuation*
carries more of a body. `who` says which roles may send it, `body` how many raw bytes may follow. docs/protocol.md is
written from this table (`python3 docs/write_protocol.py`), and a test compares them.
"""

from dfs_lib import errors, model
from dfs_lib.wire import fields as f
from dfs_lib.wire import json_text

PROTOCOL_VERSION = 3

CLIENT, KEEPER, MASTER = "client", "keeper", "master"
# The cluster that a master without a catalog names while it makes one anew, and a keeper that no master has taken in yet.
NO_CLUSTER = "0" * 32
JOINER = "joiner"  # a keeper that has a join code and no key yet: it may join, and nothing else
EVERYONE = frozenset((CLIENT, KEEPER, MASTER))
NODES = frozenset((KEEPER, MASTER))
CLIENTS = frozenset((CLIENT,))
KEEPERS = frozenset((KEEPER,))
JOINERS = frozenset((JOINER,))

_encode = json_text.encode
_decode = json_text.decode_object


class Message:
    """Base of all messages. Values are attributes; an optional field left out is None; lists and objects are plain JSON."""

    __slots__ = ()
    code = 0
    kind = ""
    checks = ()
    known = frozenset()
    answers = ()
    who = frozenset()
    max_body = 0
    doc = ""

    def __init__(self, **values):
        for name, _call, is_optional in self.checks:
            value = values.pop(name, None)
            if value is None and not is_optional:
                raise errors.Misuse(detail=f"{type(self).__name__} needs {name}")
            setattr(self, name, value)
        if values:
            raise errors.Misuse(detail=f"{type(self).__name__} has no {sorted(values)}")

    def to_header(self):
        """The JSON header as bytes."""
        _note_sent(type(self))
        values = {}
        for name, _call, _optional in self.checks:
            value = getattr(self, name)
            if value is not None:
                values[name] = value
        return _encode(values).encode() if values else b"{}"

    def __eq__(self, other):
        return type(self) is type(other) and all(getattr(self, n) == getattr(other, n) for n, _c, _o in self.checks)

    __hash__ = None

    def __repr__(self):
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name, _c, _o in self.checks if getattr(self, name) is not None)
        return f"{type(self).__name__}({shown[:400]})"


_known = {}  # code: class, of the halves that are loaded
# A kind of message is often met once so many have come: more than any single command hears of one kind. A long one, with a list of a
# hundred files, takes as long to check as many short ones and counts as so many.
OFTEN, SHORT = 64, 1024
_met, _quick = {}, {}  # code: how many have come; fields.quick of those met often
_sent = {}  # code: how many were sent


def define(kind, code, name, doc, /, *, who=EVERYONE, answers=(), max_body=0, **fields):
    """One row of the table: a class whose instances hold the fields named."""
    checks = tuple((field, check.call, check.optional) for field, check in fields.items())
    members = {
        "__slots__": tuple(fields), "__module__": __name__, "__doc__": doc, "code": code, "kind": kind, "doc": doc,
        "checks": checks, "known": frozenset(fields), "described": fields, "answers": answers, "who": who, "max_body": max_body,
    }
    cls = type(name, (Message,), members)
    if code in _known:
        raise errors.Misuse(detail=f"code {code} is used twice")
    _known[code] = cls
    return cls


def request(code, name, doc, answer, /, **rest):
    return define("request", code, name, doc, answers=(answer,), **rest)


def answer(code, name, doc, /, **rest):
    return define("answer", code, name, doc, **rest)


def _all():
    """{code: class} of every message; loads the other half."""
    if "BY_CODE" not in globals():
        from dfs_lib.wire import further_messages

        globals().update({name: value for name, value in vars(further_messages).items() if name[0].isupper()}, BY_CODE=_known)
    return _known


def __getattr__(name):
    """What only the other half has: Python asks here once, and finds it among our own names from then on."""
    if name[0].isupper():
        _all()
        if name in globals():
            return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def decode(type_code, header):
    """The message of this code from its JSON header bytes. Raises BadMessage and nothing else."""
    cls = _known.get(type_code) or _all().get(type_code)
    if cls is None:
        raise errors.BadMessage(detail=f"unknown message type {type_code}")
    try:
        values = _decode(str(header, "utf-8"))
    except (ValueError, RecursionError) as e:
        raise errors.BadMessage(detail=f"{cls.__name__}: its header is not a JSON object ({type(e).__name__})") from e
    message = cls.__new__(cls)
    quick = _quick.get(type_code) or _note_met(cls, len(header))
    if quick is not None and quick(values, message):
        return message
    n_seen = 0
    for name, call, is_optional in cls.checks:
        value = values.get(name)
        if value is not None:
            call(value, name)
            n_seen += 1
        elif not is_optional:
            raise errors.BadMessage(detail=f"{cls.__name__}: {name} is missing")
        elif name in values:
            n_seen += 1
        setattr(message, name, value)
    if n_seen != len(values):
        raise errors.BadMessage(detail=f"{cls.__name__}: unknown field {sorted(set(values) - cls.known)[0][:40]!r}")
    return message


def _note_met(cls, n_bytes):
    """One more of this kind has come: from some number on it is worth a function of its own, which takes a millisecond to make.

    Returns that function, or None.
    """
    n = _met[cls.code] = _met.get(cls.code, 0) + 1 + n_bytes // SHORT
    if n < OFTEN:
        return None
    quick = _quick[cls.code] = f.quick(cls.described, is_message=True)
    return quick


def _note_sent(cls):
    """One more of this kind was sent: from some number on the class gets methods of its own to make and to send one."""
    n = _sent[cls.code] = _sent.get(cls.code, 0) + 1
    if n >= OFTEN:
        make, cls.to_header = f.quick_sender(cls.checks, Message.__init__, _encode)
        cls.__init__ = make


# -- shapes that several messages share ---------------------------------------------------------------------------------
REFUSAL = f.record(error=f.text(64), message=f.text(8192), facts=f.FACTS)
ENTRY = f.row(f.PATH, f.one_of(model.FILE, model.DIRECTORY), f.SIZE, f.COUNT, f.TIME_AT, f.integer(0, model.MAX_COPIES),
              f.optional(f.COUNT))

# -- handshake ----------------------------------------------------------------------------------------------------------
Hello = define("handshake", 1, "Hello", "first word of whoever connects; nonce is fresh, port is the one dialled, tls how it could encrypt",
                version=f.COUNT, role=f.one_of(CLIENT, KEEPER, MASTER, JOINER), identity=f.text(96), auth=f.one_of("hmac", "none"),
                nonce=f.NONCE, port=f.integer(0, 65535), tls=f.optional(f.one_of("psk", "certificate", "psk certificate")))
Challenge = define("handshake", 2, "Challenge", "the server's nonce and its proof that it holds the same secret",
                    version=f.COUNT, role=f.one_of(KEEPER, MASTER), cluster_id=f.CLUSTER_ID, auth=f.one_of("hmac", "none"),
                    nonce=f.NONCE, proof=f.PROOF)
Proof = define("handshake", 3, "Proof", "the asker's proof; requests may follow at once", proof=f.PROOF)

# -- answers to any request ---------------------------------------------------------------------------------------------
Refused = answer(4, "Refused", "no, and why: a stable code, a sentence, facts", error=f.text(64), message=f.text(8192), facts=f.FACTS)
Working = answer(5, "Working", "interim: still alive and at it (a slow disk); silence means trouble, this does not")
Done = answer(6, "Done", "yes", facts=f.optional(f.FACTS))
Ping = request(7, "Ping", "are you there?", Done)

# -- names: client to master --------------------------------------------------------------------------------------------
STAT = f.record(refused=f.optional(REFUSAL), entry=f.optional(ENTRY), block_size=f.optional(f.SIZE),
                sha256=f.optional(f.hexadecimal(64)), n_blocks=f.optional(f.COUNT),
                blocks=f.optional(f.list_of(f.record(index=f.INDEX, block=f.BLOCK_ID, size=f.SIZE,
                                                     keepers=f.list_of(f.KEEPER_ID, 0, 64)), 0, 1000)))
Stats = answer(41, "Stats", "one result a path", results=f.list_of(STAT, 1, 256))
Stat = request(40, "Stat", "what is known of paths; `blocks` adds up to 1000 blocks from index `first`", Stats, who=CLIENTS,
               paths=f.list_of(f.PATH, 1, 256), blocks=f.boolean(), first=f.optional(f.INDEX))
Listed = answer(43, "Listed", "entries in name order: [name, type, size, version, mtime, copies wanted, copies had]",
                entries=f.list_of(ENTRY, 0, 2000), more=f.boolean())
List = request(42, "List", "a directory's entries after a name", Listed, who=CLIENTS, path=f.PATH, after=f.optional(f.NAME),
               limit=f.integer(1, 2000), have=f.boolean())
MakeDirectory = request(44, "MakeDirectory", "a directory, with its parents if asked", Done, who=CLIENTS, path=f.PATH,
                        parents=f.boolean(), op=f.OPERATION_ID)
Remove = request(46, "Remove", "a file or an empty directory, or a whole tree; expected: the version that the file must still have", Done,
                 who=CLIENTS, path=f.PATH, recursive=f.boolean(), op=f.OPERATION_ID, expected=f.optional(f.VERSION))
Rename = request(48, "Rename", "one name to another; a file there is replaced in the same transaction", Done, who=CLIENTS,
                 source=f.PATH, target=f.PATH, no_clobber=f.boolean(), op=f.OPERATION_ID)
Copy = request(50, "Copy", "a second name for the same bytes; nothing is moved", Done, who=CLIENTS, source=f.PATH, target=f.PATH,
               no_clobber=f.boolean(), op=f.OPERATION_ID)
SetCopies = request(52, "SetCopies", "copies wanted of a file; repair makes it so", Done, who=CLIENTS, path=f.PATH, copies=f.COPIES,
                    op=f.OPERATION_ID)
RecordSum = request(54, "RecordSum", "SHA-256 of a version whose every byte the sender has read and checked", Done, who=CLIENTS,
                    version=f.VERSION, sha256=f.hexadecimal(64))
Used = answer(57, "Used", "of a tree: names, bytes as users see them, bytes on keepers", files=f.COUNT, directories=f.COUNT,
              size=f.COUNT, stored=f.COUNT)
Usage = request(56, "Usage", "how much a tree holds", Used, who=CLIENTS, path=f.PATH)
