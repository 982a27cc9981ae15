"""Checks for the fields of messages: each takes a value from JSON and returns it, or raises BadMessage and says where.

Never converts silently: what a peer sends has the right type and range, or the message is refused whole. Every text and
list has a ceiling.

A kind of message that comes often is checked by a function written for it (`quick`), in a third of the time: it says yes only to what
the checks take, and where it says no they are asked, which then refuse and say why, or take what is rare.
"""

from dfs_lib import errors, model

_HEX_DIGITS = b"0123456789abcdef"
_HEX = f"x.isascii() and not x.encode().translate(None, {_HEX_DIGITS!r})"  # the test of `_is_hex`


def _is_hex(value):
    """Whether a text has lower-case hex digits alone: nothing is left of it when those are deleted."""
    return value.isascii() and not value.encode().translate(None, _HEX_DIGITS)


def _bad(where, value, wanted):
    # Never the repr of a list or object: it may be a megabyte, or nested deeper than repr can follow.
    shown = f"{type(value).__name__} of {len(value)}" if isinstance(value, (list, dict)) else repr(value[:60] if isinstance(value, str) else value)
    return errors.BadMessage(detail=f"{where} is {shown[:60]}, not {wanted}")


class Check:
    """One field's check. `call(value, where)`; `describe` is how docs/protocol.md names the type.

    `describe` may be given as a function of no arguments: only the document's writer pays for the text.
    test: source of an expression that is true only for an `x` which `call` takes as it is; or a function of no arguments that
    returns one of `x` → bool; None: `call` itself.
    """

    __slots__ = ("call", "_describe", "optional", "test")

    def __init__(self, call, describe, optional=False, test=None):
        self.call, self._describe, self.optional, self.test = call, describe, optional, test

    @property
    def describe(self):
        return self._describe() if callable(self._describe) else self._describe


def text(max_characters, describe=None):
    """Any text that is valid Unicode, up to a length."""

    def check(value, where):
        if type(value) is not str or len(value) > max_characters:
            raise _bad(where, value, f"text of at most {max_characters} characters")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as e:
                raise _bad(where, value, "valid Unicode") from e
        return value

    return Check(check, describe or f"text ≤ {max_characters}", test=f"type(x) is str and len(x) <= {max_characters} and x.isascii()")


def hexadecimal(n_characters, describe=None):
    """Lower-case hex of exactly so many characters."""

    def check(value, where):
        if type(value) is not str or len(value) != n_characters or not _is_hex(value):
            raise _bad(where, value, f"{n_characters} hex digits")
        return value

    return Check(check, describe or f"hex {n_characters}", test=f"type(x) is str and len(x) == {n_characters} and {_HEX}")


def checksums(max_chunks, describe=None):
    """Chunk checksums in hex, 8 digits each."""

    def check(value, where):
        if type(value) is not str or len(value) > 8 * max_chunks or len(value) % 8 or not _is_hex(value):
            raise _bad(where, value, "checksums of 8 hex digits each")
        return value

    return Check(check, describe or "hex, 8 a chunk", test=f"type(x) is str and len(x) <= {8 * max_chunks} and not len(x) % 8 and {_HEX}")


def integer(low, high, describe=None):
    """A whole number in a range (and no bool)."""

    def check(value, where):
        if type(value) is not int or not low <= value <= high:
            raise _bad(where, value, f"a whole number from {low} to {high}")
        return value

    return Check(check, describe or f"int {low}…{high}", test=f"type(x) is int and {low} <= x <= {high}")


def number(low, high, describe=None):
    """A finite number in a range."""

    def check(value, where):
        if type(value) not in (int, float) or not low <= value <= high:
            raise _bad(where, value, f"a number from {low} to {high}")
        return value

    return Check(check, describe or "number", test=f"(type(x) is float or type(x) is int) and {low!r} <= x <= {high!r}")


def boolean():
    def check(value, where):
        if value is not True and value is not False:
            raise _bad(where, value, "true or false")
        return value

    return Check(check, "bool", test="(x is True or x is False)")


def one_of(*values):
    def check(value, where):
        if type(value) is not str or value not in values:
            raise _bad(where, value, " or ".join(values))
        return value

    return Check(check, lambda: " · ".join(f"`{value}`" for value in values), test=f"type(x) is str and x in {values!r}")


def list_of(item, low, high):
    call = item.call

    def check(value, where):
        if type(value) is not list or not low <= len(value) <= high:
            raise _bad(where, value, f"a list of {low} to {high}")
        for one in value:
            call(one, where)
        return value

    def quick():
        names = {}
        return _made([f"if type(xs) is not list or not {low} <= len(xs) <= {high}: return False",
                      "for x in xs:", f"    if not ({_test(item, 'list', names)}): return False"], names)

    return Check(check, lambda: f"list of ≤ {high}: {item.describe}", test=quick)


def mapping(max_entries, value_check):
    """An object with free keys (≤ 64 characters) and values of one type."""
    key_check, call = text(64).call, value_check.call

    def check(value, where):
        if type(value) is not dict or len(value) > max_entries:
            raise _bad(where, value, f"an object of at most {max_entries} entries")
        for key, one in value.items():
            key_check(key, where)
            call(one, where)
        return value

    return Check(check, lambda: f"object of ≤ {max_entries}: {value_check.describe}")


def record(**fields):
    """An object with these fields and no others; one left out or null becomes None where it is optional."""
    known = frozenset(fields)
    rows = tuple((name, field.call, field.optional) for name, field in fields.items())

    def check(value, where):
        if type(value) is not dict:
            raise _bad(where, value, "an object")
        for name, call, is_optional in rows:
            one = value.get(name)
            if one is not None:
                call(one, name)
            elif is_optional:
                value[name] = None
            else:
                raise errors.BadMessage(detail=f"{where}: {name} is missing")
        if len(value) > len(rows):
            raise errors.BadMessage(detail=f"{where}: unknown field {sorted(set(value) - known)[0][:40]!r}")
        return value

    def describe():
        return "{" + ", ".join(f"{name}{'?' if field.optional else ''}: {field.describe}" for name, field in fields.items()) + "}"

    return Check(check, describe, test=lambda: quick(fields))


def row(*columns):
    """A list with one value a column: what long listings use instead of objects."""
    checks = tuple((column.call, column.optional) for column in columns)

    def check(value, where):
        if type(value) is not list or len(value) != len(checks):
            raise _bad(where, value, f"a row of {len(checks)}")
        for one, (call, is_optional) in zip(value, checks):
            if one is not None or not is_optional:
                call(one, where)
        return value

    def quick():
        names, lines = {}, [f"if type(xs) is not list or len(xs) != {len(columns)}: return False"]
        for at, column in enumerate(columns):
            lines += [f"x = xs[{at}]", f"if {'x is not None and ' if column.optional else ''}not ({_test(column, 'row', names)}): return False"]
        return _made(lines, names)

    return Check(check, lambda: "[" + ", ".join(column.describe for column in columns) + "]", test=quick)


def optional(field):
    """The same field, which may be left out or null."""
    return Check(field.call, field._describe, optional=True, test=field.test)


def quick(fields, is_message=False):
    """q(dict) → whether `record(**fields)` takes it; an optional field that was left out is None in it then.

    is_message: q(dict, message), which also becomes its attributes.
    """
    names, lines = {}, ["if type(xs) is not dict: return False", "get = xs.get"]
    for name, field in fields.items():
        lines.append(f"x = get({name!r})")
        if field.optional:
            lines += [f"if x is None: xs[{name!r}] = None", f"elif not ({_test(field, name, names)}): return False"]
        else:
            lines.append(f"if x is None or not ({_test(field, name, names)}): return False")
        if is_message:
            lines.append(f"message.{name} = x")
    lines.append(f"if len(xs) != {len(fields)}: return False")
    return _made(lines, names, ", message" if is_message else "")


def quick_sender(checks, careful, encode):
    """(__init__, to_header) for a kind of message that is sent often: they do what Message's do, without a loop over its fields.

    careful: Message.__init__, which refuses what is wrong and says why; encode: JSON.
    """
    names = [name for name, _call, _optional in checks]
    if not names:
        return careful, lambda self: b"{}"
    wrong = " or ".join([f"{name} is None" for name, _call, is_optional in checks if not is_optional] + ["_others"])
    given = ", ".join(f"{name}={name}" for name in names)
    lines = [f"def make(self, *, {', '.join(f'{name}=None' for name in names)}, **_others):",
             f"    if {wrong}: return _careful(self, {given}, **_others)",
             *(f"    self.{name} = {name}" for name in names),
             "def to_header(self):"]
    n_first = next((n for n, (_name, _call, is_optional) in enumerate(checks) if is_optional), len(names))
    lines.append(f"    values = {{{', '.join(f'{name!r}: self.{name}' for name in names[:n_first])}}}")
    for name in names[n_first:]:
        lines += [f"    x = self.{name}", f"    if x is not None: values[{name!r}] = x"]
    found = {"_careful": careful, "_encode": encode}
    exec("\n".join([*lines, "    return _encode(values).encode()"]), found)
    return found["make"], found["to_header"]


def _test(check, where, names):
    """Source of the test of `x`; what it calls goes into `names`."""
    if type(check.test) is str:
        return check.test
    name = f"test_{len(names)}"
    if check.test is None:
        names[name] = check.call
        return f"{name}(x, {where!r}) is x"
    names[name] = check.test()
    return f"{name}(x)"


def _made(lines, names, more=""):
    exec(f"def made(xs{more}):\n    " + "\n    ".join([*lines, "return True"]), names)
    return names.pop("made")


def _plain(value, where, depth=0):
    """Any JSON value of bounded size: for facts that only people read."""
    if depth > 3:
        raise _bad(where, value, "flatter")
    if isinstance(value, str):
        return _PLAIN_TEXT.call(value, where)
    if isinstance(value, float) and not -1e308 <= value <= 1e308:
        raise _bad(where, value, "a finite number")  # JSON's 1e999: it could not be sent on
    if isinstance(value, (list, dict)):
        if len(value) > 1000:
            raise _bad(where, value, "shorter")
        for one in value.values() if isinstance(value, dict) else value:
            _plain(one, where, depth + 1)
        if isinstance(value, dict):
            for key in value:
                _PLAIN_KEY.call(key, where)
    return value


_PLAIN_TEXT, _PLAIN_KEY = text(8192), text(64)
FACTS = Check(mapping(32, Check(_plain, "any")).call, "object")

BLOCK_ID = hexadecimal(32, "block id")
KEEPER_ID = hexadecimal(32, "keeper id")
CLUSTER_ID = hexadecimal(32, "cluster id")
NONCE = hexadecimal(64, "nonce")
PROOF = hexadecimal(64, "proof")
SIZE = integer(0, model.MAX_FILE_SIZE, "bytes")
COUNT = integer(0, 1 << 53, "count")
VERSION = integer(1, 1 << 53, "version")
EPOCH = integer(0, 1 << 20, "epoch")
INDEX = integer(0, 1 << 40, "index")
PORT = integer(1, 65535, "port")
COPIES = integer(1, model.MAX_COPIES, "copies")
# Longer than any path may be, so that one a little too long is refused by name (BadName) and not as a broken message.
PATH = text(4 * model.MAX_PATH_BYTES, "path")
NAME = text(model.MAX_PART_BYTES, "name")
HOST = text(255, "host")
OPERATION_ID = text(64, "operation id")
UPLOAD_ID = hexadecimal(32, "upload id")
TIME_AT = number(-1e11, 1e11, "Unix seconds")
SECONDS = number(0, 1e9, "seconds")
# 1024 chunks: a block of 1 GiB, the largest block size that settings allow.
CHECKSUMS = checksums(1024)
TICKET = text(512, "ticket")
RECEIPT = record(keeper=KEEPER_ID, proof=hexadecimal(32, "receipt"))
PORTS = list_of(PORT, 1, 16)
