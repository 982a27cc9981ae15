"""A connection in memory, a client that answers from tables, and a gateway of both: requests as bytes, answers as bytes."""

import json

from dfs_lib import errors, model
from dfs_lib.gateway import access, app, events, http, server, static, telemetry, watch
from dfs_lib.net import foreign
from dfs_lib.wire import messages, trust

KEY = "dfs-user-key-1 anna.1 " + "ab" * 32
NOW = 1_700_000_000.0


class Connection:
    """What net/foreign hands out, with its input given. pieces: bytes that arrive one after the other; `silent`: then nothing comes, else the end."""

    address, host = "10.0.0.9:5555", "10.0.0.9"

    is_encrypted = False

    @staticmethod
    def age_s():
        return 0.0

    def __init__(self, *pieces, silent=False):
        self._pieces, self._silent = [bytes(piece) for piece in pieces], silent
        self.out = bytearray()
        self.is_idle, self.was_known, self.rates, self.n_sends, self.lingered = True, False, [], 0, False
        self.breaks_after = None  # bytes of output after which the peer has gone

    def is_known(self):
        self.was_known = True

    def begin(self, rate=foreign.LEAST_RATE):
        self.rates.append(rate)

    def set_timeout(self, seconds):
        assert seconds > 0

    def receive_into(self, view):
        if not self._pieces:
            if self._silent:
                raise foreign.Silent("silent")
            return 0
        piece = self._pieces.pop(0)
        n = min(len(view), len(piece))
        view[:n] = piece[:n]
        if n < len(piece):
            self._pieces.insert(0, piece[n:])
        return n

    def send(self, *parts):
        self.n_sends += 1
        for part in parts:
            self.out += part
        if self.breaks_after is not None and len(self.out) > self.breaks_after:
            raise foreign.Departed("gone")

    def linger(self, seconds=2.0, most=0):
        self.lingered = True


class Answer:
    """One answer, read the way a strict client would."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)


def answers(data, methods=()):
    """Every answer in bytes; methods: of the requests they belong to (HEAD has no body)."""
    found, data, methods = [], bytes(data), list(methods)
    while data:
        head, mark, data = data.partition(b"\r\n\r\n")
        assert mark, head
        lines = head.decode("latin-1").split("\r\n")
        status, headers = int(lines[0].split(" ")[1]), {}
        for line in lines[1:]:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers, f"{name} twice"
            headers[name.lower()] = value
        if status == 100:
            found.append(Answer(status, headers, b""))
            continue
        method = methods.pop(0) if methods else "GET"
        body = b""
        if method == "HEAD" or status in (204, 304):
            pass
        elif headers.get("transfer-encoding") == "chunked":
            body, data = unchunked(data)
        elif "content-length" in headers:
            n = int(headers["content-length"])
            assert len(data) >= n, "the body is cut"
            body, data = data[:n], data[n:]
        else:
            body, data = data, b""
        found.append(Answer(status, headers, body))
    return found


def unchunked(data):
    """(body, rest) of a chunked body."""
    decoder, body, view = http.Chunked(), bytearray(), memoryview(data)
    while not decoder.is_done:
        assert view, "the last chunk is missing"
        n, piece = decoder.feed(view)
        body += piece
        view = view[n:]
    return bytes(body), bytes(view)


class Reading:
    def __init__(self, path, version, data, mtime_at):
        self.path, self.version, self.size, self.mtime_at, self._data = path, version, len(data), mtime_at, data

    def deliver(self, first, end, to):
        for at in range(first, end, 3):  # in small pieces
            to(memoryview(self._data)[at:min(end, at + 3)])


class Client:
    """Files in a dict: {path: bytes}, a directory is None. Whatever was asked stands in `asked`."""

    credentials = trust.Credentials("client", "anna.1", b"", "hmac")
    cluster_id, master_address = "c1" * 16, ("10.0.0.1", 7000)

    def __init__(self, files=None, role="writer", status=None, key=KEY, home="/"):
        self.files = {"/": None, **(files or {})}
        self.asked, self.role, self.status_answer, self.good_key = [], role, status, key
        self.failure, self.home = None, home
        self.is_closed = False
        self.traffic_answer = None

    def close(self):
        self.is_closed = True

    def _fail(self):
        if self.failure is not None:
            raise self.failure

    def ask_identity(self):
        self._fail()
        return messages.Identified(name="anna", role=self.role, home=self.home)

    def ask(self, message):
        self._fail()
        self.asked.append(message)
        if isinstance(message, messages.Why):
            return messages.Reasons(about="it", reasons=[{"text": "k1 is dead", "path": None, "block": None, "index": None, "next_try_s": 4.0},
                                                         {"text": "soon", "path": None, "block": None, "index": None, "next_try_s": 2.0}])
        return messages.Done()

    def traffic(self, history=False):
        self._fail()
        self.asked.append(("traffic", history))
        return self.traffic_answer

    def reading(self, path):
        self._fail()
        if path not in self.files:
            raise errors.NoSuchFile(path=path)
        if self.files[path] is None:
            raise errors.IsADirectory(path=path)
        return Reading(path, 7, self.files[path], NOW)

    def stat(self, path, blocks=False):
        self._fail()
        if path not in self.files:
            raise errors.NoSuchFile(path=path)
        data = self.files[path]
        return {"path": path, "type": "dir" if data is None else "file", "size": len(data or b""), "version": None if data is None else 7,
                "mtime_at": NOW, "copies_wanted": 3, "copies_have": 2, "block_size": 1 << 26, "sha256": None, "n_blocks": 1,
                "blocks": [{"block": "ab" * 16, "index": 0, "size": 3, "keepers": ["11" * 16, "22" * 16]}] if data else []}

    def list(self, path, have=False, after=None, page=1000):
        self._fail()
        if path not in self.files:
            raise errors.NoSuchFile(path=path)
        if self.files[path] is not None:
            raise errors.NotADirectory(path=path)
        for each in sorted(self.files):
            parent, name = model.parent_and_name(each)
            if each != "/" and parent == path and name > (after or ""):
                data = self.files[each]
                yield model.Entry(each, "dir" if data is None else "file", len(data or b""), 7, NOW, 3, 2 if have else None)

    def walk(self, path):
        for entry in self.list(path):
            yield entry
            if entry.kind == model.DIRECTORY:
                yield from self.walk(entry.path)

    def put(self, body, path, **options):
        self._fail()
        data, view = bytearray(), memoryview(bytearray(5))
        while n := body.readinto(view):
            data += view[:n]
        self.asked.append(("put", path, options))
        if options["size"] is not None and options["size"] - options["start"] != len(data):
            raise errors.Misuse(detail="another size")
        self.files[path] = bytes(data)
        return {"path": path, "size": len(data), "version": 8}

    def stored_of(self, path, size, block_size=None, mark=None):
        self.asked.append(("stored_of", path, size, mark))
        return 1 << 24

    def remove(self, path, recursive=False, expected_version=None):
        self._fail()
        self.asked.append(("remove", path, recursive) if expected_version is None else ("remove", path, recursive, expected_version))

    def mkdir(self, path, parents=False):
        self._fail()
        self.files[model.clean_path(path)] = None

    def rename(self, source, target, no_clobber=False):
        self._fail()
        self.asked.append(("rename", source, target, no_clobber))

    def set_copies(self, path, copies):
        self._fail()
        self.asked.append(("copies", path, copies))

    def usage(self, path):
        return messages.Used(files=2, directories=1, size=30, stored=90)

    def status(self):
        self._fail()
        if self.status_answer is None:
            raise errors.NoSuchKeeper(keeper="none")
        return self.status_answer


def keeper(number, state="live", **more):
    return {"keeper_id": f"{number}{number}" * 16, "name": f"k{number}", "host": "h", "ports": [8000], "state": state, "reason": "", "used": 10, "free": 20,
            "blocks": 1, "load": 0, "heartbeat_age_s": 0.5, "labels": {}, "pids": [1], "reported": True, "sick": "", **more}


def cluster_status(keepers=(), **more):
    values = {"cluster_id": "c1" * 16, "epoch": 1, "files": 2, "directories": 1, "bytes": 30, "under_replicated": 0, "missing": 0, "repairs_running": 0,
              "repair_bytes_left": 0, "repair_rate": 0.0, "uploads": 0, "strays": 0, "safemode": "", "copies": 3, "safe": 2, "alarms": [], "waiting": [],
              "counters": {}, "keepers": list(keepers), "pid": 1, **more}
    return messages.ClusterStatus(**values)


class Gateway:
    """Everything but sockets and the cluster."""

    def __init__(self, client=None, metrics="open", insecure=False, files=None, is_local=False):
        self.client = client or Client()
        self.made, self.clock_s = [], 0.0
        self.telemetry = telemetry.Telemetry()
        self.watch = watch.Watch(lambda: self.clock_s, lambda: NOW)
        self.clients = access.Clients((("10.0.0.1", 7000),), None, insecure, make=self._make)
        self.app = app.App(self.clients, static.Static(files if files is not None else {"index.html": b"<p>page</p>", "app.js": b"let a"}), self.watch,
                           events.Events(self.watch, self.telemetry, lambda: self.clock_s), self.telemetry, app.Options(metrics, is_local))

    def _make(self, addresses, settings, credentials, insecure):
        self.made.append(credentials)
        return self.client

    def serve(self, *pieces, silent=False, breaks_after=None):
        """The connection after it was served with these bytes."""
        connection = Connection(*pieces, silent=silent)
        connection.breaks_after = breaks_after
        service = server.Service(self.app.handle, self.telemetry, clock=lambda: self.clock_s, now=lambda: NOW)
        try:
            service.serve(connection)
        except foreign.Departed:
            pass
        return connection

    def ask(self, method, target, body=b"", key=KEY, **headers):
        """The answer to one request; headers by name with _ for -."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {headers.pop('Host', 'gateway:7080')}"]
        if key is not None:
            lines.append(f"Authorization: Bearer {key.replace(' ', '+')}")
        for name, value in headers.items():
            lines.append(f"{name.replace('_', '-')}: {value}")
        if (body or method in ("PUT", "POST")) and "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            lines.append(f"Content-Length: {len(body)}")
        out = self.serve("\r\n".join([*lines, "", ""]).encode("latin-1") + body).out
        found = [each for each in answers(out, [method]) if each.status != 100]
        assert len(found) == 1, out
        return found[0]

    def post(self, target, value, **headers):
        return self.ask("POST", target, json.dumps(value).encode(), Content_Type="application/json", **headers)
