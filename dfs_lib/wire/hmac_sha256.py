"""HMAC-SHA-256 (RFC 2104) in two ways that give the same bytes: one that is soon there, one that is quick.

    light   Python's own SHA-256 under a few lines of ours: 0.3 ms to load, 3 µs a code
    quick   OpenSSL: 2.5 ms to load, which each start of `ls` would wait for; 1 µs a code, long texts several times as fast

Begins light where it can. `hurry()` turns to the quick one for good: whoever serves or moves files says so first.
Never holds a key for longer than a call, but in what `start` returns.
"""

try:
    from _operator import _compare_digest as compare_digest  # what `hmac` itself falls back to
except ImportError:
    from hmac import compare_digest

try:
    from _sha2 import sha256  # Python 3.12 and later
except ImportError:
    try:
        from _sha256 import sha256  # Python 3.11
    except ImportError:
        sha256 = None

__all__ = ["compare_digest", "digest", "hurry", "start", "start_quick"]

_BLOCK_SIZE = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class _Light:
    """One code under way, with the methods of `hmac.HMAC` that we use."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, inner, outer):
        self._inner, self._outer = inner, outer

    def copy(self):
        return _Light(self._inner.copy(), self._outer)

    def update(self, said):
        self._inner.update(said)

    def digest(self):
        outer = self._outer.copy()
        outer.update(self._inner.digest())
        return outer.digest()


def _start_light(key):
    if len(key) > _BLOCK_SIZE:
        key = sha256(key).digest()
    key = key.ljust(_BLOCK_SIZE, b"\0")
    return _Light(sha256(key.translate(_INNER)), sha256(key.translate(_OUTER)))


def _digest_light(key, said, _name):
    code = _start_light(key)
    code.update(said)
    return code.digest()


def _quick():
    """(digest, new) of `hmac`, straight from OpenSSL where that is there."""
    try:
        from _hashlib import hmac_digest, hmac_new
    except ImportError:
        from hmac import digest as hmac_digest
        from hmac import new as hmac_new
    return hmac_digest, hmac_new


def digest(key, said):
    """The 32 bytes of the code of `said` under `key`."""
    return _digest(key, said, "sha256")


def start(key):
    """A code of nothing yet: `copy()`, `update(said)`, `digest()`."""
    return _start(key)


def start_quick(key):
    """The same by the quick way, and all later calls too."""
    hurry()
    return _start(key)


def hurry():
    """From now on take the quick way; loads OpenSSL."""
    global _digest, _start
    hmac_digest, hmac_new = _quick()
    _digest, _start = hmac_digest, lambda key: hmac_new(key, b"", "sha256")


_digest, _start = _digest_light, _start_light
if sha256 is None:
    hurry()
