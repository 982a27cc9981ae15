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

from dfs_lib import errors
from dfs_lib.records import record
from dfs_lib.wire import frames, json_text, messages, trust

HELLO, CHALLENGE, PROOF, OPEN, CLOSED = "hello", "challenge", "proof", "open", "closed"

_HEAD_SIZE = frames.HEAD.size

Arrived = record("Arrived", "message request_id body_length")
_new = tuple.__new__  # as in frames
Peer = record("Peer", "role identity")


class Conversation:
    """One side. `receive` takes bytes, `next_message` gives the next Arrived or None, `send` gives bytes to put on the wire."""

    def __init__(self, phase):
        self.phase = phase
        self.peer = None
        self.cluster_id = None
        self.binding = b""  # what the connection is encrypted by, see trust.transcript; whoever encrypts it says so before Hello
        self._buffer = b""  # what came and was not taken yet begins at _at; bytes while a read begins with a message, else a bytearray
        self._at = 0
        self._body_left = 0
        self._send_seal = self._receive_seal = None  # trust.sealer of each direction, once keyed and open
        self._exporter = None  # (secret, transcript) once keyed and open
        self._n_sent = self._n_received = 0
        self._outstanding = []  # asker: (request id, class) of the requests not yet answered, oldest first
        self._may_continue = False
        self.broken = False  # the other side broke the rules: nothing it says counts any more
        self.spent = False  # no new request should be sent: the other side may close

    # -- bytes in -------------------------------------------------------------------------------------------------------
    def receive(self, data):
        """Take bytes from the wire. What was parsed is let go first: an asker that never pauses must not make this grow."""
        buffer = self._buffer
        if self._at == len(buffer):
            self._buffer, self._at = bytes(data), 0
            return
        if type(buffer) is bytes:
            self._buffer = buffer = bytearray(buffer)  # it may come in any number of pieces
        if self._at:
            del buffer[:self._at]
            self._at = 0
        buffer += data

    def next_message(self):
        """The next Arrived, or None when more bytes are needed. Raises ProtocolError; the connection is then of no use."""
        if self._body_left:
            raise errors.Misuse(detail="the body before this message was not taken")
        if self._at == len(self._buffer) and not self.broken:
            return None
        try:
            return self._taken()
        except errors.ProtocolError:
            self.broken = True
            raise

    def _taken(self):
        if self.broken:
            raise errors.OutOfTurn(detail="anything after a broken message")
        buffer, at = self._buffer, self._at
        head_end = at + _HEAD_SIZE
        if len(buffer) < head_end:
            self._check_magic()
            return None
        sealed, type_code, request_id, header_length, body_length = frames.parse(
            buffer, frames.MAX_HEADER if self.phase == OPEN else frames.MAX_HEADER_STRANGER, at)
        if sealed != (self._receive_seal is not None):
            raise errors.BadFrame(detail="a seal where none is due" if sealed else "a seal is missing")
        header_end = head_end + header_length
        end = header_end + frames.SEAL_SIZE if sealed else header_end
        if len(buffer) < end:
            return None
        if sealed and not trust.compare_digest(buffer[header_end:end], self._receive_seal(self._n_received, buffer[at:header_end])):
            raise errors.BadFrame(detail="its seal is wrong: altered, repeated or out of order")
        self._n_received += 1
        self._at = end
        message = messages.decode(type_code, buffer[head_end:header_end])
        if body_length > message.max_body:
            raise errors.BadFrame(detail=f"{type(message).__name__} with a body of {body_length} bytes, at most {message.max_body}")
        self._check_turn(message, request_id)
        self._body_left = body_length
        return _new(Arrived, (message, request_id, body_length))

    def _check_magic(self):
        """Tell a peer that speaks something else at its first byte, not after 32."""
        start = bytes(self._buffer[self._at:self._at + len(frames.MAGIC)])
        if not frames.MAGIC.startswith(start):
            raise errors.BadFrame(detail=f"it starts with {bytes(self._buffer[self._at:self._at + 16])!r}", magic=False)

    @property
    def heard_tls(self):
        """Whether the other side began with TLS, which is not ours to answer."""
        start = bytes(self._buffer[:6])
        return self.phase == HELLO and start[:2] == b"\x16\x03" and start[5:] == b"\x01"

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
        """The bytes of one message's head, header and seal; its body of `body_length` bytes is the caller's to send after.

        Raises Misuse when the other side would have to refuse it for its size: pages must be cut so that they fit.
        """
        header = message.to_header()
        length = len(header)
        if length > frames.MAX_HEADER or body_length > message.max_body:
            raise errors.Misuse(detail=f"{type(message).__name__} with a header of {length} bytes and a body of {body_length}")
        seal = self._send_seal
        data = frames.pack(message.code, request_id, length, body_length, seal is not None) + header
        if seal is not None:
            data += seal(self._n_sent, data)
        self._n_sent += 1
        if message.kind == "request":
            self._outstanding.append((request_id, type(message)))
        return data

    def _seal_with(self, send_key, receive_key):
        """From the next frame on everything is sealed, and numbered from 0 in each direction."""
        self._send_seal, self._receive_seal = trust.sealer(send_key), trust.sealer(receive_key)
        self._n_sent = self._n_received = 0

    def export(self, label, length):
        """Bytes that only the two sides of this conversation can make. Raises Misuse when it is not keyed or not open."""
        if self._exporter is None:
            raise errors.Misuse(detail="a conversation without keys exports none")
        return trust.exported(*self._exporter, label, length)

    # Each side adds `_check_turn(message, request_id)`: may this message come now?


class Asker(Conversation):
    """The side that connects and asks."""

    _is_asker = True

    def __init__(self, credentials, port, nonce):
        """credentials: trust.Credentials; port: the one dialled; nonce: 64 hex digits, fresh."""
        super().__init__(HELLO)
        self._credentials = credentials
        self._hello = messages.Hello(version=messages.PROTOCOL_VERSION, role=credentials.role, identity=credentials.identity,
                                     auth=credentials.auth, nonce=nonce, port=port,
                                     tls=credentials.tls and credentials.tls.ways(credentials.auth))

    def hello(self):
        """The first bytes to send. They end a line, so that a server of line-based text answers at once, and not as dfs."""
        self.phase = CHALLENGE
        header = self._hello.to_header() + json_text.LINE_ENDS.encode()
        return frames.pack(self._hello.code, 0, len(header), 0, False) + header

    def prove(self, challenge, address):
        """Check the server's Challenge; returns the bytes of our Proof. Raises BadKey or VersionMismatch in plain words."""
        if challenge.version != messages.PROTOCOL_VERSION:
            raise errors.VersionMismatch(address=address, theirs=challenge.version, ours=messages.PROTOCOL_VERSION)
        if challenge.auth != self._hello.auth:
            raise (errors.BadKey(address=address, detail="it wants a key and none was given") if challenge.auth == "hmac"
                   else errors.no_key_wanted(address))
        secret = self._credentials.secret
        said = trust.transcript(self._hello, challenge, self.binding)
        if not trust.same(challenge.proof, trust.server_proof(secret, said)):
            raise errors.BadKey(address=address, detail="it is the key of another cluster, or the user was removed or has a newer key")
        data = self.send(messages.Proof(proof=trust.client_proof(secret, said)), 0)
        self.peer = Peer(challenge.role, "")
        self.cluster_id = challenge.cluster_id
        self.phase = OPEN
        if challenge.auth == "hmac":
            self._exporter = secret, said
            self._seal_with(*trust.session_keys(secret, said))
        return data

    def _check_turn(self, message, request_id):
        if self.phase == CHALLENGE:
            if isinstance(message, (messages.Challenge, messages.Refused)) and request_id == 0:
                return
        elif self.phase == OPEN and message.kind == "answer" and self._outstanding:
            expected_id, request = self._outstanding[0]
            if request_id == expected_id:
                if isinstance(message, messages.Working):
                    return
                if isinstance(message, request.answers):
                    del self._outstanding[0]
                    return
                if isinstance(message, messages.Refused):
                    del self._outstanding[0]
                    # A server that refuses before it has read the whole body closes; the asker cannot know which it was.
                    self.spent = self.spent or request.max_body > 0
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
        self._said = trust.transcript(hello, challenge, self.binding)
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
            raise errors.BadKey(address=f"{hello.role} {hello.identity!r}", detail="its proof is wrong")
        self.peer = Peer(hello.role, hello.identity)
        self.phase = OPEN
        if self._auth == "hmac":
            self._exporter = self._secret, self._said
            client_to_server, server_to_client = trust.session_keys(self._secret, self._said)
            self._seal_with(server_to_client, client_to_server)

    def continues(self, wanted):
        """The service takes (or no longer takes) continuations of the request under way."""
        self._may_continue = wanted

    @property
    def expects_continuation(self):
        return self._may_continue

    def _check_turn(self, message, request_id):
        if self.phase == HELLO and isinstance(message, messages.Hello) and request_id == 0:
            return
        if self.phase == PROOF and isinstance(message, messages.Proof) and request_id == 0:
            return
        if self.phase == OPEN:
            if message.kind == "continuation" and self._may_continue:
                return
            if message.kind == "request" and not self._may_continue:
                return
        raise errors.OutOfTurn(detail=f"{type(message).__name__} while {self.phase}")
