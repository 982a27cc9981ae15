"""Clients as processes of their own: one line of JSON in is one errand, one line out is how long it took and what it cost.

As a program it is such a client, of dfs or of a raw server; as a module it starts and drives them. The clock (CLOCK_MONOTONIC) is the
same in all processes, so that several can begin at one moment. Start-up and the first connection are never part of a measurement.

    in   {"do": "put", …arguments, "at": monotonic seconds to begin at}
    out  {"began", "ended", "cpu_s", "peak_mib", "n": done, "errors": [text], …}
"""

import json
import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(HERE)]
sys.path.append(HERE)

import measure
import raw


# -- the program ------------------------------------------------------------------------------------------------------
class DfsClient:
    """Errands over the API, all on one Client."""

    def __init__(self, masters, key_file):
        from dfs_lib import client, keyfile, settings

        key = {"cluster_key": keyfile.read(key_file)} if key_file else {"insecure": True}
        self._make = lambda: client.connect(masters, settings=settings.resolve([]), **key)
        self.client = self._make()
        self.client.stat("/")
        self._idle = []

    def put(self, local, path, copies):
        self.client.put(local, path, copies=copies, safe=copies)
        return {"n": os.path.getsize(local)}

    def get(self, path, local):
        return {"n": self.client.get(path, local)["size"]}

    def put_loop(self, directory, names, path, copies):
        for name in names:
            self.client.put(f"{directory}/{name}", f"{path}/{name}", copies=copies, safe=copies)
        return {"n": len(names)}

    def get_loop(self, path, names, directory):
        for name in names:
            self.client.get(f"{path}/{name}", f"{directory}/{name}")
        return {"n": len(names)}

    def put_many(self, directory, names, path, copies, jobs):
        """What `put -r --jobs` does once it runs."""
        return _all_done(self.client.put_files([(f"{directory}/{name}", f"{path}/{name}") for name in names], copies=copies, safe=copies,
                                               jobs=jobs))

    def get_many(self, path, names, directory, jobs):
        return _all_done(self.client.get_files([(f"{path}/{name}", f"{directory}/{name}") for name in names], jobs=jobs))

    def stat_loop(self, path, n):
        stat = self.client.stat
        for _ in range(n):
            stat(path)
        return {"n": n}

    def list(self, path):
        began_s = time.perf_counter()
        entries = iter(self.client.list(path))
        next(entries)
        first_s = time.perf_counter() - began_s
        return {"n": 1 + sum(1 for _ in entries), "first_s": first_s}

    def idle(self, n):
        """Hold n connections to the master, each of a client of its own that asks nothing more."""
        while len(self._idle) < n:
            self._idle.append(self._make())
            self._idle[-1].stat("/")
        return {"n": n}

    def busy(self, n, seconds, local, path):
        """n clients in threads of this process, each with connections of its own: 8 stats, a put and a get of a small file, in turn."""
        counts, failures = [0] * n, []
        end_s = time.monotonic() + seconds

        def work(which):
            with self._make() as client:
                mine = f"{path}/{os.getpid()}-{which}"
                target = f"{os.path.dirname(local)}/out-{os.getpid()}-{which}"
                while time.monotonic() < end_s:
                    try:
                        client.put(local, mine, copies=2, safe=2)
                        client.get(mine, target)
                        for _ in range(8):
                            client.stat(mine)
                        counts[which] += 10
                    except Exception as e:
                        failures.append(f"{type(e).__name__}: {e}")

        threads = [threading.Thread(target=work, args=(which,)) for which in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"n": sum(counts), "errors": failures[:20]}


def _all_done(counts):
    if counts["failed"]:
        raise RuntimeError(f"{counts['failed']} files failed")
    return {"n": counts["files"]}


class RawClient:
    """The same errands against raw.py's server."""

    def __init__(self, port):
        self._address = ("127.0.0.1", port)
        self._wire, self._buffer = raw.connect(self._address), memoryview(bytearray(raw.CHUNK))

    def put(self, local, name):
        raw.put(self._wire, local, name, self._buffer)
        return {"n": os.path.getsize(local)}

    def get(self, name, local, plain=False):
        raw.get(self._wire, name, local, self._buffer, plain)
        return {"n": os.path.getsize(local)}

    def put_loop(self, directory, names):
        for name in names:
            raw.put(self._wire, f"{directory}/{name}", name, self._buffer)
        return {"n": len(names)}

    def get_loop(self, names, directory):
        for name in names:
            raw.get(self._wire, name, f"{directory}/{name}", self._buffer)
        return {"n": len(names)}

    def put_many(self, directory, names, jobs):
        return self._share(names, jobs, lambda wire, buffer, name: raw.put(wire, f"{directory}/{name}", name, buffer))

    def get_many(self, names, directory, jobs):
        return self._share(names, jobs, lambda wire, buffer, name: raw.get(wire, name, f"{directory}/{name}", buffer))

    def _share(self, names, jobs, do):
        def work(mine):
            wire, buffer = raw.connect(self._address), memoryview(bytearray(raw.CHUNK))
            for name in mine:
                do(wire, buffer, name)
            done.append(len(mine))
            wire.sock.close()

        done = []
        threads = [threading.Thread(target=work, args=(names[which::jobs],)) for which in range(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if sum(done) != len(names):
            raise RuntimeError("a raw stream failed")
        return {"n": len(names)}


class BareClient:
    """Asks raw.py's bare server."""

    def __init__(self, port, key_file):
        from dfs_lib import keyfile
        from dfs_lib.net import streams
        from dfs_lib.wire import messages, trust

        self._stream = streams.connect("127.0.0.1", port, trust.client_credentials(keyfile.read(key_file)))
        self._ping = messages.Ping()

    def ask_loop(self, n):
        ask, ping = self._stream.ask, self._ping
        for _ in range(n):
            ask(ping)
        return {"n": n}


def main():
    client = globals()[sys.argv[1]](**json.loads(sys.argv[2]))
    print("ready", flush=True)
    for line in sys.stdin:
        errand = json.loads(line)
        act, at = getattr(client, errand.pop("do")), errand.pop("at")
        measure.forget_peak(os.getpid())
        time.sleep(max(0.0, at - time.monotonic()))
        began_s, began_cpu_s = time.monotonic(), time.process_time()
        try:
            found = act(**errand)
        except Exception as e:
            found = {"n": 0, "failure": f"{type(e).__name__}: {e}"}
        found.update(began=began_s, ended=time.monotonic(), cpu_s=time.process_time() - began_cpu_s,
                     peak_mib=measure.memory_mib(os.getpid()))
        print(json.dumps(found), flush=True)


# -- driving them -----------------------------------------------------------------------------------------------------
class Process:
    """A helper of ours that says one line when it is ready and ends with its standard input."""

    def __init__(self, *words):
        self._process = subprocess.Popen([sys.executable, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self._process.pid
        self.first_line = self._read()

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a helper process ended with status {self._process.wait()}")
        return line

    def send(self, errand):
        self._process.stdin.write(json.dumps(errand) + "\n")
        self._process.stdin.flush()

    def answer(self):
        return json.loads(self._read())

    def close(self):
        for end in (self._process.stdin, self._process.stdout):
            end.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def raw_server(directory, following=None):
    """(Process, port) of a raw server that keeps its files in `directory`."""
    os.makedirs(directory, exist_ok=True)
    process = Process(raw.__file__, "serve", directory, *(("127.0.0.1", following) if following else ()))
    return process, int(process.first_line)


def bare_server(key_file):
    process = Process(raw.__file__, "bare", key_file)
    return process, int(process.first_line)


def start(kind, **arguments):
    """A client process. kind: DfsClient, RawClient or BareClient; arguments: of its __init__."""
    return Process(os.path.abspath(__file__), kind.__name__, json.dumps(arguments))


def run(clients, errands):
    """Send each client its errand, all to begin at one moment; returns their answers. Raises RuntimeError when one failed."""
    at = time.monotonic() + 0.02
    for client, errand in zip(clients, errands, strict=True):
        client.send({**errand, "at": at})
    answers = [client.answer() for client in clients]
    failures = [answer["failure"] for answer in answers if "failure" in answer]
    if failures:
        raise RuntimeError(failures[0])
    return answers


def reading(clients, errands, server_pids, scale=1.0):
    """The Reading of these errands done at once: from the first beginning to the last end. scale: of the amounts."""
    before_s = measure.cpu_s(server_pids)
    answers = run(clients, errands)
    server_cpu_s = measure.cpu_s(server_pids) - before_s
    seconds = max(answer["ended"] for answer in answers) - min(answer["began"] for answer in answers)
    more = {name: answers[0][name] for name in ("first_s",) if name in answers[0]}
    more["peak_mib"] = max(answer["peak_mib"] for answer in answers)
    return measure.Reading(seconds, sum(answer["n"] for answer in answers) * scale, sum(answer["cpu_s"] for answer in answers),
                           server_cpu_s, more)


if __name__ == "__main__":
    main()
