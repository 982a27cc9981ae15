"""Named tuples as `collections.namedtuple` makes them, without the import of `collections`: it would cost each start of a client 2 ms.

Knows nothing of what the records hold.
"""

import sys

try:
    from _collections import _tuplegetter as _field  # what namedtuple itself uses: reading a field is as quick as an index
except ImportError:
    def _field(index, doc):
        return property(lambda self: self[index], doc=doc)


class _Record(tuple):
    __slots__ = ()
    _fields = ()

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self))})"

    def __getnewargs__(self):
        return tuple(self)

    def _replace(self, /, **changes):
        """The same record with some fields changed."""
        made = type(self)(*(changes.pop(name, value) for name, value in zip(self._fields, self)))
        if changes:
            raise ValueError(f"there is no field {sorted(changes)}")
        return made


def record(name, fields, defaults=()):
    """A class of immutable tuples whose values have names.

    name: of the class, which belongs to the module that calls; fields: names with spaces between; defaults: values of the last ones.
    """
    names = tuple(fields.split())
    arguments = ", ".join(names)
    make = eval(f"lambda _class, {arguments}: _new(_class, ({arguments},))", {"_new": tuple.__new__, "__builtins__": {}})
    make.__defaults__ = tuple(defaults)
    members = {"__slots__": (), "__new__": make, "_fields": names, "__match_args__": names,
               "__module__": sys._getframe(1).f_globals["__name__"]}
    for index, field in enumerate(names):
        members[field] = _field(index, field)
    return type(name, (_Record,), members)
