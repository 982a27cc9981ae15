"""What must hold of TLS, as plain functions: run by test_tls.py, here or under another Python (`python3 tls_checks.py` prints JSON).

Pre-shared keys exist from Python 3.13; the tests themselves run on 3.11 too, and then have a 3.13 run those below by itself.
"""

import contextlib
import json
import logging
import os
import shutil
import socket
import ssl
import sys
import tempfile
import threading
import time
import traceback

HERE = os.path.dirname(os.path.abspath(__file__))
if __name__ == "__main__":
    sys.path[:0] = [HERE, os.path.dirname(os.path.dirname(os.path.dirname(HERE)))]

from net_helpers import HOST, KEY, OTHER_KEY, Service, closed_by_peer, raw, serving, wait_until  # noqa: E402

from dfs_lib import errors  # noqa: E402
from dfs_lib.net import streams, tls  # noqa: E402
from dfs_lib.wire import messages, trust  # noqa: E402

CA = os.path.join(HERE, "certificates", "ca.pem")
BLOCK = "ab" * 16


@contextlib.contextmanager
def private(name):
    """A copy of a certificate with its key, readable by its owner alone, as daemons insist."""
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, name)
        shutil.copyfile(os.path.join(HERE, "certificates", name), path)
        os.chmod(path, 0o600)
        yield path


@contextlib.contextmanager
def guarded(cert=None, wanted="require", service=None, key=KEY, **more):
    """A Server behind a Gate, by pre-shared key or (cert: a file's name) by certificate."""
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(private(cert)) if cert else None
        gate = tls.Gate(path, None, trust.Keyring.from_cluster_key(key).secret_for, lambda: wanted)
        yield stack.enter_context(serving(service, key, gate=gate, **more))


def dial(port, mode="auto", ca=None, key=KEY, identity="admin", timeout_s=3.0):
    return streams.connect(HOST, port, trust.Keyring.from_cluster_key(key).credentials("client", identity, trust.Tls(mode, ca)), timeout_s)


def raised(kind, act, *words):
    """The error of this kind that `act` raises, whose sentence has these words in it."""
    try:
        got = act()
    except errors.DfsError as e:
        assert type(e) is kind, f"{kind.__name__} wanted, got {type(e).__name__}: {e.message}"
        assert all(word in e.message for word in words), e.message
        return e
    raise AssertionError(f"{kind.__name__} wanted, got {got!r}")


class Between:
    """A man in the middle: a TLS server with a certificate of his own (None: plain) towards the asker, and TLS with a key of his own
    (None: plain) towards the daemon. What the asker has said to him, decrypted, is in `read`."""

    def __init__(self, port, certificate=None, own=None, ca=None):
        self.read, self._port, self._own, self._ca = bytearray(), port, own, ca
        self.n_handshakes = 0
        self._context = None
        if certificate:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(certificate)
        self._listener = socket.create_server((HOST, 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self):
        while True:
            try:
                near, _address = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._relay, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _relay(self, near):
        far = socket.create_connection((HOST, self._port))
        try:
            near.settimeout(5)
            if self._context is not None:
                near = self._context.wrap_socket(near, server_side=True)
            self.n_handshakes += 1
            far = self._onward(far)
            back = threading.Thread(target=self._pump, args=(far, near))
            back.start()
            self._threads.append(back)
            self._pump(near, far, self.read)
        except OSError:
            pass  # he is refused: what the tests want to see
        finally:
            for sock in (near, far):
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)
                sock.close()

    def _onward(self, far):
        if self._own is None and self._ca is None:
            return far
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        if self._ca:
            context.load_verify_locations(self._ca)
        else:
            role, identity, secret = self._own
            shown = trust.tls_identity(role, identity), trust.tls_key(secret)
            context.set_psk_client_callback(lambda _hint: shown)
        return context.wrap_socket(far)

    @staticmethod
    def _pump(source, target, keep=None):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if keep is not None:
                    keep += data
                target.sendall(data)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(8)
            assert not thread.is_alive()


def conversation_works(cert, ca):
    """Small and large messages, bodies both ways, an open file, many in turn; silence is noticed; an abort wakes a reader."""
    data = os.urandom(3 << 20)
    release = threading.Event()

    def take(message, exchange):
        assert exchange.body_length == len(data)
        view = memoryview(bytearray(len(data)))
        exchange.body_into(view)
        assert view == data
        exchange.answer(messages.BlockWritten(receipts=[], failed=[]))

    def give(message, exchange):
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            exchange.answer_file(messages.BlockData(size=len(data)), file.fileno(), 1000, message.count)

    def stall(message, exchange):
        release.wait(10)
        exchange.answer(messages.Done())

    service = Service(GetBlock=give, Ping=stall)
    with guarded(cert, service=service) as server:
        stream = dial(server.port, "require", ca)
        assert stream.is_encrypted and stream.talk.peer.role == "master"
        for count in (1, 16384, 16385, len(data) - 1000):
            stream.set_timeout(5)
            stream.send(messages.GetBlock(block=BLOCK, offset=0, count=count, ticket="t"))
            answer = stream.answer()
            assert type(answer) is messages.BlockData and stream.body() == data[1000:1000 + count]
        began_s = time.monotonic()
        raised(errors.PeerTimeout, lambda: stream.ask(messages.Ping(), timeout_s=0.3))
        assert 0.25 < time.monotonic() - began_s < 3
        threading.Timer(0.2, stream.abort).start()
        stream.set_timeout(5)
        raised(errors.PeerGone, stream.answer)
        release.set()
        stream.close()
        wait_until(lambda: service.n_left == 1)


def psk_conversation():
    conversation_works(None, None)


def certificate_conversation():
    conversation_works("node.pem", CA)


def askers_follow(cert, ca):
    """An asker that is told that TLS is required turns to it, and keeps to it for every further peer of that program."""
    with guarded(cert) as server, guarded(cert, wanted="allow") as lenient:
        stream = dial(server.port, "auto", ca)
        assert stream.is_encrypted and stream.ask(messages.Ping()) == messages.Done()
        stream.close()
        plain = dial(lenient.port, "auto", ca)
        assert not plain.is_encrypted
        plain.close()
        credentials = trust.Keyring.from_cluster_key(KEY).credentials("client", "admin", trust.Tls("auto", ca))
        for port in (server.port, lenient.port):
            stream = streams.connect(HOST, port, credentials)
            assert stream.is_encrypted
            stream.close()


def psk_askers_follow():
    askers_follow(None, None)


def certificate_askers_follow():
    askers_follow("node.pem", CA)


def the_plain_are_told():
    """Whoever cannot or will not encrypt is told so in one sentence, and learns nothing else."""
    for cert, how in ((None, "keys"), ("node.pem", "certificates")):
        if cert or tls.HAS_PSK:
            with guarded(cert) as server:
                raised(errors.TlsRequired, lambda: dial(server.port, "off"), "encrypted connections alone", how, "--tls off is set here")
                assert server.n_strangers_refused == 1 or wait_until(lambda: server.n_strangers_refused == 1) is None
    with guarded("node.pem") as server:
        raised(errors.TlsRequired, lambda: dial(server.port, "auto"), "--tls-ca FILE")


def those_who_cannot_are_let_in_where_it_is_only_wanted(cert, ca):
    """With `auto` a server takes plain connections of those who cannot encrypt, and of nobody else; an asker does likewise."""
    with guarded(cert, wanted="auto") as server, serving() as simple:
        gate = server._gate
        stream = dial(server.port, "auto", ca)
        assert stream.is_encrypted and gate.is_tight
        stream.close()
        plain = streams.connect(HOST, server.port, trust.Keyring.from_cluster_key(KEY).credentials("client", "admin"))
        assert not plain.is_encrypted and plain.ask(messages.Ping()) == messages.Done() and not gate.is_tight
        plain.close()
        credentials = trust.Keyring.from_cluster_key(KEY).credentials("client", "admin", trust.Tls("auto", ca))
        for port, is_encrypted in ((server.port, True), (simple.port, False), (server.port, True)):
            stream = streams.connect(HOST, port, credentials)
            assert stream.is_encrypted == is_encrypted and stream.ask(messages.Ping()) == messages.Done()
            stream.close()


def psk_those_who_cannot():
    those_who_cannot_are_let_in_where_it_is_only_wanted(None, None)


def certificate_those_who_cannot():
    those_who_cannot_are_let_in_where_it_is_only_wanted("node.pem", CA)


def stripped(cert, ca):
    """Between two sides that can, one who answers "no TLS here" and relays the plain connection gets nothing: also when he strikes out
    of Hello what the asker could have done."""
    credentials = trust.Keyring.from_cluster_key(KEY).credentials("client", "admin", trust.Tls("auto", ca))
    with guarded(cert, wanted="auto") as server:
        streams.connect(HOST, server.port, credentials).close()
        assert credentials.tls.is_on
        for cuts, kind in ((False, errors.TlsRequired), (True, errors.BadKey)):
            man = Stripping(server.port, cuts)
            try:
                raised(kind, lambda: streams.connect(HOST, man.port, credentials._replace()), "")
            finally:
                man.close()
            assert man.n_denied == 1


class Stripping(Between):
    """Says that no TLS is spoken here, and relays plain connections; cuts: with a Hello that says that its asker cannot do better."""

    def __init__(self, port, cuts):
        self._cuts, self.n_denied = cuts, 0
        super().__init__(port)

    def _relay(self, near):
        if near.recv(1, socket.MSG_PEEK) != b"\x16":
            return super()._relay(near)
        near.recv(4096)
        self.n_denied += 1
        near.sendall(b"\x15\x03\x03\x00\x02\x02\x46")
        near.close()

    def _pump(self, source, target, keep=None):
        if keep is not None:
            data = source.recv(65536)
            from dfs_lib.wire import frames

            head = frames.parse(data, frames.MAX_HEADER_STRANGER)
            hello = messages.decode(head.type, data[frames.HEAD.size:])
            hello.port = self._port
            if self._cuts:
                hello.tls = None
            header = hello.to_header()
            target.sendall(frames.pack(head.type, 0, len(header), 0, False) + header)
        super()._pump(source, target, keep)


def psk_stripped():
    stripped(None, None)


def certificate_stripped():
    stripped("node.pem", CA)


def the_encrypted_meet_the_plain():
    """A server that speaks no TLS, and something that is no server of ours."""
    with serving() as server:
        raised(errors.NoTls, lambda: dial(server.port, "require", CA), "does not speak TLS")
        assert dial(server.port, "auto", CA).ask(messages.Ping()) == messages.Done()


def psk_wrong_keys():
    """Another cluster's key, a user's key under another name: refused, by a sentence that says what it may be."""
    with guarded() as server:
        raised(errors.BadKey, lambda: dial(server.port, "require", key=OTHER_KEY), "the key of another cluster")
        ring = trust.Keyring.from_cluster_key(KEY)
        stolen = ring.credentials("client", "bob.1")._replace(identity="admin", tls=trust.Tls("require"))
        raised(errors.BadKey, lambda: streams.connect(HOST, server.port, stolen))
        assert dial(server.port).ask(messages.Ping()) == messages.Done()


def psk_identities_of_all_kinds():
    """Unknown, malformed and hostile identities fail the handshake, without a traceback anywhere."""
    said = []
    handler = logging.Handler()
    handler.emit = said.append
    logging.getLogger("dfs_lib.net.tls").addHandler(handler)
    hooked, sys.unraisablehook = sys.unraisablehook, said.append
    try:
        with guarded() as server:
            for shown in ("", "x", "dfs/client/admin", "dfs/client/admin/2", "dfs/nobody/admin/1", "dfs//admin/1", "dfs/keeper/\x7f/1",
                          "dfs/client/" + "a" * 200 + "/1", "dfs/client/\u00e4/1", "////", "dfs/client/admin/1/"):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.set_psk_client_callback(lambda _hint, shown=shown: (shown, b"k" * 32))
                sock = raw(server)
                try:
                    with contextlib.closing(context.wrap_socket(sock)) as covered:
                        raise AssertionError(f"{shown!r} was let in: {covered.version()}")
                except OSError:
                    sock.close()
            assert dial(server.port).ask(messages.Ping()) == messages.Done()
    finally:
        sys.unraisablehook = hooked
        logging.getLogger("dfs_lib.net.tls").removeHandler(handler)
    assert not said, said


def psk_man_in_the_middle():
    """One who ignores the key and shows a certificate of his own is refused, and reads nothing."""
    for name in ("stranger.pem", "insider.pem"):
        with guarded() as server, private(name) as certificate:
            man = Between(server.port, certificate)
            try:
                raised(errors.BadKey, lambda: dial(man.port, "require"), "shows a certificate")
            finally:
                man.close()
            assert not man.read and not man.n_handshakes


def psk_trap_is_real():
    """The same man against an asker with CERT_NONE: he gets in and hears Hello. The proofs inside then hold him up: no body is ever sent."""
    kept = tls._asker_context

    def careless(*args):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        shown = trust.tls_identity("client", "admin"), trust.tls_key(args[0].secret)
        context.set_psk_client_callback(lambda _hint: shown)
        return context

    tls._asker_context = careless
    try:
        with guarded(wanted="allow") as server, private("stranger.pem") as certificate:
            man = Between(server.port, certificate)
            try:
                raised(errors.BadKey, lambda: dial(man.port, "require"))
            finally:
                man.close()
            assert man.n_handshakes == 1 and one_frame_long(man.read)
    finally:
        tls._asker_context = kept


def one_frame_long(data):
    """Whether these are the bytes of a Hello and nothing more."""
    from dfs_lib.wire import frames

    head = frames.parse(data, frames.MAX_HEADER_STRANGER)
    return head.type == messages.Hello.code and len(data) == frames.HEAD.size + head.header_length


def certificate_man_in_the_middle():
    """One with a certificate from elsewhere reads nothing; one whose certificate is as good as the daemon's hears Hello alone."""
    with guarded("node.pem") as server:
        for name, n_handshakes in (("stranger.pem", 0), ("insider.pem", 1)):
            with private(name) as certificate:
                man = Between(server.port, certificate, ca=CA)
                try:
                    error = raised(errors.BadKey, lambda: dial(man.port, "require", CA))
                finally:
                    man.close()
                assert ("not vouched for" in error.message) == (not n_handshakes) and man.n_handshakes == n_handshakes
                assert one_frame_long(man.read) if n_handshakes else not man.read


def psk_insider_in_the_middle():
    """A user of the cluster between a plain asker and a daemon that requires TLS, which his own key opens: he hears Hello alone."""
    ring = trust.Keyring.from_cluster_key(KEY)
    with guarded() as server:
        man = Between(server.port, own=("client", "eve.1", ring.secret_for("client", "eve.1")))
        try:
            # the port in Hello is the daemon's: his relay stands on another address of the same machine in real life
            sock = socket.create_connection((HOST, man.port))
            raised(errors.BadKey, lambda: streams.greet(sock, HOST, server.port, ring.credentials("client", "admin")))
        finally:
            man.close()
        assert man.n_handshakes == 1 and one_frame_long(man.read)


def stalled_tls_handshakes_end():
    """A ClientHello that never comes whole, trickles, or is garbage: closed by the absolute deadline, and no slot is lost."""
    kept, streams.HANDSHAKE_TIMEOUT_S = streams.HANDSHAKE_TIMEOUT_S, 0.4
    try:
        service = Service()
        with guarded("node.pem", service=service) as server:
            for start in (b"\x16", b"\x16\x03\x01\x02\x00\x01", b"\x16\x03\x01\x00\x05hello", b"\x16" * 4096, b"", b"\x89DF"):
                sock = raw(server)
                sock.sendall(start)
                began_s = time.monotonic()
                assert closed_by_peer(sock) and time.monotonic() - began_s < 3
                sock.close()
            wait_until(lambda: service.n_left == 6)
            wait_until(lambda: not server._strangers and not server._open)
            assert dial(server.port, "require", CA).ask(messages.Ping()) == messages.Done()
    finally:
        streams.HANDSHAKE_TIMEOUT_S = kept


def bad_files_are_refused():
    """Files that are missing, hold nothing, or that others can read: a sentence that names them."""
    with private("node.pem") as path:
        secret_for = trust.Keyring.from_cluster_key(KEY).secret_for
        raised(errors.BadSetting, lambda: tls.Gate(path + "x", None, secret_for, bool), "no such file", path)
        raised(errors.BadSetting, lambda: tls.Gate(__file__, None, secret_for, bool), "no certificate")
        with serving() as server:
            raised(errors.BadSetting, lambda: dial(server.port, "require", path + "x"), "tls-ca", "no such file")
            raised(errors.BadSetting, lambda: dial(server.port, "require", __file__), "no certificate")


CHECKS = [psk_conversation, certificate_conversation, psk_askers_follow, certificate_askers_follow, the_plain_are_told, psk_those_who_cannot,
          certificate_those_who_cannot, psk_stripped, certificate_stripped,
          the_encrypted_meet_the_plain, psk_wrong_keys, psk_identities_of_all_kinds, psk_man_in_the_middle, psk_trap_is_real,
          certificate_man_in_the_middle, psk_insider_in_the_middle, stalled_tls_handshakes_end, bad_files_are_refused]


def main():
    for check in CHECKS:
        try:
            check()
            failure = ""
        except Exception:
            failure = traceback.format_exc()
        print(json.dumps({"check": check.__name__, "failure": failure}), flush=True)


if __name__ == "__main__":
    main()
