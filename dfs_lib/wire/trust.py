"""Keys, challenge and answer, seals, tickets and receipts: bytes in, verdict out. No file, socket, clock or chance.

    cluster key ──HKDF──┬─ node key     masters and keepers prove themselves to each other
                        ├─ ticket key ──HKDF(epoch, key id)── the master signs tickets, keepers check them
                        │     └─ keepers sign receipts with it
                        └─ clients key ──HKDF(identity)── a user's own key: opens nothing else

    each identity's secret ──HKDF── its key for TLS without certificates

    a join code holds a secret of its own: it opens one handshake as `joiner`, which may ask for the three keys above and no more

Without a key (`--insecure`) the same steps run with a secret that everybody knows, and frames carry no seal.
Sources: HKDF is RFC 5869, HMAC is RFC 2104; the tickets follow the idea of HDFS block access tokens.
"""

import struct
import sys

from dfs_lib import errors
from dfs_lib.records import record
from dfs_lib.wire import hmac_sha256
from dfs_lib.wire.hmac_sha256 import compare_digest, digest

KEY_SIZE = 32
PUBLIC_SECRET = bytes(KEY_SIZE)  # what `--insecure` uses: it proves nothing, and says so in the handshake
ADMIN = "admin"  # the identity of a client that holds the cluster key itself
JOINER = "joiner"  # the role of a keeper that has a join code and no key yet; its identity is the code's name

# tls: Tls of an asker, what it wants of each connection; None: nothing, and no more than that
Credentials = record("Credentials", "role identity secret auth tls", defaults=(None,))
# key_id: which of its reign's ticket keys signed it, counted from 0; number: how many for puts its keeper has been given in this reign
Ticket = record("Ticket", "operation epoch block keeper max_size expires_tick serial user key_id number", defaults=(0, 0))

# WRITE binds what the block's trailer will say of its file, COPY does not: it is for keepers alone, which send what their own block
# files say, and a trailer keeps the name that a file had when it was written.
READ, WRITE, COPY = 1, 2, 3
# number: seven bytes, which no reign uses up, and which make the whole a multiple of three: base64 without padding.
_TICKET = struct.Struct(">BBIII7s16s16sQQ8s")
_TICKET_FORMAT = 4
_KEPT_DIGESTS = 1000  # of identities as tickets know them
_KEPT_KEYS = 16  # ticket keys remembered: a master needs one, a keeper two
_CODE_SIZE = 16
_LONG_TALK = 16  # frames one way after which a conversation is worth loading OpenSSL for
_TO_URL_SAFE = bytes.maketrans(b"+/", b"-_")
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")


def hkdf(key, salt, info, length=KEY_SIZE):
    """HKDF-SHA256: extract, then expand (RFC 5869)."""
    pseudorandom = digest(salt or bytes(32), key)
    block, out, counter = b"", b"", 1
    while len(out) < length:
        block = digest(pseudorandom, block + info + bytes((counter,)))
        out += block
        counter += 1
    return out[:length]


class Keyring:
    """What a node can prove and check. `auth` is "hmac", or "none" under --insecure."""

    def __init__(self, node, ticket, clients, auth="hmac"):
        self.node, self.ticket, self.clients, self.auth = node, ticket, clients, auth

    @classmethod
    def from_cluster_key(cls, key):
        """From the 32 bytes of the cluster key; None stands for --insecure."""
        if key is None:
            return cls(PUBLIC_SECRET, PUBLIC_SECRET, PUBLIC_SECRET, "none")
        return cls(*(hkdf(key, b"", b"dfs 1 " + label) for label in (b"node", b"ticket", b"clients")))

    def secret_for(self, role, identity):
        """The secret that a peer of this role and identity must hold."""
        if role not in ("client", "keeper", "master"):
            return None
        if self.auth == "none":
            return PUBLIC_SECRET
        base = self.clients if role == "client" else self.node
        return hkdf(base, b"", f"{role} {identity}".encode())

    def to_bytes(self):
        """What a keeper needs of it: node, ticket and clients key, 96 bytes. The cluster key itself does not follow from them."""
        return self.node + self.ticket + self.clients

    @classmethod
    def from_bytes(cls, raw):
        return cls(raw[:KEY_SIZE], raw[KEY_SIZE:2 * KEY_SIZE], raw[2 * KEY_SIZE:])

    def credentials(self, role, identity, tls=None):
        return Credentials(role, identity, self.secret_for(role, identity), self.auth, tls)


def client_credentials(cluster_key, tls=None):
    """Credentials of a client that holds the cluster key (None: --insecure)."""
    return Keyring.from_cluster_key(cluster_key).credentials("client", ADMIN, tls)


# -- encryption ---------------------------------------------------------------------------------------------------------
OFF, AUTO, ALLOW, REQUIRE = "off", "auto", "allow", "require"  # what the setting `tls` may be
PSK, CERTIFICATE = "psk", "certificate"  # what a server of encrypted connections shows: that it knows the asker's key, or a certificate
_KEY_EPOCH = 1  # of the cluster key; stands in "dfs 1 …" too


class Tls:
    """What an asker wants of its connections. One for a whole program: what one peer of a cluster requires, all others get too.

    mode: off: plain ones alone; require: encrypted ones alone; auto, allow: plain ones until a peer wants more, and from then on
    encrypted ones with every peer that can. Who takes a peer's word that it cannot is not fooled by a man in the middle: Hello
    says what the asker could have done, the proofs cover Hello, and a server that can refuses the plain connection.
    ca: file of the certificates that servers' ones must be signed by, or None; told() → bool: whether somebody else of this
    program has found encryption to be required.
    """

    def __init__(self, mode=AUTO, ca=None, told=None):
        self.mode, self.ca, self._told = mode, ca, told
        self._required = mode == REQUIRE

    def ways(self, auth):
        """How this side could encrypt, as Hello says it, None when it cannot. Without loading ssl: the version tells."""
        ways = [PSK] if auth != "none" and sys.version_info >= (3, 13) else []
        return " ".join(ways + ([CERTIFICATE] if self.ca else [])) or None if self.mode != OFF else None

    @property
    def is_on(self):
        return self._required or self._told is not None and self.mode != OFF and self._told()

    def turn_on(self):
        """A peer that has proved itself over an encrypted connection wanted one."""
        self._required = True


def tls_identity(role, identity):
    """The name under which an identity's key for TLS goes: role, identity and key epoch."""
    return f"dfs/{role}/{identity}/{_KEY_EPOCH}"


def read_tls_identity(text):
    """(role, identity) of such a name, or None."""
    parts = text.split("/") if text else ()
    if len(parts) != 4 or parts[0] != "dfs" or parts[3] != str(_KEY_EPOCH):
        return None
    return parts[1], parts[2]


def tls_key(secret):
    """The pre-shared key of whoever holds `secret`: used for nothing else."""
    return hkdf(secret, b"", b"dfs tls psk")


def psk_binding(identity):
    """What ties the handshake inside to a connection encrypted by a pre-shared key. identity: a tls_identity."""
    return b"psk " + identity.encode()


def certificate_binding(fingerprint):
    """… and by a certificate, of whose DER form this is the SHA-256."""
    return b"certificate " + fingerprint


# -- handshake ----------------------------------------------------------------------------------------------------------
def transcript(hello, challenge, binding=b""):
    """Everything both sides said, unambiguously: what the proofs cover, so that nothing can be stripped or reflected.

    binding: what this connection is encrypted by, as each side has seen it; b"" for a plain one. A man in the middle who has
    an encrypted connection to either side, or to one alone, gives the two sides different transcripts.
    """
    parts = (hello.version, hello.role, hello.identity, hello.auth, hello.nonce, hello.port,
             challenge.version, challenge.role, challenge.cluster_id, challenge.auth, challenge.nonce)
    encoded = [str(part).encode() for part in parts] + [part for part in (hello.tls and b"tls " + hello.tls.encode(), binding) if part]
    return b"".join(struct.pack(">I", len(part)) + part for part in encoded)


def server_proof(secret, said):
    return digest(secret, b"dfs server\0" + said).hex()


def client_proof(secret, said):
    return digest(secret, b"dfs client\0" + said).hex()


def same(a, b):
    """Whether two texts are equal, in time that tells nothing."""
    return compare_digest(a.encode(), b.encode())


def session_keys(secret, said):
    """(key of client-to-server frames, key of server-to-client frames)."""
    return hkdf(secret, said, b"dfs c2s"), hkdf(secret, said, b"dfs s2c")


def exported(secret, said, label, length):
    """Keys for what one conversation carries: known to its two sides alone, and to no other conversation."""
    return hkdf(secret, said, b"dfs export " + label, length)


# -- secrets on their way -----------------------------------------------------------------------------------------------
def covered(secret, nonce, key):
    """`key` under a pad that only the two holders of `secret` can make, or bare again: the same call both ways.

    nonce: fresh text from whoever asks; a pad must never cover two keys. A seal (or a code) has to stand over the result.
    """
    pad = hkdf(secret, nonce.encode(), b"dfs pad", len(key))
    return bytes(a ^ b for a, b in zip(pad, key))


def wrap_keys(exported_96, exported_32, keys):
    """(96 bytes under a one-time pad, the 32-byte code over them) of what a joining keeper gets."""
    hidden = bytes(a ^ b for a, b in zip(exported_96, keys))
    return hidden, digest(exported_32, b"dfs joined\0" + hidden)


def unwrap_keys(exported_96, exported_32, hidden, code):
    """The keys again. Raises BadKey when they were altered."""
    if len(hidden) != len(exported_96) or not compare_digest(code, digest(exported_32, b"dfs joined\0" + hidden)):
        raise errors.BadKey(address="the keys from the master", detail="they were altered on their way")
    return bytes(a ^ b for a, b in zip(exported_96, hidden))


def join_secret(name, secret):
    """What both sides of a joining handshake prove with. name: the code's public half, 8 hex digits; secret: 16 bytes."""
    return hkdf(secret, b"", f"{JOINER} {name}".encode())


def join_code(name, secret):
    """A join code as people copy it: NAME-SECRET in hex."""
    return f"{name}-{secret.hex()}"


def read_join_code(text):
    """(name, secret bytes) of a join code. Raises BadJoinCode."""
    name, _, secret = text.strip().lower().partition("-")
    digits = set("0123456789abcdef")
    if len(name) != 8 or len(secret) != 32 or not set(name + secret) <= digits:
        raise errors.BadJoinCode(detail="it is not eight hex digits, a dash, and 32 more")
    return name, bytes.fromhex(secret)


def sealer(key):
    """seal(sequence, said) → the 16-byte code of one frame: HMAC-SHA256 over its place in the conversation, then its fixed head and header.

    The key is worked in once; each frame starts from a copy (0.9 µs instead of 1.6).
    """
    fresh = hmac_sha256.start(key).copy

    def seal(sequence, said):
        nonlocal fresh
        if sequence == _LONG_TALK:
            fresh = hmac_sha256.start_quick(key).copy
        code = fresh()
        code.update(sequence.to_bytes(8, "big") + said)
        return code.digest()[:_CODE_SIZE]

    return seal


# -- tickets and receipts -----------------------------------------------------------------------------------------------
_digests = {}  # identity → its digest, of those met lately; forgotten when it has grown


def user_digest(identity):
    """8 bytes that bind a ticket to the identity it was made for."""
    known = _digests.get(identity)
    if known is None:
        if len(_digests) >= _KEPT_DIGESTS:
            _digests.clear()
        known = _digests[identity] = digest(b"dfs user", identity.encode())[:8]
    return known


_rolled = {}  # (ticket key, epoch, key id) → the key that signs then; forgotten when it has grown


def rolled_key(key, epoch, key_id):
    """The key that signs tickets of this reign under this key id."""
    known = _rolled.get((key, epoch, key_id))
    if known is None:
        if len(_rolled) >= _KEPT_KEYS:
            _rolled.clear()
        known = _rolled[key, epoch, key_id] = hkdf(key, b"", f"dfs ticket key {epoch} {key_id}".encode())
    return known


def file_of(path, version):
    """What a write ticket binds of the file: the version and path that the block's trailer will say."""
    return version.to_bytes(8, "big") + path.encode()


_begun = {}  # key → copies of a code begun under it; forgotten when it has grown


def _code(key, said):
    """The code of a ticket or a receipt. Its key is worked in once, as with seals: 1 µs instead of 3."""
    begin = _begun.get(key)
    if begin is None:
        if len(_begun) >= _KEPT_KEYS:
            _begun.clear()
        begin = _begun[key] = hmac_sha256.start(key).copy
    code = begin()
    code.update(said)
    return code.digest()[:_CODE_SIZE]


def make_ticket(key, ticket, file=b""):
    """The text of a Ticket (block and keeper as hex). key: the ticket key; what signs is rolled from it; file: file_of, for WRITE.

    The code covers the file, which does not travel in the ticket: whoever shows it says the file beside it.
    """
    packed = _TICKET.pack(_TICKET_FORMAT, ticket.operation, ticket.epoch, ticket.key_id, ticket.expires_tick, ticket.number.to_bytes(7, "big"),
                          bytes.fromhex(ticket.block), bytes.fromhex(ticket.keeper), ticket.max_size, ticket.serial, ticket.user)
    return _ticket_text(packed + _ticket_code(rolled_key(key, ticket.epoch, ticket.key_id), packed, file))


def _ticket_code(key, packed, file):
    return _code(key, b"dfs ticket\0" + packed + file if packed[1] == WRITE else b"dfs ticket\0" + packed)


def _ticket_text(raw):
    """URL-safe base64."""
    import binascii  # for nodes alone: clients pass tickets on as they are

    return binascii.b2a_base64(raw, newline=False).translate(_TO_URL_SAFE).decode("ascii")


def read_ticket(key, text, file=b""):
    """The Ticket in a text, its code checked. file: file_of what is about to be written under it. Raises BadTicket."""
    import binascii

    try:
        raw = binascii.a2b_base64(text.encode("ascii").translate(_FROM_URL_SAFE))
    except ValueError as e:
        raise errors.BadTicket(detail="it is not a ticket") from e
    # Base64 can say the same bytes in several ways; only ours counts, so that a ticket has one text.
    if len(raw) != _TICKET.size + _CODE_SIZE or _ticket_text(raw) != text:
        raise errors.BadTicket(detail="it is not a ticket")
    packed, code = raw[:-_CODE_SIZE], raw[-_CODE_SIZE:]
    form, operation, epoch, key_id, expires, number, block, keeper, max_size, serial, user = _TICKET.unpack(packed)
    if form != _TICKET_FORMAT:
        raise errors.BadTicket(detail=f"unknown form {form}")
    if not compare_digest(code, _ticket_code(rolled_key(key, epoch, key_id), packed, file)):
        for_this = " for a file of this path and version" if operation == WRITE else ""
        raise errors.BadTicket(detail=f"it was not signed by this cluster's master{for_this}")
    return Ticket(operation, epoch, block.hex(), keeper.hex(), max_size, expires, serial, user, key_id, int.from_bytes(number, "big"))


def check_ticket(ticket, *, operation, block, keeper, size, user, epoch, tick, key_id=0):
    """Raise BadTicket unless the ticket allows exactly this, here and now.

    tick: the master's tick as this keeper knows it, under `epoch`; key_id: the ticket key that the master signs with now, as this
    keeper knows it: the one before is good as well, and a later one than it has heard of. A ticket of a newer reign than the
    keeper has heard of is honoured (its code proves a master signed it); its expiry cannot be judged yet, and its size and block
    still bind.
    """
    if ticket.operation != operation:
        raise errors.BadTicket(detail="it is for another operation")
    if ticket.block != block:
        raise errors.BadTicket(detail="it is for another block")
    if ticket.keeper != keeper:
        raise errors.BadTicket(detail="it is for another keeper")
    if size > ticket.max_size:
        raise errors.BadTicket(detail=f"it allows {ticket.max_size} bytes, not {size}")
    if ticket.user != user:
        raise errors.BadTicket(detail="it was made for somebody else")
    if ticket.epoch < epoch:
        raise errors.BadTicket(detail="it is of an earlier master's reign")
    if ticket.epoch == epoch and tick > ticket.expires_tick:
        raise errors.BadTicket(detail="it has expired")
    if ticket.epoch == epoch and ticket.key_id < key_id - 1:
        raise errors.BadTicket(detail="its key is out of use")


def make_receipt(key, block, keeper, size, crcs):
    """A keeper's word that it holds a block durably (hex 32): what the master believes at commit, not the client's."""
    said = f"{block} {keeper} {size} ".encode() + crcs
    return _code(key, b"dfs receipt\0" + said).hex()


def check_receipt(key, block, keeper, size, crcs, proof):
    return same(make_receipt(key, block, keeper, size, crcs), proof)
