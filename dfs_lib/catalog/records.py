"""What every operation of the catalog is: a frozen record that the log can keep and give back.

Never touches a table: `operations` and `block_operations` do.
"""

from dataclasses import dataclass, fields
import json

from dfs_lib import errors

# A value of JSON types as the shortest text.
encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
_BY_NAME = {}


class Operation:
    """Base of every operation. logged: whether it stands in the log; asked: whether it carries an `op` to be asked again by;
    grows: whether it adds what can do without being added, which a full disk refuses first."""

    logged = True
    grows = False
    asked = timed = False

    def body(self):
        """The fields as JSON text."""
        return encode(self.__dict__)

    def run(self, tx):
        """Make the change through tx (transaction.Transaction); the result, of JSON types. Raises a Refusal."""
        raise NotImplementedError


def operation(cls):
    """A frozen record, known to the log under its class's name."""
    cls = dataclass(frozen=True)(cls)
    names = [field.name for field in fields(cls)]
    # (Not `name`: an operation may have a field of that name.)
    cls.kind, cls.asked, cls.timed = cls.__name__, "op" in names, "at" in names
    _BY_NAME[cls.kind] = cls
    return cls


def from_log(name, body):
    """The operation a log row stands for. Raises CatalogDamaged for a name this program does not know."""
    cls = _BY_NAME.get(name)
    if cls is None:
        raise errors.CatalogDamaged(path="log", detail=f"it holds an operation {name!r} that this program does not know")
    return cls(**json.loads(body))
