"""Our records behave as named tuples do."""

import copy
import pickle
from collections import namedtuple

import pytest

from dfs_lib.records import record

Point = record("Point", "x y label", defaults=("", ))
Model = namedtuple("Point", "x y label", defaults=("",))


def test_a_record_is_a_tuple_with_names():
    point = Point(1, y=2)
    assert point == (1, 2, "") == Model(1, 2) and repr(point) == repr(Model(1, 2)) and hash(point) == hash((1, 2, ""))
    assert (point.x, point.y, point.label) == (1, 2, "") and Point._fields == Model._fields
    x, y, _label = point
    assert (x, y) == (1, 2) and point._replace(label="b", x=0) == (0, 2, "b")
    assert Point.__module__ == __name__ and Point.__name__ == "Point"


def test_copies_and_pickles():
    point = Point(1, [2], "c")
    for other in (copy.copy(point), copy.deepcopy(point), pickle.loads(pickle.dumps(point))):
        assert other == point and type(other) is Point


def test_refusals():
    for wrong in (lambda: Point(1), lambda: Point(1, 2, 3, 4), lambda: Point(1, 2, z=3)):
        with pytest.raises(TypeError):
            wrong()
    with pytest.raises(ValueError):
        Point(1, 2)._replace(z=1)
    with pytest.raises(AttributeError):
        Point(1, 2).x = 3
    with pytest.raises(AttributeError):
        Point(1, 2).z = 3
