"""The one road from a text to a name (F32), and small arithmetic."""

import itertools
import os
import random
import unicodedata

import pytest

from dfs_lib import errors, model


@pytest.mark.parametrize("text, wanted", [
    ("/", "/"), ("//", "/"), ("/a", "/a"), ("/a/", "/a"), ("/a b/c\\d/…", "/a b/c\\d/…"), ("/.a/..b/...", "/.a/..b/..."), ("/e\u0301", "/\u00e9"),
    ("/" + "x" * 255, "/" + "x" * 255), ("/" + "ü" * 127, "/" + "ü" * 127), ("/-rf/*/~/$HOME", "/-rf/*/~/$HOME"), ("/\U0001f600", "/\U0001f600"),
    ("/" + "/".join(["x" * 15] * 256), "/" + "/".join(["x" * 15] * 256)),
])
def test_names_as_they_are_kept(text, wanted):
    assert model.clean_path(text) == wanted
    assert model.clean_path(wanted) == wanted


@pytest.mark.parametrize("text, words", [
    # F32: path traversal
    ("/..", "a part '..'"), ("/a/../b", "a part '..'"), ("/a/..", "a part '..'"), ("/.", "a part '.'"), ("/./a", "a part '.'"),
    ("a", "does not start with /"), ("", "does not start with /"), ("../a", "does not start with /"), ("C:\\x", "does not start with /"),
    ("///", "empty part"), ("/a//b", "empty part"), ("//a", "empty part"), ("/a//", "empty part"),
    # NUL and control bytes
    ("/a\0b", "U+0000"), ("/\0", "U+0000"), ("/a\nb", "U+000A"), ("/\x1b[2J", "U+001B"), ("/\x7f", "U+007F"), ("/\x85", "U+0085"), ("/\x9b", "U+009B"),
    ("/a\u2028b", "U+2028"), ("/\u2029", "U+2029"), ("/a\r", "U+000D"), ("/\t", "U+0009"),
    # over 255 bytes a part, over 4096 in all
    ("/" + "x" * 256, "over 255 bytes"), ("/" + "ü" * 128, "over 255 bytes"), ("/a/" + "x" * 5000, "over 4096 bytes"),
    ("/" + "/".join(["x" * 15] * 257), "over 4096 bytes"),
    # surrogate names: what os.fsdecode makes of bytes that are not UTF-8
    (os.fsdecode(b"/a\xff"), "not valid Unicode"), ("/\ud800", "not valid Unicode"), ("/a/\udfff/b", "not valid Unicode"),
    (None, "not text"), (5, "not text"), (b"/a", "not text"),
])
def test_names_that_are_refused(text, words):
    with pytest.raises(errors.BadName) as caught:
        model.clean_path(text)
    assert words in caught.value.message
    assert caught.value.message.encode() and caught.value.message.isprintable()


def test_two_spellings_of_one_name_are_one_name():
    for text in ("/\u00e9", "/e\u0301", "/\u212b", "/A\u030a"):
        assert unicodedata.is_normalized("NFC", model.clean_path(text))
    assert model.clean_path("/e\u0301") == model.clean_path("/\u00e9")
    assert model.clean_path("/A") != model.clean_path("/a")  # letters' case is kept and counts


def test_normalizing_cannot_smuggle_in_a_separator_or_dots():
    """No character's NFC form holds a slash, dot, NUL or control: what was checked after it stays true."""
    for number in itertools.chain(range(0xD800), range(0xE000, 0x110000)):
        character = chr(number)
        plain = unicodedata.normalize("NFC", character)
        if plain != character:
            assert not set(plain) & {"/", ".", "\0"} and all(part >= " " for part in plain)


def test_random_texts_are_cleaned_or_refused():
    dice = random.Random(4)
    alphabet = "ab/.\0\n\x7f\x85üe\u0301\ud800\u2028 -\\\U0001f600"
    for _ in range(20_000):
        text = "/" * (dice.random() < 0.9) + "".join(dice.choices(alphabet, k=dice.randrange(12)))
        try:
            path = model.clean_path(text)
        except errors.BadName:
            continue
        assert path == "/" or path.startswith("/") and not path.endswith("/")
        assert path == "/" or all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in path[1:].split("/"))
        assert model.clean_path(path) == path and not set(path) & set("\0\n\x7f\x85\ud800\u2028")


def test_parents_and_joins():
    for path, parent, name in (("/a/b/c", "/a/b", "c"), ("/a", "/", "a"), ("/", "/", "")):
        assert model.parent_and_name(path) == (parent, name)
        if name:
            assert model.join(parent, name) == path


def test_chunks_and_blocks():
    assert [model.n_chunks(size) for size in (0, 1, model.CHUNK_SIZE, model.CHUNK_SIZE + 1)] == [1, 1, 1, 2]
    assert [model.n_blocks(size, 10) for size in (0, 1, 10, 11)] == [0, 1, 1, 2]
