#!/usr/bin/env python3
"""Abuse of a real cluster, started as users start it (`dfs local`), while somebody works with it: mutated and random frames by the thousand.

    python3 tests/fuzz.py                       a small form: 4,000 frames, some seconds
    python3 tests/fuzz.py --frames 1000000      the long form, at most --seconds long (1,200), at most --rate frames a second (1,000)

What is sent, to a master's and a keeper's port and to the heartbeat port, in turns: what a stranger may send (mutated and random Hellos, Proofs and
first bytes; truncations at every byte; impossible lengths; deep JSON, keys given twice, NaN, surrogates), what somebody with a writer's key may send (valid
messages of every kind with random values, mutated ones under a good seal, bytes without one, bodies cut off), and datagrams. Beside that 200 connections say
a byte a second.

What has to hold, else the exit status is 1: no process has ended, no log and no answer has a traceback, no process has grown by more than 64 MiB,
and the client at work reached at least half of its rate, measured in stretches that take turns, without and with abuse. Prints one object of JSON.
The abuse is a process of its own, niced and bounded in its rate: what it takes by being busy itself says nothing about the cluster.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import secrets
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE / "unit" / "wire")]

import wire_samples
from test_garbage import mutated

from dfs_lib import client as clients
from dfs_lib import errors, keyfile, local, settings
from dfs_lib.client import admin
from dfs_lib.wire import conversation, frames, heartbeats, messages, trust

HOST = "127.0.0.1"
N_SLOW = 200
MOST_GROWTH = 64 << 20
LEAST_SHARE = 0.5
STRETCH_S = 1.5
LENGTHS = (0, 1, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)
HEADERS = (b'{"a":' * 800, b"[" * 4000, b'{"version":1,"version":2,"version":[]}', b'{"version":NaN}', b'{"version":-Infinity}', b'{"version":1e999}',
           b'{"role":"\\ud800"}', b'{"role":"\xed\xa0\x80"}', b'{"role":"\xff"}', b'{"version":' + b"9" * 3000 + b"}", b"{}", b"", b"null", b'{"\\u0000":0}')
# Messages of which one holds its asker on purpose.
HOLDING = ("AwaitOrders", "FollowCatalog")


# -- the abuse ------------------------------------------------------------------------------------------------------------
class Abuser:
    """Sends `n` frames to the ports in `facts`, then prints what it has sent and got. One thread; never more than `rate` a second."""

    def __init__(self, facts, n, rate, seed, seconds, n_slow):
        self._ports, self._beat_port, self._n, self._rate = facts["ports"], facts["heartbeat_port"], n, rate
        self._key = trust.Credentials("client", facts["identity"], bytes.fromhex(facts["key"]), "hmac")
        self._dice, self._seconds, self._n_slow = random.Random(seed), seconds, n_slow
        self._corpus = [message for message in wire_samples.corpus(seed, 6)
                        if message.kind in ("request", "continuation") and type(message).__name__ not in HOLDING]
        self._sent = {"stranger": 0, "truncated": 0, "known": 0, "datagram": 0, "slow": 0}
        self._answers, self._n_traces = {}, 0
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._slow, self._slow_due_s = [], 0.0
        self._began_s, self._allowed = time.monotonic(), 0.0

    def run(self):
        kinds = (self._stranger, self._known, self._datagrams, self._known, self._truncated, self._datagrams)
        number, last_s = 0, self._began_s
        while sum(self._sent.values()) - self._sent["slow"] < self._n and time.monotonic() - self._began_s < self._seconds:
            before = sum(self._sent.values())
            self._trickle()
            with contextlib.suppress(OSError):
                kinds[number % len(kinds)](self._ports[self._dice.randrange(len(self._ports))])
            number += 1
            # A stop of the whole process gives no credit for later: the rate is one of running time.
            now_s = time.monotonic()
            self._allowed = min(self._allowed + min(now_s - last_s, 0.1) * self._rate, self._rate / 10) - (sum(self._sent.values()) - before)
            last_s = now_s
            if self._allowed < 0:
                time.sleep(min(-self._allowed / self._rate, 0.1))
        for sock, _data, _at in self._slow:
            sock.close()
        self._udp.close()
        print(json.dumps({"sent": self._sent, "answers": self._answers, "traces": self._n_traces,
                          "took_s": round(time.monotonic() - self._began_s, 1)}), flush=True)

    def _hello(self, port, credentials=None):
        return conversation.Asker(credentials or self._key, port, secrets.token_hex(32))

    def _dial(self, port):
        sock = socket.create_connection((HOST, port), 5)
        sock.settimeout(5)
        # No port of ours waits for minutes in TIME_WAIT after a close: a million connections would use up all there are.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return sock

    def _hear(self, data):
        self._n_traces += b"Traceback" in data or b'File "' in data

    def _read_some(self, sock, seconds=0.5):
        """What comes within so long, b"" at its end."""
        if not select.select([sock], [], [], seconds)[0]:
            return None
        data = sock.recv(65536)
        self._hear(data)
        return data

    def _stranger(self, port):
        """One connection: a Hello that may be mutated; when it was understood, a Proof that is none; or a first frame that is worse."""
        dice = self._dice
        with self._dial(port) as sock:
            talk = self._hello(port)
            hello, kind = talk.hello(), dice.randrange(6)
            if kind == 0:
                first = dice.randbytes(dice.randrange(1, 200))
            elif kind == 1:
                header = dice.choice(HEADERS)
                first = frames.pack(dice.choice((1, 1, 3, 60)), 0, len(header), 0, False) + header
            elif kind == 2:
                first = frames.HEAD.pack(frames.MAGIC, 1, dice.choice((0, 0, 1)), dice.choice((1, 3, 90)), 0,
                                         dice.choice([n for n in LENGTHS if n < 1 << 32]), 0, dice.choice(LENGTHS)) + b"{}" + bytes(dice.randrange(50))
            elif kind == 3:
                first = mutated(hello, dice)
            else:
                first = hello
            sock.sendall(first)
            self._sent["stranger"] += 1
            if kind > 3 and (got := self._read_some(sock)):
                last = talk.send(messages.Proof(proof=dice.randbytes(32).hex()), 0)
                sock.sendall(mutated(last, dice) if kind == 4 else last)
                self._sent["stranger"] += 1
                if got := self._read_some(sock, 0.05):
                    raise AssertionError(f"a stranger was answered {got[:100]!r}")

    def _truncated(self, port):
        """The beginning of a Hello, of each length in turn, and the end of the connection."""
        talk = self._hello(port)
        hello = talk.hello()
        with self._dial(port) as sock:
            sock.sendall(hello[:self._sent["truncated"] % len(hello)])
            self._sent["truncated"] += 1

    def _greeted(self, sock, port):
        talk = self._hello(port)
        sock.sendall(talk.hello())
        while (arrived := talk.next_message()) is None:
            talk.receive(self._read_some(sock, 5) or b"\0")
        sock.sendall(talk.prove(arrived.message, "there"))
        return talk

    def _known(self, port):
        """Somebody with a key: messages of every kind until one is so broken that the connection ends."""
        dice = self._dice
        with self._dial(port) as sock:
            talk = self._greeted(sock, port)
            for number in range(1, 40):
                message, kind = dice.choice(self._corpus), dice.randrange(30)
                body = dice.randbytes(min(message.max_body, dice.choice((0, 1, 100, 5000)))) if message.max_body else b""
                if kind == 0:
                    sock.sendall(mutated(talk.send(message, number, len(body)), dice) + body)  # its seal is wrong
                elif kind == 1:
                    sock.sendall(self._sealed(talk, message.code, mutated(message.to_header(), dice), dice.choice((0, len(body)))) + body)
                elif kind == 2:
                    sock.sendall(self._sealed(talk, dice.choice((message.code, dice.randrange(300))), dice.choice(HEADERS), dice.choice((0, 0, 1 << 30))))
                elif kind == 3:
                    data = talk.send(message, number, len(body)) + body
                    sock.sendall(data[:dice.randrange(len(data))])
                    self._sent["known"] += 1
                    return
                else:
                    sock.sendall(talk.send(message, number, len(body)) + body)
                self._sent["known"] += 1
                if not self._answered(talk, sock):
                    return

    def _sealed(self, talk, code, header, body_length):
        """A frame of somebody who has the session's key and minds no table of messages."""
        data = frames.pack(code, 1, len(header), body_length, True) + header
        data += talk._send_seal(talk._n_sent, data)
        talk._n_sent += 1
        return data

    def _answered(self, talk, sock):
        """Take what comes until one answer is complete; whether the conversation goes on."""
        for _ in range(50):
            try:
                arrived = talk.next_message()
            except errors.DfsError:
                return False
            if arrived is not None:
                what = arrived.message.error if isinstance(arrived.message, messages.Refused) else type(arrived.message).__name__
                self._answers[what] = self._answers.get(what, 0) + 1
                if talk.body_left or talk.spent:
                    return False
                if not isinstance(arrived.message, messages.Working):
                    return True
                continue
            got = self._read_some(sock, 0.1)
            if not got:
                return False
            talk.receive(got)
        return False

    def _datagrams(self, _port):
        dice = self._dice
        beat = heartbeats.Heartbeat("0" * 16, "ab" * 16, dice.randrange(1 << 63), 1, 1, 1, {7000: 1})
        good = heartbeats.pack(beat, dice.randbytes(32))
        for _ in range(5):
            kind = dice.randrange(4)
            data = good if kind == 0 else mutated(good, dice) if kind == 1 else dice.randbytes(dice.randrange(0, 1400)) if kind == 2 else \
                good[:self._sent["datagram"] % len(good)]
            self._udp.sendto(data, (HOST, self._beat_port))
            self._sent["datagram"] += 1

    def _trickle(self):
        """Each of 200 connections says one more byte, once a second; whoever was closed begins anew."""
        now_s = time.monotonic()
        if now_s < self._slow_due_s:
            return
        self._slow_due_s = now_s + 1.0
        kept = []
        for sock, data, at in self._slow:
            try:
                sock.sendall(data[at:at + 1])
                self._sent["slow"] += 1
                if at + 1 < len(data) and not select.select([sock], [], [], 0)[0]:
                    kept.append((sock, data, at + 1))
                    continue
            except OSError:
                pass
            sock.close()
        while len(kept) < self._n_slow:
            port = self._ports[len(kept) % len(self._ports)]
            try:
                sock, is_known = self._dial(port), len(kept) % 4 == 0
                if is_known:
                    talk = self._greeted(sock, port)
                    kept.append((sock, talk.send(messages.Ping(), 1), 0))
                else:
                    kept.append((sock, self._hello(port).hello(), 0))
            except (OSError, errors.DfsError):
                break  # its share of connections is used up: that is what shares are for
        self._slow = kept


# -- the cluster ----------------------------------------------------------------------------------------------------------
@contextlib.contextmanager
def local_cluster(directory):
    """`dfs local` in a directory; the record of its ready line."""
    command = [sys.executable, str(HERE.parent / "dfs.py"), "local", "--data", directory, "--json", "--web", "off", "--keepers", "2", "--reserve", "1MiB"]
    with open(directory + ".err", "wb") as err:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, stdin=subprocess.DEVNULL, env=local.program_environment(), process_group=0)
    try:
        yield next(record for line in process.stdout if (record := json.loads(line)).get("event") == "ready")
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def processes(ready):
    """Pids of all daemons."""
    return sorted(pid for each in ready["daemons"] for pid in local.group_members(each["pid"]))


def memory(pid, name):
    """Bytes resident now (VmRSS) or at most (VmHWM)."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith(name))


def logs(directory):
    found = ""
    for path in [directory + ".err", *(os.path.join(directory, "logs", name) for name in os.listdir(os.path.join(directory, "logs")))]:
        with open(path, encoding="utf-8", errors="replace") as log:
            found += log.read()
    return found


class Worker:
    """The client that has nothing to do with all this: looks, gets, and now and then puts.

    Seldom, because a put costs the master memory of its own (its log and the caches over it, 2.5 KiB each), which is not to be taken for the abuse's.
    """

    def __init__(self, client, directory):
        self._client, self._source, self._n = client, os.path.join(directory, "small"), 0
        self._back = self._source + ".back"
        with open(self._source, "wb") as out:
            out.write(os.urandom(20_000))
        client.mkdir("/work")

    def step(self):
        path = f"/work/{self._n % 50}"
        self._n += 1
        if self._n <= 50 or self._n % 20 == 0:
            self._client.put(self._source, path)
        self._client.stat(path)
        self._client.get(path, self._back)
        with open(self._source, "rb") as one, open(self._back, "rb") as other:
            assert one.read() == other.read(), "what came back is not what was put"
        os.remove(self._back)

    def stretch(self, seconds):
        """(steps, seconds)."""
        began_s, n = time.monotonic(), 0
        while (took_s := time.monotonic() - began_s) < seconds:
            self.step()
            n += 1
        return n, took_s


def abuse(facts, options, number):
    """One of the abusing processes, under way."""
    command = [sys.executable, str(HERE / "fuzz.py"), "--abuse", "--frames", str(-(-options.frames // options.jobs)), "--seconds", str(options.seconds),
               "--rate", str(options.rate / options.jobs), "--seed", str(options.seed * 1000 + number), "--slow", str(N_SLOW // options.jobs)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, preexec_fn=lambda: os.nice(10), process_group=0)
    process.stdin.write(json.dumps(facts).encode())
    process.stdin.close()
    return process


def measure(ready, options, directory):
    """Everything; the facts, and under "failed" what does not hold."""
    own = settings.resolve([]).but(master=settings.BY_NAME["master"].parse(ready["master"]), key_file=ready["key_file"])
    with clients.connect(own.master, settings=own, cluster_key=keyfile.read(ready["key_file"])) as root:
        _identity, line = admin.add_user(root, "mallory", "writer", "/mallory")
        root.mkdir("/mallory")
        user, worker = keyfile.parse(line), Worker(root, os.path.dirname(directory))
        master = next(each for each in ready["daemons"] if each["role"] == "master")
        facts = {"ports": [port for each in ready["daemons"] for port in each["ports"][:1]], "heartbeat_port": master["heartbeat_port"],
                 "identity": user.identity, "key": user.key.hex()}
        worker.stretch(0.5)
        before = {pid: memory(pid, "VmRSS") for pid in processes(ready)}
        abusers, calm, rough = [abuse(facts, options, number) for number in range(options.jobs)], [0, 0.0], [0, 0.0]
        try:
            _take_turns(abusers, worker, calm, rough)
            told = [json.loads(each.stdout.read() or "{}") for each in abusers]
        finally:
            for each in abusers:
                each.kill()
                each.wait()
                each.stdout.close()
        counters = {name: n for name, n in root.status().counters.items() if "refused" in name or "dropped" in name or "stale" in name or "slow" in name}
        worker.step()
    now = processes(ready)
    share = rough[0] / rough[1] / (calm[0] / calm[1]) if rough[1] and calm[0] else None
    growth = max((memory(pid, "VmHWM") - size for pid, size in before.items() if pid in now), default=0)
    text = logs(directory)
    failed = [what for what, holds in (
        ("the abuse has ended by itself", all(told) and not any(each.returncode for each in abusers)), ("no process has ended", set(before) <= set(now)),
        ("no traceback in a log", "Traceback" not in text and "bug while" not in text), ("no traceback was sent", not any(each.get("traces") for each in told)),
        ("memory", growth <= MOST_GROWTH), ("the client's rate", share is not None and share >= LEAST_SHARE)) if not holds]
    return {"sent": _summed(told, "sent"), "answers": _summed(told, "answers"), "took_s": max(each.get("took_s", 0) for each in told), "growth_mib": round(growth / (1 << 20), 1), "share": share and round(share, 2), "calm": calm, "rough": rough, "counters": counters,
            "failed": failed}


def _summed(told, name):
    total = {}
    for key, n in (item for each in told for item in each.get(name, {}).items()):
        total[key] = total.get(key, 0) + n
    return total


def _take_turns(abusers, worker, calm, rough):
    """Stretches with abuse and without it, until all abusers are through; without it they stand still."""
    def at_work():
        return [each for each in abusers if each.poll() is None]

    while at_work():
        for each in at_work():
            each.send_signal(signal.SIGCONT)
        _add(rough, worker.stretch(STRETCH_S))
        for each in at_work():
            each.send_signal(signal.SIGSTOP)
        worker.stretch(0.2)  # what is under way runs out
        _add(calm, worker.stretch(STRETCH_S / 2))


def _add(total, found):
    total[0], total[1] = total[0] + found[0], round(total[1] + found[1], 3)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", type=int, default=4000)
    parser.add_argument("--rate", type=float, default=1000.0, help="frames a second at most")
    parser.add_argument("--seconds", type=float, default=1200.0, help="of abuse, at most")
    parser.add_argument("--jobs", type=int, default=4, help="processes that abuse: each waits for answers most of its time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", help="where the cluster's data goes (default: a temporary one)")
    parser.add_argument("--abuse", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--slow", type=int, default=N_SLOW, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.abuse:
        Abuser(json.load(sys.stdin), options.frames, options.rate, options.seed, options.seconds, options.slow).run()
        return 0
    home = tempfile.mkdtemp(prefix="dfs-fuzz-", dir=options.directory)
    try:
        directory = os.path.join(home, "cluster")
        with local_cluster(directory) as ready:
            found = measure(ready, options, directory)
            if found["failed"]:
                print(*[line for line in logs(directory).splitlines() if "INFO" not in line][-40:], sep="\n", file=sys.stderr)
        print(json.dumps(found))
        return 1 if found["failed"] else 0
    finally:
        shutil.rmtree(home, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
