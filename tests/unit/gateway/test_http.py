"""The parser, byte by byte: what is a request, and all that is refused because somebody else could read it differently."""

import random

import pytest

from dfs_lib.gateway import http


def parse(text, version="HTTP/1.1"):
    data = bytearray(text.replace("\n", "\r\n").encode("latin-1"))
    end = http.head_end(data)
    assert end == len(data)
    return http.parse_head(data)


def test_a_request():
    request = parse("PUT /files/a%20b?x=1&y HTTP/1.1\nHost: h\nContent-Length: 12\nX-A:  b \t\nExpect: 100-continue\n\n")
    assert (request.method, request.path, request.query, request.version, request.length) == ("PUT", "/files/a%20b", "x=1&y", (1, 1), 12)
    assert request.headers["x-a"] == "b" and request.keeps and request.expects


@pytest.mark.parametrize("line, keeps", [("HTTP/1.1\nHost: h", True), ("HTTP/1.1\nHost: h\nConnection: close", False), ("HTTP/1.0", False),
                                         ("HTTP/1.0\nConnection: Keep-Alive", True), ("HTTP/1.1\nHost: h\nConnection: x, CLOSE", False)])
def test_whether_another_request_may_follow(line, keeps):
    assert parse(f"GET / {line}\n\n").keeps is keeps


def test_the_absolute_form_and_star():
    assert parse("GET http://h:1/files/a?b HTTP/1.1\nHost: h\n\n").path == "/files/a"
    assert parse("OPTIONS * HTTP/1.1\nHost: h\n\n").path == "*"


@pytest.mark.parametrize("text, status", [
    ("GET /\n\n", 400), ("GET  / HTTP/1.1\nHost: h\n\n", 400), ("GET / HTTP/1.1 \nHost: h\n\n", 400), ("GET / HTTP/2.0\nHost: h\n\n", 505),
    ("GET / http/1.1\nHost: h\n\n", 400), ("G T / HTTP/1.1\nHost: h\n\n", 400), ("GE\x01T / HTTP/1.1\nHost: h\n\n", 400),
    ("GET x HTTP/1.1\nHost: h\n\n", 400), ("GET /a#b HTTP/1.1\nHost: h\n\n", 400), ("GET /\xe4 HTTP/1.1\nHost: h\n\n", 400),
    ("GET / HTTP/1.1\n\n", 400), ("GET / HTTP/1.1\nHost: a\nHost: b\n\n", 400), ("GET / HTTP/1.1\nHost: h\nX : y\n\n", 400),
    ("GET / HTTP/1.1\nHost: h\n folded\n\n", 400), ("GET / HTTP/1.1\nHost: h\nX: a\n\tb\n\n", 400), ("GET / HTTP/1.1\nHost: h\nno colon\n\n", 400),
    ("GET / HTTP/1.1\nHost: h\n: empty\n\n", 400), ("GET / HTTP/1.1\nHost: h\nX: a\x00b\n\n", 400), ("GET / HTTP/1.1\nHost: h\nX: a\x0bb\n\n", 400),
    ("GET / HTTP/1.1\nHost: h\nX: a\rb\n\n", 400),
    ("PUT / HTTP/1.1\nHost: h\nContent-Length: 1\nTransfer-Encoding: chunked\n\n", 400), ("PUT / HTTP/1.1\nHost: h\nContent-Length: 1\nContent-Length: 1\n\n", 400),
    ("PUT / HTTP/1.1\nHost: h\nContent-Length: 1, 1\n\n", 400), ("PUT / HTTP/1.1\nHost: h\nContent-Length: +1\n\n", 400),
    ("PUT / HTTP/1.1\nHost: h\nContent-Length: 0x1\n\n", 400), ("PUT / HTTP/1.1\nHost: h\nContent-Length: -1\n\n", 400),
    ("PUT / HTTP/1.1\nHost: h\nContent-Length: \n\n", 400), ("PUT / HTTP/1.1\nHost: h\nContent-Length: \xb2\n\n", 400),
    ("PUT / HTTP/1.1\nHost: h\nContent-Length: 99999999999999999\n\n", 413), ("PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: gzip, chunked\n\n", 501),
    ("PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n", 400), ("PUT / HTTP/1.0\nTransfer-Encoding: chunked\n\n", 400),
    ("PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: \xa0chunked\n\n", 501), ("PUT / HTTP/1.1\nHost: h\nTransfer-Encoding: chunked\x85\n\n", 501),
    ("PUT / HTTP/1.1\nHost: h\nExpect: \xa0100-continue\n\n", 417),
    ("PUT / HTTP/1.1\nHost: h\nExpect: tea\n\n", 417), ("GET / HTTP/1.1\nHost: h\nAuthorization: a\nAuthorization: b\n\n", 400),
])
def test_what_is_refused(text, status):
    with pytest.raises(http.HttpError) as refused:
        parse(text)
    assert refused.value.status == status and refused.value.fatal


@pytest.mark.parametrize("data, status", [(b"GET / HTTP/1.1\nHost: h\n\n", 400), (b"\nGET", 400), (b"G" * http.MAX_HEAD, 414),
                                          (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431), (b"G" * (http.MAX_LINE + 1) + b"\r\n" + b"x" * http.MAX_HEAD, 414)])
def test_heads_that_grow_too_long_or_end_lines_badly(data, status):
    with pytest.raises(http.HttpError) as refused:
        http.head_end(bytearray(data))
    assert refused.value.status == status


def test_too_many_headers_and_too_long_lines():
    for text in ("GET / HTTP/1.1\nHost: h\n" + "".join(f"X{n}: y\n" for n in range(http.MAX_HEADERS)) + "\n", f"GET / HTTP/1.1\nHost: h\nX: {'y' * http.MAX_LINE}\n\n"):
        with pytest.raises(http.HttpError) as refused:
            parse(text)
        assert refused.value.status == 431
    with pytest.raises(http.HttpError) as refused:
        parse(f"GET /{'y' * http.MAX_LINE} HTTP/1.1\nHost: h\n\n")
    assert refused.value.status == 414


def test_random_bytes_are_a_request_or_an_http_error():
    dice = random.Random(7)
    start = b"PUT /files/a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nRange: bytes=0-1\r\n\r\n"
    n_good = 0
    for _ in range(20_000):
        data = bytearray(start)
        for _change in range(dice.randrange(1, 4)):
            at = dice.randrange(len(data))
            data[at:at + dice.randrange(3)] = bytes(dice.choices(b"\r\n\0: ;,%\x7f\xffaZ09", k=dice.randrange(3)))
        try:
            end = http.head_end(data)
            if end > 0:
                http.parse_head(data[:end])
                n_good += 1
        except http.HttpError as e:
            assert 400 <= e.status < 506
    assert n_good > 1000


@pytest.mark.parametrize("text, plain", [("a", "a"), ("a%20b", "a b"), ("%C3%B6", "ö"), ("%2e%2E", ".."), ("%252e", "%2e"), ("a+b", "a+b")])
def test_names_are_decoded_once(text, plain):
    assert http.decode(text) == plain


@pytest.mark.parametrize("text", ["%", "%2", "%zz", "%ff", "%C3", "%ED%A0%80", "a%+1"])
def test_broken_escapes_are_refused(text):
    with pytest.raises(http.HttpError):
        http.decode(text)


@pytest.mark.parametrize("path", ["/a b", "/ö/ü", "/<script>", "/a%20b", "/a?b#c", "/\u202etxt", "/'\"\\"])
def test_encoding_is_undone_by_decoding(path):
    encoded = http.encode(path)
    assert http.decode(encoded) == path and encoded.isascii() and not set(encoded) & set(" ?#<>\"'\\\n")


def test_queries_and_cookies():
    assert http.parse_query("path=%2Fa+b&x&path=/c&=z") == {"path": "/c", "x": ""}
    assert http.cookies("a=1; dfs_key=k+v; b; dfs_key=other") == {"a": "1", "dfs_key": "k+v"}
    assert http.cookies(None) == {}


def feed(data, size):
    """What a decoder makes of data that comes in pieces of `size`: (body, bytes left over)."""
    decoder, body, view = http.Chunked(), bytearray(), memoryview(data)
    while view and not decoder.is_done:
        n, piece = decoder.feed(view[:size])
        body += piece
        view = view[n:]
    return bytes(body), bytes(view), decoder.is_done


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_chunks_in_any_pieces(size):
    data = b"5\r\nhello\r\n1;name=\"x\"\r\n \r\nA\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET"
    assert feed(data, size) == (b"hello 0123456789", b"GET", True)


@pytest.mark.parametrize("data", [b"x\r\n", b"\r\n", b"5\nhello\r\n", b"5\r\nhelloX\r\n", b"-1\r\n", b"0x5\r\n", b"5\r\nhello0\r\n\r\n", b"FFFFFFFFFFFFFF\r\n",
                                  b"1" * 1000, b"0\r\n" + b"T: x\r\n" * 5000, b"5 5\r\n", b" 5\r\n", b"\x00\r\n", b"5\r\r\n"])
def test_broken_chunks_are_refused(data):
    with pytest.raises(http.HttpError) as refused:
        feed(data, 1000)
    assert refused.value.fatal


def test_heads_of_answers():
    assert http.head(206, [("A", 1), ("B", "x")]) == b"HTTP/1.1 206 Partial Content\r\nA: 1\r\nB: x\r\n\r\n"
    with pytest.raises(ValueError):
        http.head(200, [("A", "x\r\nSet-Cookie: y")])


def test_dates():
    assert http.date_text(784111777) == "Sun, 06 Nov 1994 08:49:37 GMT" and http.parse_date("Sun, 06 Nov 1994 08:49:37 GMT") == 784111777
    for text in (None, "", "yesterday", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 99 Xxx 1994 08:49:37 GMT"):
        assert http.parse_date(text) is None
    assert http.date_text(-5).startswith("Thu, 01 Jan 1970")
