"""The bytes on the wire, written down: a change here is a change of the format, and wants a new version of it.

Regenerate by hand with `python tests/unit/wire/test_golden.py` after raising messages.PROTOCOL_VERSION.
"""

import pathlib
import sys

if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parents[3]))

import wire_samples

from dfs_lib.wire import conversation, heartbeats, messages, trust

BLOCK, KEEPER = "0123456789abcdef" * 2, "fedcba9876543210" * 2
TICKET_KEY = bytes(range(32, 64))
TICKET = trust.Ticket(trust.WRITE, 3, BLOCK, KEEPER, 1 << 20, 1000, 77, trust.user_digest("admin"), 2, 41)
TICKET_FILE = trust.file_of("/a/ü", 7)
HEARTBEAT = heartbeats.Heartbeat("00112233445566aa", KEEPER, 42, 10**12, 5 * 10**11, 12345, {8000: 3, 8001: 0, 8002: 70_000})


def put_block():
    return messages.PutBlock(
        block=BLOCK, size=5, ticket="t", chain=[], crc=0xDEADBEEF,
        meta={"path": "/a/ü", "version": 7, "index": 0, "file_size": 5, "block_size": 1 << 26, "mtime_at": 1700000000.5, "copies": 3, "last": True})


def get_block():
    return messages.GetBlock(block=BLOCK, offset=1 << 20, count=1 << 20, ticket="t")


def put_blocks():
    return messages.PutBlocks(chain=[{"keeper": KEEPER, "host": "k2", "ports": [8000, 8001]}], blocks=[
        {"block": BLOCK, "size": 5, "crc": 0xDEADBEEF, "path": "/a/ü", "version": 7, "block_size": 1 << 26, "mtime_at": 1700000000.5, "copies": 3,
         "tickets": ["t", "u"]}])


def get_blocks():
    return messages.GetBlocks(blocks=[{"block": BLOCK, "size": 5, "ticket": "t"}])


def made():
    """{name: hex} as the code of today makes it."""
    asker, server = wire_samples.fresh()
    out = {"hello": asker.hello()}
    server.receive(out["hello"])
    out["challenge"] = server.challenge(server.next_message().message)
    asker.receive(out["challenge"])
    out["proof"] = asker.prove(asker.next_message().message, "x")
    server.receive(out["proof"])
    server.accept(server.next_message().message)
    out["sealed ping, first frame"] = asker.send(messages.Ping(), 1)
    out["sealed ping, second frame"] = asker.send(messages.Ping(), 2)
    server.receive(out["sealed ping, first frame"])
    server.next_message()
    out["sealed done"] = server.send(messages.Done(), 1)
    plain, plain_server = wire_samples.greeted(None)
    out["put block"] = plain.send(put_block(), 9, 5) + b"hello"
    out["get block"] = plain.send(get_block(), (1 << 64) - 1)
    out["put blocks"] = plain.send(put_blocks(), 11, 5) + b"hello"
    out["get blocks"] = plain.send(get_blocks(), 12)
    out["block chunk"] = plain.send(messages.BlockChunk(crc=1), 9, 1 << 20)
    out["refused"] = plain_server.send(messages.Refused(error="no_such_file", message="no such file: /ü", facts={"path": "/ü", "n": 1}), 10)
    out["heartbeat"] = heartbeats.pack(HEARTBEAT, TICKET_KEY)
    out["ticket"] = trust.make_ticket(TICKET_KEY, TICKET, TICKET_FILE).encode()
    out["receipt"] = trust.make_receipt(TICKET_KEY, BLOCK, KEEPER, 5, bytes.fromhex("deadbeef")).encode()
    ring = trust.Keyring.from_cluster_key(wire_samples.CLUSTER_KEY)
    out["derived keys"] = ring.node + ring.ticket + ring.clients + ring.secret_for("client", "admin") + ring.secret_for("keeper", KEEPER)
    return {name: data.hex() for name, data in out.items()}


GOLDEN = {
    "hello": (
        "89444653010000010000000000000000000000990000000000000000000000007b2276657273696f6e223a332c22726f6c65223a22636c69"
        "656e74222c226964656e74697479223a2261646d696e222c2261757468223a22686d6163222c226e6f6e6365223a22313131313131313131"
        "3131313131313131313131313131313131313131313131313131313131313131313131313131313131313131313131313131313131313122"
        "2c22706f7274223a373030307d0d0a0d0a"
    ),
    "challenge": (
        "89444653010000020000000000000000000000f10000000000000000000000007b2276657273696f6e223a332c22726f6c65223a226d6173"
        "746572222c22636c75737465725f6964223a226331633163316331633163316331633163316331633163316331633163316331222c226175"
        "7468223a22686d6163222c226e6f6e6365223a22323232323232323232323232323232323232323232323232323232323232323232323232"
        "32323232323232323232323232323232323232323232323232323232222c2270726f6f66223a226432386537653936373730636435346232"
        "3031343032313237343631346332386334356631663036366563303235323266396463363863383837333565613638227d"
    ),
    "proof": (
        "894446530100000300000000000000000000004c0000000000000000000000007b2270726f6f66223a226665376230343464303230666566"
        "3238306131306138643038373930636263323934623934656234383931343963636663306332646563373239646130306265227d"
    ),
    "sealed ping, first frame": (
        "89444653010100070000000000000001000000020000000000000000000000007b7da45b477deb1516559f70c195e8493343"
    ),
    "sealed ping, second frame": (
        "89444653010100070000000000000002000000020000000000000000000000007b7d418a83710c1f1591fbfe8651cd132eb7"
    ),
    "sealed done": (
        "89444653010100060000000000000001000000020000000000000000000000007b7db91e548efaee5472917e6dd827247e24"
    ),
    "put block": (
        "894446530100005a0000000000000009000000df0000000000000000000000057b22626c6f636b223a223031323334353637383961626364"
        "656630313233343536373839616263646566222c2273697a65223a352c226d657461223a7b2270617468223a222f612fc3bc222c22766572"
        "73696f6e223a372c22696e646578223a302c2266696c655f73697a65223a352c22626c6f636b5f73697a65223a36373130383836342c226d"
        "74696d655f6174223a313730303030303030302e352c22636f70696573223a332c226c617374223a747275657d2c227469636b6574223a22"
        "74222c22636861696e223a5b5d2c22637263223a333733353932383535397d68656c6c6f"
    ),
    "get block": (
        "894446530100005effffffffffffffff0000005a0000000000000000000000007b22626c6f636b223a223031323334353637383961626364"
        "656630313233343536373839616263646566222c226f6666736574223a313034383537362c22636f756e74223a313034383537362c227469"
        "636b6574223a2274227d"
    ),
    "put blocks": (
        "89444653010000fa000000000000000b000001130000000000000000000000057b22626c6f636b73223a5b7b22626c6f636b223a22303132"
        "3334353637383961626364656630313233343536373839616263646566222c2273697a65223a352c22637263223a33373335393238353539"
        "2c2270617468223a222f612fc3bc222c2276657273696f6e223a372c22626c6f636b5f73697a65223a36373130383836342c226d74696d65"
        "5f6174223a313730303030303030302e352c22636f70696573223a332c227469636b657473223a5b2274222c2275225d7d5d2c2263686169"
        "6e223a5b7b226b6565706572223a226665646362613938373635343332313066656463626139383736353433323130222c22686f7374223a"
        "226b32222c22706f727473223a5b383030302c383030315d7d5d7d68656c6c6f"
    ),
    "get blocks": (
        "89444653010000fc000000000000000c0000004f0000000000000000000000007b22626c6f636b73223a5b7b22626c6f636b223a22303132"
        "3334353637383961626364656630313233343536373839616263646566222c2273697a65223a352c227469636b6574223a2274227d5d7d"
    ),
    "block chunk": (
        "894446530100005c0000000000000009000000090000000000000000001000007b22637263223a317d"
    ),
    "refused": (
        "8944465301000004000000000000000a000000530000000000000000000000007b226572726f72223a226e6f5f737563685f66696c65222c"
        "226d657373616765223a226e6f20737563682066696c653a202fc3bc222c226661637473223a7b2270617468223a222fc3bc222c226e223a"
        "317d7d"
    ),
    "heartbeat": (
        "8944484200112233445566aafedcba9876543210fedcba9876543210000000000000002a000000e8d4a51000000000746a52880000000000"
        "00003039031f4000031f4100001f42ffffccac437b7148247899b0bf2d851251dc"
    ),
    "ticket": (
        "42414941414141444141414141674141412d6741414141414141417041534e465a346d727a6538424930566e6961764e375f376375706832"
        "564449515f7479366d485a554d684141414141414142414141414141414141414141424e746447556877595432417a726e3858667a62385a"
        "4b657536376a37793935326a"
    ),
    "receipt": (
        "6666633938656561346366643336643336373439313532663763343632346434"
    ),
    "derived keys": (
        "a47a847363295108ca3bb0958f245985a96257cda6de013f4b6cfe2b60c9e7e8dc524739eab54e9a071e52f84c682c1016f31daaa47b7f68"
        "77ec1dd5e8d178b992533404527df7de2163e578c29fe7330a44e56f96a97006bf078b2582c74321d9a84876d4fb13d211d84b4b8bed2fab"
        "5a605e16fd5b1c46e8095ae796a8959cfd3ce53bd80d8e168dbe9dba3f322c053eb4c5dc8404103d13db64e05e11ef38"
    ),
}


def test_bytes_are_what_they_were():
    today = made()
    assert today.keys() == GOLDEN.keys()
    for name, data in today.items():
        assert data == GOLDEN[name], name


def test_golden_bytes_are_understood():
    _asker, server = wire_samples.greeted(None)
    server.receive(bytes.fromhex(GOLDEN["put block"]))
    assert server.next_message() == conversation.Arrived(put_block(), 9, 5) and server.take_body(9) == b"hello"
    server.receive(bytes.fromhex(GOLDEN["get block"]))
    assert server.next_message() == conversation.Arrived(get_block(), (1 << 64) - 1, 0)
    server.receive(bytes.fromhex(GOLDEN["put blocks"]))
    assert server.next_message() == conversation.Arrived(put_blocks(), 11, 5) and server.take_body(9) == b"hello"
    server.receive(bytes.fromhex(GOLDEN["get blocks"]))
    assert server.next_message() == conversation.Arrived(get_blocks(), 12, 0)
    assert trust.read_ticket(TICKET_KEY, bytes.fromhex(GOLDEN["ticket"]).decode(), TICKET_FILE) == TICKET
    heard = heartbeats.unpack(bytes.fromhex(GOLDEN["heartbeat"]), TICKET_KEY)
    assert heard == HEARTBEAT._replace(loads={8000: 3, 8001: 0, 8002: 65535})


def test_layouts_add_up():
    head = bytes.fromhex(GOLDEN["get block"])[:32]
    assert head[:4] == b"\x89DFS" and head[4] == 1 and head[5] == 0 and head[6:8] == (94).to_bytes(2, "big") and head[8:16] == b"\xff" * 8
    assert int.from_bytes(head[16:20], "big") == len(GOLDEN["get block"]) // 2 - 32 and head[20:] == bytes(12)
    assert len(GOLDEN["heartbeat"]) // 2 == 61 + 3 * 4 + 16 and heartbeats.MAX_SIZE == 141
    assert len(bytes.fromhex(GOLDEN["ticket"])) == 124
    assert bytes.fromhex(GOLDEN["hello"]).endswith(b"}\r\n\r\n")


if __name__ == "__main__":
    print("GOLDEN = {")
    for each, text in made().items():
        rows = [text[at:at + 112] for at in range(0, len(text), 112)]
        print(f"    {each!r}: (".replace("'", '"'))
        for row in rows:
            print(f'        "{row}"')
        print("    ),")
    print("}")
