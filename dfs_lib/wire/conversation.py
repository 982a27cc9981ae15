"""Who may say what next: one side of one connection, as bytes in and bytes out.

Never touches a socket or a clock. It announces a body and its length; the body's bytes go from socket to file by the
caller's hand, but for the few that arrived in one piece with the header.

    asker                                  server
    ── Hello ───────────────────────────▶  HELLO → PROOF
    ◀─────────────────────── Challenge ──  proves itself first: a wrong key shows here, with a sentence
    ── Proof, first request ────────────▶  PROOF → OPEN
    ◀──────── Working … , then the answer
    then requests and answers in turn; PutBlock may be continued by BlockChunk; anything else is OutOfTurn

Once open, every frame of a keyed conversation is sealed under its direction's key and its number in the conversation, so that
nothing can be slipped in, repeated, reordered or cut off unnoticed.
"""

from collections import deque, namedtuple

from dfs_lib import errors
from dfs_lib.wire import frames, messages, trust

HELLO, CHALLENGE, PROOF, OPEN, CLOSED = "hello", "challenge", "proof", "open", "closed"

Arrived = namedtuple("Arrived", "message request_id body_length")
Peer = namedtuple("Peer", "role identity")


class Conversation:
    """One side. `receive` takes bytes, `next_message` gives the next Arrived or None, `send` gives bytes to put on the wire."""

    def __init__(self, phase):
        self.phase = phase
        self.peer = None
        self.cluster_id = None
        self._buffer = bytearray()
        self._at = 0
        self._body_left = 0
        self._send_key = self._receive_key = None
        self._n_sent = self._n_received = 0
        self._outstanding = deque()  # asker: (request id, legal answers); server: request ids not yet answered
        self._may_continue = False

    # -- bytes in -------------------------------------------------------------------------------------------------------
    def receive(self, data):
        """Take bytes from the wire."""
        if self._at == len(self._buffer):
            self._buffer.clear()
            self._at = 0
        self._buffer += data

    def next_message(self):
        """The next Arrived, or None when more bytes are needed. Raises ProtocolError; the connection is then of no use."""
        if self._body_left:
            raise errors.Misuse(detail="the body before this message was not taken")
        head_end = self._at + frames.HEAD.size
        if len(self._buffer) < head_end:
            self._check_magic()
            return None
        head = frames.parse(memoryview(self._buffer)[self._at:head_end],
                            frames.MAX_HEADER if self.phase == OPEN else frames.MAX_HEADER_STRANGER)
        header_end = head_end + head.header_length
        end = header_end + (frames.SEAL_SIZE if head.sealed else 0)
        if len(self._buffer) < end:
            return None
        header = bytes(self._buffer[head_end:header_end])
        self._check_seal(head, bytes(self._buffer[self._at:head_end]), header, bytes(self._buffer[header_end:end]))
        self._at = end
        message = messages.decode(head.type, header)
        if head.body_length > message.max_body:
            raise errors.BadFrame(detail=f"{type(message).__name__} with a body of {head.body_length} bytes, at most {message.max_body}")
        self._check_turn(message, head.request_id)
        self._body_left = head.body_length
        return Arrived(message, head.request_id, head.body_length)

    def _check_magic(self):
        """Tell a peer that speaks something else at its first byte, not after 32."""
        start = bytes(self._buffer[self._at:self._at + len(frames.MAGIC)])
        if not frames.MAGIC.startswith(start):
            raise errors.BadFrame(detail=f"it starts with {bytes(self._buffer[self._at:self._at + 16])!r}", magic=False)

    def take_body(self, limit):
        """Up to `limit` bytes of the announced body that arrived along with its header; b"" when none is left in here."""
        n = min(limit, self._body_left, len(self._buffer) - self._at)
        if not n:
            return b""
        taken = bytes(self._buffer[self._at:self._at + n])
        self._at += n
        self._body_left -= n
        return taken

    def body_taken(self, n):
        """The caller took `n` bytes of the body straight from the socket."""
        self._body_left -= n

    @property
    def body_left(self):
        return self._body_left

    @property
    def in_the_middle(self):
        """Whether an end of stream now would cut something off: a message, a body, or an answer that is owed to us."""
        return bool(self._at < len(self._buffer) or self._body_left or (self._outstanding and self._is_asker))

    # -- bytes out ------------------------------------------------------------------------------------------------------
    def send(self, message, request_id, body_length=0):
        """The bytes of one message's head, header and seal; its body of `body_length` bytes is the caller's to send after."""
        header = message.to_header()
        key = self._send_key
        head = frames.pack(message.code, request_id, len(header), body_length, key is not None)
        if key is None:
            data = head + header
        else:
            data = head + header + trust.seal(key, self._n_sent, head, header)
        self._n_sent += 1
        if message.kind == "request":
            self._outstanding.append((request_id, message.answers))
        return data

    # -- checks; each side adds `_check_turn(message, request_id)`: may this message come now? -------------------------
    def _check_seal(self, head, head_bytes, header, code):
        if head.sealed != (self._receive_key is not None):
            raise errors.BadFrame(detail="a seal is missing" if self._receive_key else "a seal before the handshake")
        if head.sealed and not trust.compare_digest(code, trust.seal(self._receive_key, self._n_received, head_bytes, header)):
            raise errors.BadFrame(detail="its seal is wrong: altered, repeated or out of order")
        self._n_received += 1

class Asker(Conversation):
    """The side that connects and asks."""

    _is_asker = True

    def __init__(self, credentials, port, nonce):
        """credentials: trust.Credentials; port: the one dialled; nonce: 64 hex digits, fresh."""
        super().__init__(HELLO)
        self._credentials = credentials
        self._hello = messages.Hello(version=messages.PROTOCOL_VERSION, role=credentials.role, identity=credentials.identity,
                                     auth=credentials.auth, nonce=nonce, port=port)

    def hello(self):
        """The first bytes to send."""
        self.phase = CHALLENGE
        return self.send(self._hello, 0)

    def prove(self, challenge, address):
        """Check the server's Challenge; returns the bytes of our Proof. Raises BadKey or VersionMismatch in plain words."""
        if challenge.version != messages.PROTOCOL_VERSION:
            raise errors.VersionMismatch(address=address, theirs=challenge.version, ours=messages.PROTOCOL_VERSION)
        if challenge.auth != self._hello.auth:
            raise errors.BadKey(address=address, detail="it wants a key and none was given" if challenge.auth == "hmac"
                                else "it runs with --insecure; add --insecure here if that is meant")
        secret = self._credentials.secret
        said = trust.transcript(self._hello, challenge)
        if not trust.same(challenge.proof, trust.server_proof(secret, said)):
            raise errors.BadKey(address=address, detail="it is the key of another cluster, or the user was removed")
        data = self.send(messages.Proof(proof=trust.client_proof(secret, said)), 0)
        self.peer = Peer(challenge.role, "")
        self.cluster_id = challenge.cluster_id
        self.phase = OPEN
        if challenge.auth == "hmac":
            self._send_key, self._receive_key = trust.session_keys(secret, said)
            self._n_sent = self._n_received = 0
        return data

    def _check_turn(self, message, request_id):
        if self.phase == CHALLENGE:
            if isinstance(message, (messages.Challenge, messages.Refused)):
                return
        elif self.phase == OPEN and message.kind == "answer" and self._outstanding:
            expected_id, answers = self._outstanding[0]
            if request_id == expected_id:
                if isinstance(message, messages.Working):
                    return
                if isinstance(message, answers) or isinstance(message, messages.Refused):
                    self._outstanding.popleft()
                    return
        raise errors.OutOfTurn(detail=f"{type(message).__name__} while {self.phase}, request {request_id}")


class Server(Conversation):
    """The side that is connected to and answers."""

    _is_asker = False

    def __init__(self, secret_for, auth, role, cluster_id, port, nonce):
        """secret_for(role, identity) → bytes or None for somebody unknown; port: the one we listen on; nonce: fresh."""
        super().__init__(HELLO)
        self._secret_for, self._auth, self._role = secret_for, auth, role
        self.cluster_id = cluster_id
        self._port, self._nonce = port, nonce
        self._said = self._secret = self._hello = None

    def challenge(self, hello):
        """Answer a Hello; returns bytes. A stranger gets a challenge too, and learns nothing from it."""
        challenge = messages.Challenge(version=messages.PROTOCOL_VERSION, role=self._role, cluster_id=self.cluster_id,
                                       auth=self._auth, nonce=self._nonce, proof="0" * 64)
        self._hello = hello
        self._said = trust.transcript(hello, challenge)
        self._secret = self._secret_for(hello.role, hello.identity)
        if self._secret is not None:
            challenge.proof = trust.server_proof(self._secret, self._said)
        self.phase = PROOF
        return self.send(challenge, 0)

    def accept(self, proof):
        """Check the asker's Proof. Raises BadKey, to be answered by closing and nothing else."""
        hello = self._hello
        good = self._secret is not None and hello.auth == self._auth and hello.port == self._port
        if not good or not trust.same(proof.proof, trust.client_proof(self._secret, self._said)):
            self.phase = CLOSED
            raise errors.BadKey(address=f"{hello.role} {hello.identity}", detail="its proof is wrong")
        self.peer = Peer(hello.role, hello.identity)
        self.phase = OPEN
        if self._auth == "hmac":
            self._receive_key, self._send_key = trust.session_keys(self._secret, self._said)
            self._n_sent = self._n_received = 0

    def continues(self, wanted):
        """The service takes (or no longer takes) continuations of the request under way."""
        self._may_continue = wanted

    @property
    def expects_continuation(self):
        return self._may_continue

    def _check_turn(self, message, request_id):
        if self.phase == HELLO and isinstance(message, messages.Hello):
            return
        if self.phase == PROOF and isinstance(message, messages.Proof):
            return
        if self.phase == OPEN:
            if message.kind == "continuation" and self._may_continue:
                return
            if message.kind == "request" and not self._may_continue:
                return
        raise errors.OutOfTurn(detail=f"{type(message).__name__} while {self.phase}")
