"""Published vectors for HKDF and HMAC; each reason for which a ticket is refused."""

import random

import pytest

from dfs_lib import errors
from dfs_lib.wire import trust

KEY = bytes(range(32))
BLOCK, KEEPER = "0a" * 16, "0b" * 16
USER = trust.user_digest("admin")
TICKET = trust.Ticket(trust.READ, 5, BLOCK, KEEPER, 1000, 200, 1, USER)
FILE = trust.file_of("/home/anna/ä", 7)
ASKED = {"operation": trust.READ, "block": BLOCK, "keeper": KEEPER, "size": 1000, "user": USER, "epoch": 5, "tick": 200}


def unhex(text):
    return bytes.fromhex(text.replace(" ", ""))


@pytest.mark.parametrize("key, salt, info, length, wanted", [
    # RFC 5869, appendix A.1 to A.3
    ("0b" * 22, "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9", 42,
     "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"),
    (bytes(range(0x50)).hex(), bytes(range(0x60, 0xb0)).hex(), bytes(range(0xb0, 0x100)).hex(), 82,
     "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
     "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"),
    ("0b" * 22, "", "", 42, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"),
])
def test_hkdf_rfc_5869(key, salt, info, length, wanted):
    assert trust.hkdf(unhex(key), unhex(salt), unhex(info), length) == unhex(wanted)


RFC_4231 = [
    ("0b" * 20, b"Hi There".hex(), "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe".hex(), b"what do ya want for nothing?".hex(), "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    ("aa" * 20, "dd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (bytes(range(1, 26)).hex(), "cd" * 50, "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    ("aa" * 131, b"Test Using Larger Than Block-Size Key - Hash Key First".hex(),
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ("aa" * 131, (b"This is a test using a larger than block-size key and a larger than block-size data. "
                  b"The key needs to be hashed before being used by the HMAC algorithm.").hex(),
     "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
]


def test_hmac_rfc_4231_truncated():
    """Its case 5: the first 128 bits, as our seals are cut."""
    assert trust.digest(unhex("0c" * 20), b"Test With Truncation")[:16] == unhex("a3b6167473100ee06e0c796c2955552b")


@pytest.mark.parametrize("key, data, wanted", RFC_4231)
def test_hmac_rfc_4231(key, data, wanted):
    assert trust.digest(unhex(key), unhex(data)) == unhex(wanted)
    # A seal is the same HMAC over the frame's number and the frame, cut to 16 bytes.
    number, rest = unhex(data)[:8], unhex(data)[8:]
    assert trust.sealer(unhex(key))(int.from_bytes(number, "big"), rest) == unhex(wanted)[:16]


def test_keys_are_all_different():
    ring = trust.Keyring.from_cluster_key(KEY)
    keys = [ring.node, ring.ticket, ring.clients, KEY, ring.secret_for("client", "a"), ring.secret_for("client", "b"),
            ring.secret_for("keeper", "a"), ring.secret_for("master", "a"), *trust.session_keys(KEY, b"said")]
    assert len(set(keys)) == len(keys) and all(len(key) == 32 for key in keys)
    assert trust.client_credentials(KEY).secret == ring.secret_for("client", "admin")
    open_ring = trust.Keyring.from_cluster_key(None)
    assert open_ring.auth == "none" and open_ring.secret_for("client", "x") == trust.PUBLIC_SECRET


def test_transcripts_cannot_be_shifted_into_each_other():
    from dfs_lib.wire import messages
    challenge = messages.Challenge(version=1, role="master", cluster_id=BLOCK, auth="hmac", nonce="2" * 64, proof="0" * 64)
    seen = set()
    for identity, nonce in (("a", "1" * 64), ("a1", "1" * 64), ("", "a" + "1" * 63), ("ahmac", "1" * 64)):
        for role in ("client", "keeper"):
            for auth in ("hmac", "none"):
                for port in (1, 11):
                    seen.add(trust.transcript(messages.Hello(version=1, role=role, identity=identity, auth=auth, nonce=nonce, port=port), challenge))
    assert len(seen) == 32


# -- tickets ------------------------------------------------------------------------------------------------------------
def test_ticket_there_and_back():
    text = trust.make_ticket(KEY, TICKET)
    assert trust.read_ticket(KEY, text) == TICKET and len(text) <= 512 and text.isascii()
    trust.check_ticket(TICKET, **ASKED)
    trust.check_ticket(TICKET, **{**ASKED, "size": 0, "tick": 0})


@pytest.mark.parametrize("change, words", [
    ({"operation": trust.WRITE}, "another operation"), ({"block": "0c" * 16}, "another block"), ({"keeper": "0c" * 16}, "another keeper"),
    ({"size": 1001}, "1000 bytes, not 1001"), ({"user": trust.user_digest("bob")}, "somebody else"), ({"epoch": 6}, "earlier master"),
    ({"tick": 201}, "expired"),
])
def test_each_refusal(change, words):
    with pytest.raises(errors.BadTicket, match=words):
        trust.check_ticket(TICKET, **{**ASKED, **change})


def test_a_ticket_of_a_newer_reign_is_honoured_while_its_expiry_cannot_be_judged():
    trust.check_ticket(TICKET, **{**ASKED, "epoch": 4, "tick": 10**6})
    for change in ({"block": "0c" * 16}, {"size": 1001}):
        with pytest.raises(errors.BadTicket):
            trust.check_ticket(TICKET, **{**ASKED, "epoch": 4, **change})


def test_no_other_text_is_that_ticket():
    """Every character changed to every other of the alphabet, cut, lengthened: one ticket has one text."""
    text = trust.make_ticket(KEY, TICKET)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/= \n\0é\ud800"
    others = [text[:at] + each + text[at + 1:] for at in range(len(text)) for each in alphabet if each != text[at]]
    others += [text[:n] for n in range(len(text))] + [text + each for each in alphabet] + [text.replace("=", ""), text + text, "", "A" * 512]
    for other in others:
        if other == text:
            continue  # its length divides by three: there is no padding to leave out
        with pytest.raises(errors.BadTicket):
            trust.read_ticket(KEY, other)
    with pytest.raises(errors.BadTicket, match="not signed"):
        trust.read_ticket(b"x" * 32, text)


def test_random_tickets():
    dice = random.Random(1)
    for _ in range(300):
        ticket = trust.Ticket(dice.choice((1, 2, 3)), dice.randrange(1 << 32), dice.randbytes(16).hex(), dice.randbytes(16).hex(),
                              dice.randrange(1 << 64), dice.randrange(1 << 32), dice.randrange(1 << 64), dice.randbytes(8),
                              dice.randrange(1 << 32), dice.randrange(1 << 32))
        file = dice.randbytes(dice.randrange(100))
        assert trust.read_ticket(KEY, trust.make_ticket(KEY, ticket, file), file) == ticket


@pytest.mark.parametrize("file", [b"", trust.file_of("/home/anna/ä", 8), trust.file_of("/home/anna/a", 7), trust.file_of("/home/anna/äb", 7),
                                  trust.file_of("/home/anna/", 7), FILE + b"\0"])
def test_a_ticket_for_a_put_is_for_one_path_and_version(file):
    text = trust.make_ticket(KEY, TICKET._replace(operation=trust.WRITE), FILE)
    assert trust.read_ticket(KEY, text, FILE).operation == trust.WRITE and len(text) == 124
    with pytest.raises(errors.BadTicket, match="path and version"):
        trust.read_ticket(KEY, text, file)


def test_a_reign_has_room_for_more_puts_than_32_bits_count():
    later = TICKET._replace(number=(1 << 32) + 5)
    assert trust.read_ticket(KEY, trust.make_ticket(KEY, later)).number == (1 << 32) + 5


def test_no_file_is_bound_by_copies_and_reads():
    for operation in (trust.READ, trust.COPY):
        ticket = TICKET._replace(operation=operation)
        assert trust.make_ticket(KEY, ticket, FILE) == trust.make_ticket(KEY, ticket)
        assert trust.read_ticket(KEY, trust.make_ticket(KEY, ticket), FILE) == ticket


def test_receipts():
    proof = trust.make_receipt(KEY, BLOCK, KEEPER, 5, b"\1\2\3\4")
    assert trust.check_receipt(KEY, BLOCK, KEEPER, 5, b"\1\2\3\4", proof)
    for change in ((b"y" * 32, BLOCK, KEEPER, 5, b"\1\2\3\4"), (KEY, KEEPER, KEEPER, 5, b"\1\2\3\4"), (KEY, BLOCK, BLOCK, 5, b"\1\2\3\4"),
                   (KEY, BLOCK, KEEPER, 6, b"\1\2\3\4"), (KEY, BLOCK, KEEPER, 5, b"\1\2\3\5"), (KEY, BLOCK, KEEPER, 5, b"")):
        assert not trust.check_receipt(*change, proof)
    assert not trust.check_receipt(KEY, BLOCK, KEEPER, 5, b"\1\2\3\4", "0" * 32)


def test_kinds_of_proof_do_not_stand_in_for_each_other():
    """The same key and the same words under another label give another code."""
    said = b"the same words"
    made = {trust.server_proof(KEY, said), trust.client_proof(KEY, said), trust.digest(KEY, b"dfs ticket\0" + said).hex(),
            trust.digest(KEY, b"dfs receipt\0" + said).hex(), trust.digest(KEY, b"dfs heartbeat\0" + said).hex()}
    assert len(made) == 5


def test_tls_identities_there_and_back():
    for role, identity in (("client", "admin"), ("client", "anna.7"), ("keeper", "ab" * 16), ("joiner", "01234567")):
        assert trust.read_tls_identity(trust.tls_identity(role, identity)) == (role, identity)
    for other in (None, "", "dfs", "dfs/client/admin", "dfs/client/admin/0", "dfs/client/admin/1/", "tls/client/admin/1", "dfs/client/a/b/1"):
        assert trust.read_tls_identity(other) is None


def test_the_key_for_tls_is_used_for_nothing_else():
    """Not the secret, no session key, and another one for each identity."""
    ring = trust.Keyring.from_cluster_key(bytes(range(32)))
    secrets = [ring.secret_for(role, identity) for role, identity in (("client", "admin"), ("client", "anna.7"), ("keeper", "ab" * 16))]
    keys = [trust.tls_key(secret) for secret in secrets]
    others = [*secrets, ring.node, ring.ticket, ring.clients, *trust.session_keys(secrets[0], b""), *(trust.exported(one, b"", b"", 32) for one in secrets)]
    assert len({*keys, *others}) == len(keys) + len(others) and {len(key) for key in keys} == {32}


def test_what_an_asker_says_it_could_do(monkeypatch):
    for version, auth, mode, ca, wanted in (
            ((3, 13), "hmac", "auto", None, "psk"), ((3, 13), "hmac", "auto", "ca.pem", "psk certificate"), ((3, 11), "hmac", "auto", None, None),
            ((3, 11), "hmac", "require", "ca.pem", "certificate"), ((3, 13), "none", "allow", None, None), ((3, 13), "hmac", "off", "ca.pem", None)):
        monkeypatch.setattr(trust.sys, "version_info", version)
        assert trust.Tls(mode, ca).ways(auth) == wanted


def test_an_asker_keeps_to_tls_once_it_was_wanted():
    told = []
    kept, strict, follower, off = trust.Tls(), trust.Tls("require"), trust.Tls(told=lambda: bool(told)), trust.Tls("off", told=lambda: True)
    assert not kept.is_on and strict.is_on and not follower.is_on and not off.is_on
    kept.turn_on()
    told.append(True)
    assert kept.is_on and follower.is_on and not off.is_on
