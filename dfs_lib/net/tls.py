"""TLS 1.3 around a connection, by pre-shared key (Python 3.13 and later) or by certificate; the handshake of ours runs inside.

Never decides who may do what, and is imported only where encryption is in use: `ssl` costs each start 15 ms.

    asker                                                     server
    ClientHello: offers a key of its identity, where ──────▶  first byte 0x16: TLS; 0x89: ours, in plain, which a server that
    its Python can; checks certificates against --tls-ca      requires TLS answers with Refused and nothing else
    ◀──────────────────────────────────────── ServerHello …   by that key; or by certificate when it was given one
    Hello, Challenge, Proof: over what either side has seen of the TLS (trust.transcript), so that nobody can sit in between

An asker takes no certificate that --tls-ca does not vouch for, also when it offers a key: with CERT_NONE, which examples of
pre-shared keys show, a man in the middle ignores the key, shows any certificate at all, and reads everything.
"""

import hashlib
import logging
import socket
import ssl
import sys
import threading
import time

from dfs_lib import errors, keyfile
from dfs_lib.wire import trust

log = logging.getLogger(__name__)

HAS_PSK = getattr(ssl, "HAS_PSK", False)
_CLIENT_HELLO = b"\x16"  # the first byte of TLS; of ours it is 0x89
# Up to this a header and its body are one record and one system call.
_ONE_RECORD = 16384
# What ssl says of an answer that is no TLS; who refuses a key says so by an alert, and who is just dying says nothing. The
# last one is what our own daemons answer.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "PACKET_LENGTH_TOO_LONG",
            "TLSV1_ALERT_PROTOCOL_VERSION")
_KEPT_CONTEXTS = 64  # a client has one, a gateway one for each user who is at it
_python = sys.version.split()[0]


class Socket:
    """A TLS connection with the methods of a socket that a Stream calls."""

    def __init__(self, sock):
        self._sock = sock
        self.family, self.fileno, self.settimeout, self.close = sock.family, sock.fileno, sock.settimeout, sock.close
        self.recv_into, self.sendall = sock.recv_into, sock.sendall

    def sendmsg(self, parts):
        total = len(parts[0]) + len(parts[1])
        if total <= _ONE_RECORD:
            self._sock.sendall(b"".join(parts))
        else:
            self._sock.sendall(parts[0])
            self._sock.sendall(parts[1])
        return total

    def shutdown(self, how):
        # Of the connection below: ssl's own would let another thread, in the middle of reading, go on without decrypting.
        socket.socket.shutdown(self._sock, how)


def _wrapped(stream, context, seconds, **side):
    """The TLS socket over a stream's plain one, its handshake done within `seconds`. Raises OSError; the plain socket is then closed."""
    plain = stream.sock
    if not isinstance(plain, socket.socket):
        plain = socket.socket(fileno=plain.detach())
    sock = None
    try:
        plain.settimeout(max(seconds, 0.001))
        sock = context.wrap_socket(plain, do_handshake_on_connect=False, **side)
        stream.sock = sock  # so that closing the stream closes it, whatever comes
        sock.do_handshake()
        return sock
    except ssl.SSLError:
        raise  # some are ValueErrors too
    except ValueError as e:  # the peer has gone in between: ssl finds no connection
        raise ConnectionResetError(str(e)) from e


# -- asking -------------------------------------------------------------------------------------------------------------
def asker(credentials, address, required=None):
    """The SSLContext by which an asker of these credentials encrypts its connections.

    required: what the peer at `address` said it wants, None when we want it ourselves.
    Raises TlsRequired or BadSetting in plain words when this side cannot do that, BadSetting for a --tls-ca that cannot be read.
    """
    tls = credentials.tls
    may_psk = HAS_PSK and credentials.auth != "none"
    why = (f"this dfs runs on Python {_python}, and keys without certificates need 3.13 or later" if not HAS_PSK
           else "that needs a key, and --insecure is set here")
    if required == trust.PSK and not may_psk:
        raise errors.TlsRequired(address=address, how=required, detail=f"by TLS with the cluster's keys; {why}")
    if required == trust.CERTIFICATE and not tls.ca:
        raise errors.TlsRequired(address=address, how=required, detail="by TLS with certificates; name the file of those that sign "
                                                                       "them: --tls-ca FILE")
    if not may_psk and not tls.ca:
        raise errors.BadSetting(name="tls", origin="the settings", detail=f"require: {why}; or name --tls-ca FILE")
    return _asker_context(credentials, may_psk)


_kept = {}  # (role, identity, secret, ca) → SSLContext: making one costs more than a handshake


def _asker_context(credentials, may_psk):
    key = credentials.role, credentials.identity, credentials.secret, credentials.tls.ca
    context = _kept.get(key)
    if context is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # Names are not compared, because nodes go by addresses that change: the proofs inside hold the certificate itself.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED  # never CERT_NONE, see above
        if credentials.tls.ca:
            _load(context.load_verify_locations, "tls-ca", credentials.tls.ca)
        if may_psk:
            shown = trust.tls_identity(credentials.role, credentials.identity), trust.tls_key(credentials.secret)
            context.set_psk_client_callback(lambda _hint: shown)
        if len(_kept) >= _KEPT_CONTEXTS:
            _kept.clear()
        _kept[key] = context
    return context


def _load(load, name, *paths):
    try:
        load(*paths)
    except (OSError, ValueError) as e:  # SSLError is an OSError
        detail = "it holds no certificate that can be read" if isinstance(e, (ssl.SSLError, ValueError)) else (e.strerror or str(e)).lower()
        raise errors.BadSetting(name=name, origin=" and ".join(str(path) for path in paths), detail=detail) from e


def encrypt(stream, context, credentials, seconds):
    """The asker's side of TLS. Raises NoTls, BadKey, PeerTimeout, PeerGone."""
    try:
        sock = _wrapped(stream, context, seconds)
    except TimeoutError as e:
        raise errors.PeerTimeout(address=stream.address, seconds=round(seconds, 1)) from e
    except ssl.SSLCertVerificationError as e:
        detail = f"its certificate is not vouched for by --tls-ca ({e.verify_message})" if credentials.tls.ca else \
            "it shows a certificate, and not that it knows this key"
        raise errors.BadKey(address=stream.address, detail=detail) from e
    except OSError as e:
        if not isinstance(e, ssl.SSLError) or isinstance(e, ssl.SSLEOFError):
            raise errors.PeerGone(address=stream.address, detail="in the middle of the TLS handshake") from e
        if e.reason in _NOT_TLS:
            raise errors.NoTls(address=stream.address) from e
        raise errors.BadKey(address=stream.address, detail="the TLS handshake failed: it is the key of another cluster, the user was "
                                                           f"removed or has a newer key, or only one side has certificates ({e.reason})") from e
    certificate = sock.getpeercert(True)
    if certificate:
        binding = trust.certificate_binding(hashlib.sha256(certificate).digest())
    elif sock.session_reused and HAS_PSK:
        binding = trust.psk_binding(trust.tls_identity(credentials.role, credentials.identity))
    else:
        raise errors.BadKey(address=stream.address, detail="TLS without a key and without a certificate")
    stream.encrypt(Socket(sock), binding)


# -- serving ------------------------------------------------------------------------------------------------------------
def gate_of(settings, has_keys, secret_for, wanted):
    """The Gate that a daemon's settings ask for; None when they leave it open and this side cannot encrypt anyhow.

    has_keys: not --insecure. Raises BadSetting when they insist, BadKeyFile for a private key that others can read.
    """
    if not settings.tls_cert and not (HAS_PSK and has_keys):
        if settings.tls == trust.AUTO:
            return None
        why = f"Python {_python} has no TLS without certificates (3.13 and later do)" if not HAS_PSK else "--insecure has no keys for it"
        raise errors.BadSetting(name="tls", origin="the settings", detail=f"{settings.tls}: {why}; name --tls-cert FILE")
    if settings.tls_cert:
        keyfile.check_private(settings.tls_key or settings.tls_cert)
    return Gate(settings.tls_cert, settings.tls_key, secret_for, wanted)


class Gate:
    """How one server's connections begin: which are encrypted, and which plain ones are refused."""

    def __init__(self, cert, key, secret_for, wanted):
        """cert, key: files, or None for pre-shared keys; secret_for(role, identity) → bytes or None; wanted() → trust.REQUIRE: plain
        connections are refused; trust.AUTO: those of askers that could do better; trust.ALLOW: none.

        Raises BadSetting for files that cannot be used.
        """
        self._secret_for, self._wanted = secret_for, wanted
        self.n_plain = 0  # plain connections of peers that have proved themselves, since the start: more than none is what matters
        self.how = trust.CERTIFICATE if cert else trust.PSK
        self._shown = threading.local()  # .identity: what the asker that this thread serves has called itself
        self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.num_tickets = 0  # connections are kept, never resumed
        if cert:
            _load(context.load_cert_chain, "tls-cert", cert, key or cert)
            self._binding = trust.certificate_binding(_fingerprint(cert))
        else:
            context.set_psk_server_callback(self._key_of)

    def refuses(self, hello):
        """How the asker of a plain connection has to encrypt it, trust.PSK or CERTIFICATE; "" when it may come in as it is."""
        wanted = self._wanted()
        if wanted == trust.REQUIRE or wanted == trust.AUTO and self.how in (hello.tls or "").split():
            return self.how
        return ""

    @property
    def is_tight(self):
        """Whether no plain connection has been let through, and none but of those who cannot do better will be."""
        return self._wanted() != trust.ALLOW and not self.n_plain

    def _key_of(self, identity):
        """The key of whoever shows this identity. It must not raise, nor return None: either would print a traceback for any stranger."""
        self._shown.identity = None
        try:
            named = trust.read_tls_identity(identity)
            secret = named and self._secret_for(*named)
            if not secret:
                return b""  # which fails the handshake
            self._shown.identity = identity
            return trust.tls_key(secret)
        except Exception:
            log.exception("bug while looking up a key for TLS")
            return b""

    def admit(self, stream, seconds):
        """Encrypt a connection just accepted when its peer begins so. Raises PeerTimeout, PeerGone, BadKey.

        seconds: for all of it, the wait for the first byte too (F35).
        """
        end_s = time.monotonic() + seconds
        try:
            stream.sock.settimeout(max(seconds, 0.001))
            if stream.sock.recv(1, socket.MSG_PEEK) != _CLIENT_HELLO:
                stream.sock.settimeout(None)
                return
            sock = _wrapped(stream, self._context, end_s - time.monotonic(), server_side=True)
        except TimeoutError as e:
            raise errors.PeerTimeout(address=stream.address, seconds=round(seconds, 1)) from e
        except ssl.SSLError as e:
            raise errors.BadKey(address=stream.address, detail=f"its TLS handshake failed ({e.reason or e})") from e
        except OSError as e:
            raise errors.PeerGone(address=stream.address, detail="before it said anything") from e
        if self.how == trust.CERTIFICATE:
            binding = self._binding
        elif sock.session_reused and self._shown.identity:
            binding = trust.psk_binding(self._shown.identity)
        else:
            raise errors.BadKey(address=stream.address, detail="its TLS shows no key")
        stream.encrypt(Socket(sock), binding)


class Certificate:
    """TLS for peers of other makes: browsers, curl. By certificate alone; who asks shows a key in what the connection carries."""

    def __init__(self, cert, key):
        """cert, key: PEM files; key None: it is in the file of the certificate. Raises BadSetting, BadKeyFile for a key that others can read."""
        keyfile.check_private(key or cert)
        self._context = context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.set_alpn_protocols(["http/1.1"])
        _load(context.load_cert_chain, "tls-cert", cert, key or cert)

    def admit(self, sock, seconds, to_plain):
        """The encrypted socket over one just accepted, within `seconds` from the first byte waited for; None for a peer that does not
        speak TLS: it was answered with `to_plain`. The plain socket is given up in both cases. Raises OSError."""
        end_s = time.monotonic() + seconds
        sock.settimeout(max(seconds, 0.001))
        first = sock.recv(1, socket.MSG_PEEK)
        if first != _CLIENT_HELLO:
            if first:
                sock.recv(1 << 16)  # unread bytes would turn the close into a reset, which destroys the answer
                sock.sendall(to_plain)
            return None
        try:
            wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        except ValueError as e:  # the peer has gone in between: ssl finds no connection
            raise ConnectionResetError(str(e)) from e
        try:
            wrapped.settimeout(max(end_s - time.monotonic(), 0.001))
            wrapped.do_handshake()
        except BaseException:
            wrapped.close()
            raise
        return wrapped


def _fingerprint(path):
    """SHA-256 of the DER form of the first certificate in a PEM file: the one that a server shows."""
    try:
        with open(path, encoding="ascii", errors="replace") as source:
            text = source.read(1 << 20)
        begin, end = text.index(ssl.PEM_HEADER), text.index(ssl.PEM_FOOTER) + len(ssl.PEM_FOOTER)
        return hashlib.sha256(ssl.PEM_cert_to_DER_cert(text[begin:end])).digest()
    except (OSError, ValueError) as e:
        raise errors.BadSetting(name="tls-cert", origin=str(path), detail="it holds no certificate that can be read") from e
