"""Writes docs/protocol.md: prose from here, tables from dfs_lib/wire/messages.py and errors.py.

    python3 docs/write_protocol.py           write it
    python3 docs/write_protocol.py --check   exit 1 if it is not up to date
"""

import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from dfs_lib import errors
from dfs_lib.wire import frames, heartbeats, messages

TARGET = ROOT / "docs" / "protocol.md"

INTRODUCTION = """\
# The wire protocol

Everything that masters, keepers and clients of `dfs` say to each other: protocol {version}. Written by
`docs/write_protocol.py` from the same tables that the program runs on; do not edit it by hand.

There is one TCP protocol and one UDP datagram. Whoever connects is the *asker*, the other side the *server*: a client asks
masters and keepers, a keeper asks masters and other keepers. All numbers in binary layouts are unsigned and big-endian.

## What it protects against, and what it does not

| who | can | cannot |
|---|---|---|
| a stranger who reaches a port | hold one connection for {handshake_s:g} s, and a quarter of a port's connections from one host; send {stranger} bytes of header; make one log line a minute | ask anything, learn a name, make the server allocate by his word |
| who records a session | read it, where it is not encrypted by TLS | replay it, or any frame of it: both sides' nonces are in the keys, and each frame's place is in its seal |
| who alters the network | cut a connection; alter the bytes of a **body** so that its CRC-32 still fits | alter, add, drop, repeat, reorder or reflect a message unnoticed; turn the keys off (`auth` is under both proofs) |
| who has one user's key | what that user may | be another user, an admin, a keeper or a master; make a ticket |
| who has the cluster key | everything | |

Bodies carry checksums, not seals: they find every accident, and no malice. On a network where somebody may alter packets on
purpose, and for secrecy on any network, run it inside TLS, WireGuard or ssh. Under `--insecure` there are no seals at all, and
a flipped bit in a header is found only where it breaks a rule.
"""

FRAMING = """\
## Frames

Every message is one frame: a fixed head of 32 bytes, a header in JSON, a seal when the conversation is keyed and open, and
raw body bytes when the message has a body.

| at | bytes | what |
|---:|---:|---|
| 0 | 4 | magic `89 44 46 53` (`\\x89DFS`) |
| 4 | 1 | layout of this head: 1 |
| 5 | 1 | flags: bit 0 = sealed; the others are 0 |
| 6 | 2 | message type: the code in the tables below |
| 8 | 8 | request id: chosen by the asker, repeated in every answer; 0 in the handshake |
| 16 | 4 | header length, at most {max_header} ({stranger} until the handshake is over) |
| 20 | 4 | 0 |
| 24 | 8 | body length, at most {max_body}, and at most the message's own ceiling |
| 32 | | header: one JSON object, UTF-8 |
| | 16 | seal, if flagged |
| | | body |

A length is compared with its ceiling before anything is read or kept. A frame that breaks a rule ends the connection; there
is no resynchronisation.

The header holds the message's fields and no others. A field whose name ends in `?` below may be left out or null. No NaN, no
Infinity, no white space before the object; a key given twice counts once, and the last one does. A type or range that does
not fit refuses the message whole. An unknown message type is refused, not skipped.

An example: a Ping with request id 1, before any seal.

    89 44 46 53  01 00  00 07  00 00 00 00 00 00 00 01  00 00 00 02  00 00 00 00  00 00 00 00 00 00 00 00  7b 7d

## Handshake

    asker                                   server
    ── Hello ───────────────────────────▶   version, role, identity, auth, nonce, the port it dialled
    ◀─────────────────────── Challenge ──   version, role, cluster id, auth, nonce, the server's proof
    ── Proof, and the first request ────▶   the asker's proof

Hello ends with CR LF CR LF after its JSON, inside the header length (the one place where bytes may follow the object): a
server of line-based text that was dialled by mistake sees a whole line and answers at once, and its first byte tells that it
is not `dfs`.

- *transcript*: the eleven values of Hello and Challenge (version, role, identity, auth, nonce, port; version, role, cluster_id,
  auth, nonce), each as UTF-8 text behind its length in 4 bytes.
  Then, when Hello has `tls`, one more: `tls ` and its value. Then, over TLS, one more, which each side fills in by what it has seen of
  the connection: `psk ` and the identity shown for the pre-shared key, or `certificate ` and the 32 bytes of the SHA-256 of the server's
  certificate in DER.
- *secret*: HKDF-SHA256 of the node key (roles keeper and master), of the clients key (role client) or of a join code's secret
  (role joiner), no salt, info `ROLE IDENTITY`. Both keys come from the cluster key the same way, with info `dfs 1 node` and `dfs 1 clients`; the ticket key
  with `dfs 1 ticket`. Under `--insecure` it is 32 zero bytes.
- *server's proof*: hex of HMAC-SHA256(secret, `dfs server` NUL transcript); *asker's proof*: the same with `dfs client`.
- *session keys*: HKDF-SHA256(secret, salt = transcript, info `dfs c2s`) and `dfs s2c`, 32 bytes each.

The server proves itself first, so that a wrong key shows to the person who typed it, in a sentence. An asker whose proof is
wrong hears nothing: the connection closes. `auth` (`hmac` or `none`) must be the same on both sides; the asker says which side
has no key. The port in Hello must be the one the server listens on, so a port number translated on the way (NAT, a published
container port) does not work. The whole handshake has {handshake_s:g} s, absolute.

An asker of another protocol version gets Refused `version_mismatch` with both numbers, unsealed. That and `tls_required` are the only
refusals that count before the proofs, and the asker takes only the number from it. So that this works for ever, the fixed head, Hello and
Refused stay as they are in every later version.

## TLS

An encrypted connection carries the same bytes, handshake and seals too, inside TLS 1.3 (nothing older; no session tickets). A server
looks at the first byte: 16 is a TLS ClientHello, 89 is ours. A server that was given a certificate shows it; any other takes
pre-shared keys (external PSK with ECDHE, RFC 8446 2.2; hash SHA-256):

- *PSK identity*: `dfs/ROLE/IDENTITY/KEY_EPOCH`, UTF-8; the key epoch is 1. *PSK*: HKDF-SHA256(secret, no salt, info `dfs tls psk`), 32 bytes.
- An asker accepts a PSK, or a certificate signed by its --tls-ca, and no other certificate whatever; host names are not compared.
- A server that wants TLS answers a plain Hello with Refused `tls_required`, unsealed, fact `how`: `psk` or `certificate`; with `--tls auto`
  only when Hello's `tls` names that way. The asker takes nothing else from it, and dials again.
- A server without TLS answers a ClientHello with the alert 15 03 03 00 02 02 46 (protocol version).

## Users and join codes

A user's identity is NAME.SERIAL; its key is its *secret* as above, so a master and a keeper check it without keeping it. A master
treats an identity it does not know (removed, or of an older serial) as a stranger; a keeper lets it in, and refuses its tickets.
A key that travels (UserKey, Invited) is xored with a pad: HKDF-SHA256(secret of the asker, salt = the nonce of the request as text
(for Invited, followed by the code's name), info `dfs pad`).

A join code is `NAME-SECRET`, 8 and 32 hex digits. Role `joiner`, identity NAME, may send Join alone, once. Joined carries node,
ticket and clients key (96 bytes) xor HKDF-SHA256(secret, salt = transcript, info `dfs export join pad`), and
`proof` = HMAC-SHA256(K, `dfs joined` NUL, those 96 bytes) with K = HKDF-SHA256(secret, salt = transcript, info
`dfs export join code`, 32 bytes).

## Seals

In a keyed conversation every frame after the Proof is sealed, in both directions:

    seal = first 16 bytes of HMAC-SHA256(the direction's key, number (8 bytes) + head (32 bytes) + header)

The number counts the frames of that direction from 0. A missing seal is as wrong as a bad one, and a seal where none is due
as wrong as a missing one. The body is not under the seal; its length is.

## Turns

- One side asks, the other answers: each request gets exactly one answer of its own type, or Refused. Requests may be sent
  before earlier ones are answered; answers come in the order of the requests.
- Working may come any number of times before an answer, about every half second while a slow operation is under way. It
  resets the asker's patience (10 s of silence unless said otherwise), for at most five minutes.
- PutBlock may be followed by BlockChunk frames, with the same request id, until the block is complete. Any other request in
  between is out of turn.
- A request refused before its body was read whole ends the connection: the server says Refused, closes its half, and reads
  away what is still coming for up to 2 s so that the refusal arrives. An asker therefore does not reuse a connection after the
  refusal of a request that can have a body.
- A message that the asker's role may not send is answered with Refused `no_such_role`.
- An end of the stream between two messages is a goodbye; anywhere else it is a loss.
- Every request may arrive twice: an asker repeats it on a fresh connection when a kept one turned out to be closed. Requests
  that change names carry an operation id for that.

## Bodies

| message | body |
|---|---|
| PutBlock, BlockChunk | one chunk (1 MiB, the last one shorter); `crc` is its CRC-32 |
| BlockData | the stretch asked for; the reader knows the checksums from DownloadOpened |
| ReportBlocks | records of 24 bytes: block id (16), size (8), sorted by block id |

The CRC-32 (zlib) of a chunk starts from the CRC-32 of block id (16 bytes) and chunk index (4 bytes), so that the right bytes
in the wrong place are as wrong as flipped ones. A table of checksums is hex, 8 digits a chunk, in order.
"""

SIGNED = """\
## Tickets

What a master hands to a client, or with an order to a keeper, so that a keeper does one thing for it: 93 bytes, as URL-safe base64
(124 characters).

| at | bytes | what |
|---:|---:|---|
| 0 | 1 | form: 4 |
| 1 | 1 | operation: 1 = read, 2 = write, 3 = copy: a write by a keeper, for repair |
| 2 | 4 | epoch: the master's reign |
| 6 | 4 | key id: which of this reign's ticket keys signed it, from 0 |
| 10 | 4 | expiry, in the master's ticks (seconds since it began to reign; no wall clock) |
| 14 | 7 | number, of a write or copy: they are counted for each keeper from 1 in each reign; 0 of a read |
| 21 | 16 | block id |
| 37 | 16 | keeper id |
| 53 | 8 | size allowed, bytes |
| 61 | 8 | serial |
| 69 | 8 | first 8 bytes of HMAC-SHA256(`dfs user`, the identity it is for) |
| 77 | 16 | first 16 bytes of HMAC-SHA256(rolled key, `dfs ticket` NUL, all before; of a write followed by the file) |

The file: its version (8 bytes) and path (UTF-8), which the request says beside the ticket and the block's trailer will say. A write
ticket is so good for one path and version; a copy's trailer is its source's, and only a keeper may show a ticket for one.

The rolled key is HKDF-SHA256(ticket key, no salt, info `dfs ticket key EPOCH KEY_ID`, both in decimal). The master takes the next
key id every 10 hours; keepers hear it with Registered and Notified, and take the one before and later ones as well.

A keeper refuses (`bad_ticket`) another operation, block, keeper or user, more bytes than allowed, an earlier epoch than it has
seen, an expired one, one whose key is out of use, one of a user named in `refused_users`, and, when the block is not there, a ticket for a
put that was used already, or whose number lies 2^18 or more below that of another one used. A ticket of a later epoch than it has heard of is honoured: its code proves that a master made it.
Base64 can spell the same bytes in several ways; only the canonical one is a ticket.

## Receipts

A keeper's word that it holds a block durably, which the client carries to the master: 32 hex digits, the first 16 bytes of
HMAC-SHA256(ticket key, `dfs receipt` NUL, `BLOCK KEEPER SIZE ` + checksum table), block and keeper in hex, size in decimal.

## Heartbeats

One UDP datagram a second from each keeper to the master, at most {max_beat} bytes:

| at | bytes | what |
|---:|---:|---|
| 0 | 4 | magic `89 44 48 42` (`\\x89DHB`) |
| 4 | 8 | session, given by Registered |
| 12 | 16 | keeper id |
| 28 | 8 | number, grows by one |
| 36 | 8 | free bytes, reserve taken off |
| 44 | 8 | used bytes |
| 52 | 8 | blocks |
| 60 | 1 | n: ports that follow, at most 16 |
| 61 | 4n | each port: number (2), transfers under way (2, 65535 stands for more) |
| | 16 | first 16 bytes of HMAC-SHA256(node key, `dfs heartbeat` NUL, all before) |

It is never answered. Wrong code, unknown session, or a number not above the last: counted and dropped. It says "I live, this is
my load" and authorises nothing else; its sender's address is not believed.
"""

TYPES = """\
## Types

| name | JSON | what |
|---|---|---|
| block id, keeper id, cluster id, upload id, receipt | text | 32 lower-case hex digits |
| nonce, proof | text | 64 lower-case hex digits |
| hex n | text | n lower-case hex digits |
| hex, 8 a chunk | text | a table of chunk checksums, at most 1,024 chunks |
| crc | integer | 0 to 4,294,967,295 |
| text ≤ n | text | at most n characters, valid Unicode (no lone surrogates) |
| path | text | at most 4,096 characters here; the master's rules for names are stricter |
| name, host | text | at most 255 characters |
| ticket | text | at most 512 characters; see Tickets |
| operation id | text | at most 64 characters, chosen by the asker, the same when it repeats the request |
| bytes | integer | 0 to 2^50 |
| count | integer | 0 to 2^53 |
| version | integer | 1 to 2^53: which version of a file |
| epoch | integer | 0 to 2^20: which master's reign |
| index | integer | 0 to 2^40: which block of a file |
| port | integer | 1 to 65,535 |
| copies | integer | 1 to 16 |
| Unix seconds | number | -10^11 to 10^11 |
| seconds | number | 0 to 10^9 |
| object | object | free keys of at most 64 characters, plain values, at most 4 deep |
| {…} | object | these fields and no others; `?` marks those that may be left out or null |
| […, …] | list | one value a column |
| list of ≤ n: x | list | at most n values |

Whole numbers are written without fraction or exponent; true and false are not numbers.
"""

ERRORS = """\
## Errors

Refused carries a `code` from this table, a sentence, and facts. The exit status is the command line's; *again* says whether a
repetition can help: now, elsewhere (another replica or master), later, never. A code from a newer peer that is not known
counts as `refused`.
"""


def field_table(cls):
    """The fields of one message, a line each."""
    if not cls.described:
        return ["No fields."]
    lines = []
    for name, check in cls.described.items():
        lines.append(f"- `{name}{'?' if check.optional else ''}`: {check.describe}")
    return lines


def section(cls):
    title = f"### {cls.code} {cls.__name__}"
    facts = [cls.kind if cls.kind != "request" else f"request → {', '.join(answer.__name__ for answer in cls.answers)}"]
    if cls.kind in ("request", "continuation"):
        facts.append("from " + ", ".join(sorted(cls.who)))
    if cls.max_body:
        facts.append(f"body ≤ {cls.max_body:,} bytes")
    return [title, "", f"{cls.doc[:1].upper()}{cls.doc[1:]}. *{'; '.join(facts)}*", "", *field_table(cls), ""]


def message_tables():
    lines = ["## Messages", "", "| code | name | kind | what |", "|---:|---|---|---|"]
    for code, cls in sorted(messages.BY_CODE.items()):
        lines.append(f"| {code} | {cls.__name__} | {cls.kind} | {cls.doc} |")
    lines.append("")
    for _code, cls in sorted(messages.BY_CODE.items()):
        lines += section(cls)
    return lines


def error_table():
    lines = ["| code | exit | again | sentence |", "|---|---:|---|---|"]
    known = [cls for cls in errors.by_code().values() if cls.__module__ == errors.__name__]
    for cls in sorted(known, key=lambda cls: (cls.status, cls.code)):
        sentence = cls.template.replace("|", "\\|")
        lines.append(f"| `{cls.code}` | {cls.status} | {cls.retry} | {sentence} |")
    return lines


def text():
    """The whole of docs/protocol.md."""
    figures = {"version": messages.PROTOCOL_VERSION, "stranger": f"{frames.MAX_HEADER_STRANGER:,}", "max_header": f"{frames.MAX_HEADER:,}",
               "max_body": f"{frames.MAX_BODY:,}", "max_beat": heartbeats.MAX_SIZE, "handshake_s": 5.0}
    parts = [INTRODUCTION.format(**figures), FRAMING.format(**figures), SIGNED.format(**figures), TYPES, "\n".join(message_tables()),
             ERRORS, "\n".join(error_table()) + "\n"]
    return "\n".join(parts)


def main(arguments):
    if arguments == ["--check"]:
        if TARGET.read_text(encoding="utf-8") == text():
            return 0
        print("docs/protocol.md is not up to date: run python3 docs/write_protocol.py", file=sys.stderr)
        return 1
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
