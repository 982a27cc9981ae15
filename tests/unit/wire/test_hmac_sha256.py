"""The light way and the quick way make the same codes; the published vectors (RFC 4231) are in test_trust.py."""

import hmac
import random

import pytest

from dfs_lib.wire import hmac_sha256, trust


@pytest.fixture
def light(monkeypatch):
    if hmac_sha256.sha256 is None:
        pytest.skip("this Python has no SHA-256 of its own")
    monkeypatch.setattr(hmac_sha256, "_digest", hmac_sha256._digest_light)
    monkeypatch.setattr(hmac_sha256, "_start", hmac_sha256._start_light)


def test_both_ways_make_the_same_codes(light):
    dice = random.Random(1)
    texts = [(dice.randbytes(n_key), dice.randbytes(n)) for n_key in (0, 1, 32, 63, 64, 65, 131, 200) for n in (0, 1, 55, 64, 1000)]
    wanted = [hmac.digest(key, said, "sha256") for key, said in texts]

    def pieces(key, said):
        code = hmac_sha256.start(key).copy()
        for at in range(0, len(said), 7):
            code.update(said[at:at + 7])
        return code.digest()

    for _ in range(2):
        assert [hmac_sha256.digest(key, said) for key, said in texts] == wanted
        assert [pieces(key, said) for key, said in texts] == wanted
        hmac_sha256.hurry()


def test_copies_do_not_disturb_each_other(light):
    fresh = hmac_sha256.start(b"key")
    first, second = fresh.copy(), fresh.copy()
    first.update(b"one")
    second.update(b"two")
    assert (first.digest(), second.digest()) == tuple(hmac.digest(b"key", said, "sha256") for said in (b"one", b"two"))
    assert first.digest() == first.digest()


def test_seals_stay_the_same_when_a_long_talk_turns_quick(light):
    seal = trust.sealer(b"k" * 32)
    for sequence in range(trust._LONG_TALK + 3):
        assert seal(sequence, b"said") == hmac.digest(b"k" * 32, sequence.to_bytes(8, "big") + b"said", "sha256")[:16]
        assert (hmac_sha256._digest is hmac_sha256._digest_light) == (sequence < trust._LONG_TALK)


def test_comparing():
    assert hmac_sha256.compare_digest(b"same", bytearray(b"same"))
    assert not hmac_sha256.compare_digest(b"same", b"sane") and not hmac_sha256.compare_digest(b"same", b"sam")
