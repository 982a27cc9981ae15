"""Every message there and back; what breaks the table's rules is refused."""

import json
import pathlib
import random
import subprocess
import sys

import pytest
import wire_samples

from dfs_lib import errors
from dfs_lib.wire import conversation, fields, frames, json_text, messages

ALL = sorted(messages.BY_CODE.items())
BLOCK = "0123456789abcdef" * 2


def by_name(classes):
    return pytest.mark.parametrize("cls", classes, ids=[cls.__name__ for cls in classes])


@by_name([cls for _code, cls in ALL])
def test_header_there_and_back(cls):
    dice = random.Random(cls.code)
    for _ in range(60):
        message = wire_samples.instance(cls, dice)
        again = messages.decode(cls.code, message.to_header())
        assert again == message and repr(again)
        assert again.to_header() == message.to_header()


@by_name([cls for _code, cls in ALL if cls.kind != "handshake"])  # those: test_conversation
@pytest.mark.parametrize("key", [wire_samples.CLUSTER_KEY, None], ids=["keyed", "insecure"])
@pytest.mark.parametrize("step", [1, 7, 1 << 30], ids=["byte by byte", "by sevens", "in one piece"])
def test_through_a_conversation(cls, key, step):
    dice = random.Random(cls.code + step)
    asker, server = wire_samples.greeted(key)
    message = wire_samples.instance(cls, dice)
    body = dice.randbytes(min(cls.max_body, 300))
    if cls.kind == "answer":
        asking = [c for _, c in ALL if cls in c.answers]
        request = wire_samples.instance(asking[0] if asking else messages.Ping, dice)
        asker.send(request, 5)  # unread: what matters here is the way back
        sender, receiver = server, asker
    else:
        sender, receiver = asker, server
        server.continues(cls.kind == "continuation")
    data = sender.send(message, 5, len(body)) + body
    arrived, at, got = None, 0, b""
    while at < len(data):
        receiver.receive(data[at:at + step])
        at += step
        if arrived is None:
            arrived = receiver.next_message()
        if arrived is not None:
            got += receiver.take_body(1 << 20)
    assert arrived == conversation.Arrived(message, 5, len(body))
    assert got == body and receiver.body_left == 0
    assert receiver.next_message() is None
    if cls is not messages.Working:
        assert not receiver.in_the_middle


def test_table():
    for code, cls in ALL:
        assert cls.code == code and 0 < code < 1 << 16
        assert cls.kind in ("handshake", "request", "continuation", "answer")
        assert cls.doc and cls.who and 0 <= cls.max_body <= frames.MAX_BODY
        if cls.kind == "request":
            assert len(cls.answers) == 1 and cls.answers[0].kind == "answer"
    names = [cls.__name__ for _code, cls in ALL]
    assert len(set(names)) == len(names)
    answered = {answer for _code, cls in ALL for answer in cls.answers}
    orphans = {cls for _code, cls in ALL if cls.kind == "answer"} - answered - {messages.Refused, messages.Working}
    assert not orphans


@pytest.mark.parametrize("header", [
    b"", b" ", b"{", b"}", b"[]", b"null", b"1", b'"x"', b" {}", b"{} ", b"{}{}", b"{}\r\n", b"{}\r\n\r\n\r\n", b"\xff\xfe", b'{"a":1}',
    b"\xef\xbb\xbf{}", b'{"\xed\xa0\x80":1}', b'{"a":NaN}', b'{"a":Infinity}', b'{"a":-Infinity}', b'{"a":' + b"9" * 5000 + b"}",
    b"[" * 100_000, b'{"a":' * 50_000, b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b"}", b"{'a':1}", b"{a:1}", b'{"a":01}', b'{"a":1,}',
    b'{"a":"\x00"}', b'{"a":"\n"}', b'{"\\ud800":1}',
], ids=lambda header: repr(header[:20]))
def test_not_a_header(header):
    for code in (messages.Ping.code, messages.Refused.code, messages.Hello.code):
        with pytest.raises(errors.BadMessage) as caught:
            messages.decode(code, header)
        caught.value.message.encode()
        assert len(caught.value.message) < 400


def test_every_depth_of_nesting_is_refused_and_never_more_than_refused():
    """Near the recursion limit parsing still works while showing the value would not: both must end as BadMessage."""
    for depth in [*range(1, 1200), 5_000, 100_000]:
        for inner in (b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth):
            for header, code in ((b'{"error":"busy","message":"m","facts":{"x":' + inner + b"}}", messages.Refused.code),
                                 (b'{"block":' + inner + b"}", messages.GetBlock.code)):
                if depth > 4 or code == messages.GetBlock.code:
                    with pytest.raises(errors.BadMessage):
                        messages.decode(code, header)


def test_a_key_given_twice_counts_once_and_the_last_one_does():
    assert messages.decode(messages.BlockChunk.code, b'{"crc":1,"crc":2}') == messages.BlockChunk(crc=2)
    with pytest.raises(errors.BadMessage):
        messages.decode(messages.BlockChunk.code, b'{"crc":1,"crc":"2"}')


def test_unknown_type_and_unknown_field():
    with pytest.raises(errors.BadMessage, match="unknown message type 999"):
        messages.decode(999, b"{}")
    with pytest.raises(errors.BadMessage, match="unknown field 'x'"):
        messages.decode(messages.Ping.code, b'{"x":1}')
    with pytest.raises(errors.BadMessage, match="unknown field"):
        messages.decode(messages.Refused.code, b'{"error":"e","message":"m","facts":{},"more":null}')


def check(call, value):
    return call.call(value, "it")


@pytest.mark.parametrize("field, good, bad", [
    (fields.text(3), ["", "abc", "äöü", "\0"], ["abcd", 1, None, True, b"a", [], "\ud800", "a\udfffb"]),
    (fields.hexadecimal(4), ["0af9"], ["0AF9", "0af", "0af90", "0ag9", "０af", "0af\n", 1234, None, " 0a9", "٠٠٠٠"]),
    (fields.checksums(2), ["", "0" * 8, "f" * 16], ["0" * 7, "0" * 24, "G" * 8, "0" * 7 + "\n", 0, None]),
    (fields.integer(0, 9), [0, 9], [-1, 10, 1.0, True, False, "1", None, 10**400, -10**400]),
    (fields.number(0, 9), [0, 9, 0.5, 9.0], [-0.1, 9.1, float("nan"), float("inf"), True, "1", None, 10**400]),
    (fields.boolean(), [True, False], [0, 1, None, "true", []]),
    (fields.one_of("a", "b"), ["a", "b"], ["c", "", None, 1, ["a"], {}]),
    (fields.list_of(fields.integer(0, 9), 1, 2), [[1], [1, 2]], [[], [1, 2, 3], [10], ["1"], {}, "12", None, (1,)]),
    (fields.mapping(2, fields.integer(0, 9)), [{}, {"a": 1}], [{"a": 1, "b": 2, "c": 3}, {"a": 10}, {"k" * 65: 1}, {"\ud800": 1}, [], None]),
    (fields.record(a=fields.integer(0, 9), b=fields.optional(fields.text(3))), [{"a": 1}, {"a": 1, "b": "x"}, {"a": 1, "b": None}],
     [{}, {"a": None}, {"b": "x"}, {"a": 1, "c": 1}, {"a": 1, "b": 5}, [], None]),
    (fields.row(fields.integer(0, 9), fields.optional(fields.text(3))), [[1, "x"], [1, None]], [[1], [None, None], [1, 2], [1, "x", 3], {}, None]),
    (fields.FACTS, [{}, {"a": [1, {"b": None}], "c": 1.5}], [{"a": [[[[[1]]]]]}, {"a": "\ud800"}, {"a": float("inf")}, {"a": {"\ud800": 1}},
                                                            {str(n): n for n in range(33)}, {"a": "x" * 9000}, {"a": [0] * 1001}, []]),
], ids=lambda it: it.describe[:30] if isinstance(it, fields.Check) else "")
def test_fields(field, good, bad):
    for value in good:
        assert check(field, value) == value
    for value in bad:
        with pytest.raises(errors.BadMessage) as caught:
            check(field, value)
        caught.value.message.encode()
    # What is made for messages that come often says yes to nothing else, and to all that is not rare.
    quick = fields.quick({"it": field})
    assert [value for value in good if not quick({"it": value})] == [value for value in good if value == "äöü"]
    for value in bad:
        try:
            assert not quick({"it": value})
        except errors.BadMessage:
            pass
    assert not quick({"it": good[0], "more": None})


@by_name([cls for _code, cls in ALL])
def test_messages_met_often_are_read_as_those_met_once(cls, monkeypatch):
    dice = random.Random(cls.code)

    def read(header, quick):
        monkeypatch.setattr(messages, "_quick", {cls.code: quick} if quick else {})
        monkeypatch.setattr(messages, "_met", {})
        try:
            return messages.decode(cls.code, header)
        except errors.BadMessage as e:
            return e.message

    made = fields.quick(cls.described, is_message=True)
    for _ in range(40):
        header = wire_samples.instance(cls, dice).to_header()
        for given in (header, _with_another_value(header, dice), _with_another_value(header, dice)):
            once, often = read(given, None), read(given, made)
            assert once == often and type(once) is type(often)


def _with_another_value(header, dice):
    """The same JSON with one value somewhere in it replaced, left out or added."""
    whole = json.loads(header)
    at = [whole]
    while (inner := [one for one in (at[-1].values() if isinstance(at[-1], dict) else at[-1]) if isinstance(one, (dict, list)) and one]) \
            and dice.random() < 0.8:
        at.append(dice.choice(inner))
    place, value = at[-1], dice.choice([None, True, 0, -1, 1 << 60, 1.5, "", "x", "ü", "f" * 32, "g" * 32, "x" * 20_000, [], {}, [1], {"a": 1}])
    key = dice.choice([*(place if isinstance(place, dict) else range(len(place))), "more"])
    if isinstance(place, list):
        place[key if key != "more" else 0:(key + 1) if key != "more" else 0] = [value]
    elif key in place and dice.random() < 0.3:
        del place[key]
    else:
        place[key] = value
    return json.dumps(whole).encode()


def test_a_message_that_comes_often_gets_its_own_reader(monkeypatch):
    monkeypatch.setattr(messages, "_quick", {})
    monkeypatch.setattr(messages, "_met", {})
    header = messages.Stat(paths=["/a"], blocks=False).to_header()
    for n in range(messages.OFTEN + 2):
        assert messages.decode(messages.Stat.code, header) == messages.Stat(paths=["/a"], blocks=False)
        assert (messages.Stat.code in messages._quick) == (n + 1 >= messages.OFTEN)
    assert messages.Ping.code not in messages._quick


@by_name([cls for _code, cls in ALL])
def test_messages_sent_often_are_made_and_written_as_those_sent_once(cls):
    dice = random.Random(cls.code)
    make, to_header = fields.quick_sender(cls.checks, messages.Message.__init__, json_text.encode)

    def wrong(call, values):
        with pytest.raises(errors.Misuse) as caught:
            call(cls.__new__(cls), **values)
        return caught.value.message

    for _ in range(20):
        once = wire_samples.instance(cls, dice)
        values = {name: getattr(once, name) for name in cls.known}
        often = cls.__new__(cls)
        make(often, **{name: value for name, value in values.items() if value is not None})
        assert often == once and to_header(often) == messages.Message.to_header(once)
    for name, _call, is_optional in cls.checks:
        if not is_optional:
            assert wrong(make, {**values, name: None}) == wrong(messages.Message.__init__, {**values, name: None})
    assert wrong(make, {**values, "no_such": 1}) == wrong(messages.Message.__init__, {**values, "no_such": 1})


def test_a_message_that_is_sent_often_gets_its_own_writer(monkeypatch):
    monkeypatch.setattr(messages, "_sent", {})
    # Stat as it was defined: other tests in this process may have sent it often already.
    kind = type("Stat", (messages.Message,), {name: value for name, value in vars(messages.Stat).items()
                                              if name not in ("__init__", "to_header", *messages.Stat.known)})
    for n in range(messages.OFTEN + 2):
        assert kind(paths=["/a"], blocks=False).to_header() == b'{"paths":["/a"],"blocks":false}'
        assert ("to_header" in vars(kind)) == ("__init__" in vars(kind)) == (n + 1 >= messages.OFTEN)


def test_a_long_message_counts_as_many_short_ones(monkeypatch):
    monkeypatch.setattr(messages, "_quick", {})
    monkeypatch.setattr(messages, "_met", {})
    long = messages.Usage(path="/" + "a" * 16_000)
    header = long.to_header()
    for n in range(1, 6):
        assert messages.decode(messages.Usage.code, header) == long
        assert (messages.Usage.code in messages._quick) == (n * (1 + len(header) // messages.SHORT) >= messages.OFTEN)
    assert messages.Usage.code in messages._quick


def test_building_a_message_wrongly_is_our_bug():
    with pytest.raises(errors.Misuse, match="needs block"):
        messages.GetBlock(offset=0)
    with pytest.raises(errors.Misuse, match="has no"):
        messages.Ping(x=1)
    assert messages.Ping() != messages.Done() and messages.Done() == messages.Done(facts=None)


def test_json_numbers_and_texts_survive():
    for value in ({}, {"a": 0.1, "b": 1e-300, "c": 2**53, "d": -1.5e99, "e": "ü\u2028\"\\\n\x00\U0001f600", "f": [None, True, {}]}):
        text = json_text.encode(value)
        assert json_text.decode_object(text) == value == json.loads(text)
    for value in (float("nan"), float("inf"), {"a": float("-inf")}):
        with pytest.raises(ValueError):
            json_text.encode(value)
    with pytest.raises(TypeError):
        json_text.encode({"a": b"bytes"})


def test_bad_headers_where_nobody_has_imported_json():
    """The scanner of Python 3.11 takes its exception from `json` if that is loaded, and raises none otherwise."""
    root = str(pathlib.Path(messages.__file__).parents[2])
    code = f"""if True:
        import sys
        sys.path.insert(0, {root!r})
        from dfs_lib import errors
        from dfs_lib.wire import messages
        for header in (b"{{", b"{{x", b'{{"a":}}', b'{{"a":1,}}', b'{{"a":[1,', b'{{"a":"b', b'{{"a":NaN}}', b'{{"a":tru}}', b'{{"a":' + b"[" * 100000):
            assert "json" not in sys.modules
            try:
                messages.decode(messages.Ping.code, header)
            except errors.BadMessage as e:
                print(e)
    """
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("is not a JSON object") == 9 and not done.stderr


def test_the_slow_road_reads_and_writes_the_same():
    encode, scan = json_text._slow()
    for message in wire_samples.corpus(3, 2):
        values = {name: getattr(message, name) for name, _call, _optional in message.checks}
        assert encode(values) == json_text.encode(values)
        assert scan(encode(values), 0)[0] == values
    with pytest.raises(ValueError):
        scan('{"a":NaN}', 0)
