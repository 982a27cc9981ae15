"""Encryption between real daemons, mixed programs that work together, and `--insecure` that other machines must not reach."""

import os
import secrets
import shutil
import socket
import subprocess
import sys

import pytest
from test_access import Recorder

import live_cluster
from dfs_lib import errors, keyfile
from dfs_lib.net import streams
from dfs_lib.wire import trust

pytestmark = pytest.mark.usefixtures("work")

CERTIFICATES = os.path.join(live_cluster.ROOT, "tests", "unit", "net", "certificates")
CA = os.path.join(CERTIFICATES, "ca.pem")


class MixedCluster(live_cluster.LiveCluster):
    """Each daemon by a program of its own: programs["master"], ["k1"] …; ["client"] for verbs. `tls_words` for all of them."""

    def __init__(self, directory, programs, *, client_words=(), **rest):
        self._programs, self._more_words = programs, list(client_words)
        super().__init__(directory, program=programs["client"], **rest)

    def _daemon(self, name, arguments):
        daemon = super()._daemon(name, arguments)
        daemon.command = list(self._programs.get(name, self.command))
        return daemon

    def client_words(self):
        return [*super().client_words(), *self._more_words]

    def wait_live(self, n_keepers, timeout_s=30.0):
        self.dfs("wait", "--keepers", str(n_keepers), "--timeout", str(round(timeout_s, 1)))


@pytest.fixture
def certificate(work):
    """(words for daemons, words for clients) of TLS by certificates."""
    path = os.path.join(work, "node.pem")
    shutil.copyfile(os.path.join(CERTIFICATES, "node.pem"), path)
    os.chmod(path, 0o600)
    return ["--tls", "require", "--tls-cert", path], ["--tls-ca", CA]


@pytest.fixture
def mixed(work):
    """Function: start a MixedCluster, stopped at the end of the test."""
    made = []

    def make(programs, **options):
        made.append(MixedCluster(os.path.join(work, f"mixed{len(made)}"), programs, **options))
        return made[-1].start()

    yield make
    for cluster in made:
        cluster.stop()


def source(python=sys.executable):
    return [python, *live_cluster.SOURCE[1:]]


def round_trip(cluster, work):
    """Files small and large go in by chains through all keepers, and come out the same."""
    for size in (5000, 3_000_000):
        path = os.path.join(work, f"f{size}")
        live_cluster.write_random(path, size, seed=size)
        cluster.dfs("put", "--safe", str(cluster.n_keepers), path, f"/f{size}")
        cluster.dfs("get", f"/f{size}", path + ".back")
        assert live_cluster.digest(path) == live_cluster.digest(path + ".back")


def plain_dial(cluster, port):
    """An attempt, by whoever holds the cluster's key, to speak with a port in plain."""
    credentials = trust.client_credentials(keyfile.read(cluster.key_file), trust.Tls("off"))
    return streams.connect("127.0.0.1", port, credentials)


def test_by_certificate_nothing_travels_in_plain(mixed, work, certificate):
    daemon_words, client_words = certificate
    cluster = mixed({"client": source()}, keepers=2, n_ports=1, client_words=client_words, master_options=[*daemon_words, "--copies", "2"],
                    keeper_options=[*daemon_words, *client_words])
    round_trip(cluster, work)
    assert cluster.status()["encrypted"] is True and "not all encrypted" not in cluster.dfs("status")
    for daemon in (cluster.master, *cluster.keepers.values()):
        with pytest.raises(errors.TlsRequired, match="by TLS with certificates"):
            plain_dial(cluster, daemon.ports[0])
    said = cluster.dfs("ls", "--tls", "off", status=6)
    assert "takes encrypted connections alone" in said and "Traceback" not in said and len(said.splitlines()) == 2
    # what a relay hears of a name and a file
    recorder, name = Recorder(cluster.master.ports[0]), f"a-name-{secrets.token_hex(8)}"
    try:
        cluster.dfs("mkdir", f"/{name}", "--master", f"127.0.0.2:{recorder.port}")
    finally:
        recorder.close()
    heard = b"".join(map(bytes, recorder.sent))
    assert len(heard) > 500 and name.encode() not in heard and b'"path"' not in heard


def test_one_word_at_the_master_encrypts_the_whole_cluster(mixed, work, psk_python):
    """By pre-shared keys: neither keepers nor clients are told anything, and a Python that cannot is told why it is refused."""
    cluster = mixed({"client": source(psk_python), "master": source(psk_python)}, keepers=2, n_ports=1,
                    master_options=["--tls", "require", "--copies", "2"])
    round_trip(cluster, work)
    assert cluster.status()["encrypted"] is True
    with pytest.raises(errors.TlsRequired, match="with the cluster's keys"):
        plain_dial(cluster, cluster.master.ports[0])
    for keeper in cluster.keepers.values():
        with pytest.raises(errors.TlsRequired, match="with the cluster's keys"):
            streams.connect("127.0.0.1", keeper.ports[0], able_but_plain(cluster))
    if sys.version_info < (3, 13):
        done = subprocess.run([*live_cluster.SOURCE, "ls", *cluster.client_words()], capture_output=True, text=True, timeout=30)
        assert done.returncode == 6 and "3.13 or later" in done.stderr and len(done.stderr.splitlines()) == 2
    # a second start of a keeper, and a master that comes back, find each other again
    cluster.restart("k1")
    cluster.kill("master")
    cluster.restart("master")
    cluster.dfs("wait", "--keepers", "2", "--timeout", "30")
    cluster.dfs("get", "/f5000", os.path.join(work, "again"))


def able_but_plain(cluster):
    """Credentials of one who could use a pre-shared key and comes in plain."""
    class Able(trust.Tls):
        def ways(self, auth):
            return trust.PSK

    return trust.client_credentials(keyfile.read(cluster.key_file), Able("off"))


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])
def test_other_versions_of_python_work_together(mixed, work, certificate, is_encrypted, other_pythons):
    if not other_pythons:
        pytest.skip("no other Python 3.11 or later here (TEST_PYTHONS may name one)")
    work_together(mixed, work, certificate if is_encrypted else ([], []), source(), source(other_pythons[max(other_pythons)]))


@pytest.mark.frozen
@pytest.mark.parametrize("is_encrypted", [False, True], ids=["plain", "encrypted"])
def test_frozen_and_source_work_together(mixed, work, certificate, is_encrypted):
    path = live_cluster.frozen_program_path()
    if path is None:
        pytest.skip("no frozen program: build it with `pyinstaller build.spec`")
    work_together(mixed, work, certificate if is_encrypted else ([], []), source(), [path])


def work_together(mixed, work, words, one, other):
    """A master and a keeper of one program, a keeper of another; each kind of client; a put goes through both keepers in turn."""
    daemon_words, client_words = words
    cluster = mixed({"client": one, "master": one, "k1": one, "k2": other}, keepers=2, n_ports=1, client_words=client_words,
                    master_options=[*daemon_words, "--copies", "2"], keeper_options=[*daemon_words, *client_words])
    for program in (one, other):
        cluster.command = program
        round_trip(cluster, work)
    assert cluster.status()["encrypted"] is bool(daemon_words)


def test_where_encryption_is_only_wanted_those_who_cannot_are_let_in(mixed, work, certificate):
    daemon_words, client_words = certificate
    cluster = mixed({"client": source()}, keepers=2, n_ports=1, client_words=client_words,
                    master_options=["--tls", "auto", *daemon_words[2:], "--copies", "2"], keeper_options=[*client_words])
    assert cluster.status()["encrypted"] is True  # keepers name the authority, and so reach the master over TLS
    round_trip(cluster, work)  # though they have no certificates to show, and without one cannot encrypt
    cluster._more_words = []
    cluster.dfs("ls")
    assert cluster.status()["encrypted"] is False


def test_insecure_stays_on_this_machine_unless_told_twice(work):
    """On stderr, in `status`, and by the address."""
    def start(role, *words):
        return subprocess.Popen([*live_cluster.SOURCE, role, "--data", os.path.join(work, role), "--ports", "0", *words],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)

    away = ["--host", "0.0.0.0"]
    for role, words in (("master", away), ("keeper", [*away, "--master", "127.0.0.1:9"]), ("master", ["--web", "0.0.0.0:0"])):
        refused = start(role, "--insecure", *words)
        _out, said = refused.communicate(timeout=30)
        assert refused.returncode == 2 and "Give --insecure twice" in said and "Traceback" not in said
    master = start("master", "--insecure", "--insecure", "--host", "0.0.0.0")
    try:
        port = live_cluster.json.loads(master.stdout.readline())["ports"][0]
        with socket.create_connection(("127.0.0.1", port), 5):
            pass
        words = ["--insecure", "--master", f"127.0.0.1:{port}"]
        done = subprocess.run([*live_cluster.SOURCE, "status", *words], capture_output=True, text=True, timeout=30)
        assert "alarm: authentication is off (--insecure)" in done.stdout, done
    finally:
        master.terminate()
        _out, said = master.communicate(timeout=30)
    assert "authentication is off (--insecure)" in said and master.returncode == 0
