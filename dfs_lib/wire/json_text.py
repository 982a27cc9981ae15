"""JSON headers: values to text and back, strictly, and without the 3 ms that importing `json` costs a client's start (it imports `re`).

Uses the two C functions that `json` itself runs on; where they are missing or shaped differently, `json` does the same work.
Never accepts NaN or Infinity, text after the value, or white space before it. A key given twice: the last one counts.
"""

# After a Hello, so that a server of line-based text (HTTP, SMTP) sees a whole line and answers at once that it does not understand.
LINE_ENDS = "\r\n\r\n"


def _no_constants(text):
    raise ValueError(f"{text} is not JSON")


class _Context:
    """What the C scanner reads its options from; the names are those of json.JSONDecoder."""

    strict = True
    object_hook = object_pairs_hook = None
    parse_float, parse_int = float, int
    parse_constant = staticmethod(_no_constants)
    memo = {}


def _fast():
    from _json import encode_basestring, make_encoder, make_scanner

    def no_default(value):
        raise TypeError(f"{type(value).__name__} cannot be written as JSON")

    # markers, default, encoder, indent, key separator, item separator, sort_keys, skipkeys, allow_nan
    encoder = make_encoder(None, no_default, encode_basestring, None, ":", ",", False, False, False)
    scan = make_scanner(_Context)

    def encode(value):
        return "".join(encoder(value, 0))

    sample = {"a": [1, 2.5, "ü", None, True, {}]}
    if scan(encode(sample), 0)[0] != sample:
        raise ImportError("the C functions of json work differently here")
    return encode, scan


def _slow():
    import json

    encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False, check_circular=False).encode
    return encode, json.JSONDecoder(parse_constant=_no_constants).scan_once


try:
    encode, _scan = _fast()
except (ImportError, TypeError, AttributeError):
    encode, _scan = _slow()


def decode_object(text):
    """The dict that `text` is the JSON of. Raises ValueError for anything else, RecursionError for one nested too deep."""
    if text[:1] != "{":
        raise ValueError("not an object")
    try:
        value, end = _scan(text, 0)
    except (StopIteration, SystemError):
        # Python 3.11's scanner fails without an exception, which becomes a SystemError, while nobody has imported `json`.
        raise ValueError("not JSON, or cut off") from None
    if end != len(text) and text[end:] != LINE_ENDS:
        raise ValueError("text after the object")
    return value
