"""A store in memory that answers as dfs_lib.client.Client does, for tests of the verbs alone."""

import hashlib
import os

from dfs_lib import errors, model
from dfs_lib.wire import messages

KEEPERS = ("0" * 31 + "1", "0" * 31 + "2", "0" * 31 + "3")


def keeper(number, state="live", **changes):
    return {"keeper_id": KEEPERS[number - 1], "name": f"k{number}", "host": "127.0.0.1", "ports": [8000], "state": state,
            "reason": "",
            "used": 10**9, "free": 9 * 10**9, "blocks": 5, "load": 0, "heartbeat_age_s": 0.5, "labels": {}, "pids": [1],
            "reported": True,
            "sick": "", **changes}


def status(**changes):
    values = {"cluster_id": "a" * 32, "epoch": 1, "files": 2, "directories": 1, "bytes": 100, "under_replicated": 0, "missing": 0,
              "repairs_running": 0, "repair_bytes_left": 0, "repair_rate": 0.0, "uploads": 0, "strays": 0, "safemode": "",
              "copies": 3,
              "safe": 2, "alarms": [], "waiting": [], "counters": {}, "keepers": [keeper(1), keeper(2), keeper(3)], "pid": 7,
              **changes}
    return messages.ClusterStatus(**values)


class Client:
    """files: {path: bytes}; directories: set of paths. `statuses`: what `status` answers in turn, the last one for ever."""

    master_address = ("127.0.0.1", 7000)
    moving = None  # a TrafficMeasured

    def __init__(self, files=(), directories=()):
        self.files, self.directories = dict(files), {"/", *directories}
        self.statuses, self.calls, self.is_closed = [status()], [], False
        self.bad, self.copies = [], {}
        self.answers, self.asked = {}, []  # message class → what `ask` answers in turn, the last one for ever

    def close(self):
        self.is_closed = True

    def ask(self, message, patient=False):
        self.asked.append(message)
        answers = self.answers[type(message)]
        return answers.pop(0) if len(answers) > 1 else answers[0]

    def _entry(self, path):
        if path in self.directories:
            return model.Entry(path, model.DIRECTORY, 0, 0, 1e9, 0, None)
        if path in self.files:
            return model.Entry(path, model.FILE, len(self.files[path]), 7, 1e9, self.copies.get(path, 3), 2)
        raise errors.NoSuchFile(path=path)

    def stat(self, path, blocks=False):
        entry = self._entry(path)
        found = {"path": path, "type": entry.kind, "size": entry.size, "version": entry.version, "mtime_at": entry.mtime_at,
                 "copies_wanted": entry.copies_wanted, "copies_have": entry.copies_have, "block_size": 64 << 20, "sha256": None,
                 "n_blocks": 1}
        if blocks:
            found["blocks"] = [{"index": 0, "block": "b" * 32, "size": entry.size, "keepers": list(KEEPERS[:2])}]
        return found

    def stat_many(self, paths, blocks=False):
        found = []
        for path in paths:
            try:
                found.append(self.stat(path, blocks))
            except errors.DfsError as e:
                found.append(e)
        return found

    def list(self, path, have=False):
        if path in self.files:
            raise errors.NotADirectory(path=path)
        self._entry(path)
        below = sorted(p for p in {*self.files, *self.directories} if p != "/" and model.parent_and_name(p)[0] == path)
        yield from map(self._entry, below)

    def put(self, source, path, *, progress=None, copies=None, safe=None, no_clobber=False, jobs=None, resume=True):
        self.calls.append(("put", source if isinstance(source, str) else "-", path, copies, safe, jobs, resume))
        if path in self.directories:
            raise errors.IsADirectory(path=path)
        if no_clobber and path in self.files:
            raise errors.FileExists(path=path)
        if model.parent_and_name(path)[0] not in self.directories:
            raise errors.NoSuchFile(path=path)
        if isinstance(source, str):
            with open(source, "rb") as local:
                content = local.read()
        else:
            content = source.read()
        self.files[path] = content
        progress(len(content))
        return {"path": path, "local": source if isinstance(source, str) else None, "size": len(content), "version": 7,
                "copies_durable": 2,
                "copies": copies or 3, "keepers": list(KEEPERS[:2]), "seconds": 0.1234567, "resumed_bytes": 0}

    def put_files(self, pairs, *, on_result, **wanted):
        for local, path in pairs:
            try:
                on_result(self.put(local, path, **wanted), local=local, path=path)
            except errors.DfsError as e:
                on_result(e, local=local, path=path)

    def put_tree(self, directory, path, *, on_result, on_skip, **wanted):
        self.directories.add(path)
        for name in sorted(os.listdir(directory)):
            local = os.path.join(directory, name)
            if os.path.islink(local):
                on_skip(local, "a symbolic link is not followed")
            elif os.path.isdir(local):
                self.put_tree(local, model.join(path, name), on_result=on_result, on_skip=on_skip, **wanted)
            else:
                self.put_files([(local, model.join(path, name))], on_result=on_result, **wanted)

    def get(self, path, target, *, byte_range=None, jobs=None, progress=None, resume=True):
        if path in self.directories:
            raise errors.IsADirectory(path=path)
        if path not in self.files:
            raise errors.NoSuchFile(path=path)
        content = self.files[path]
        if byte_range:
            first, last = byte_range
            content = content[first:None if last is None else last + 1]
        if hasattr(target, "write"):
            target.write(content)
        else:
            with open(target, "wb") as out:
                out.write(content)
        return {"path": path, "local": target if isinstance(target, str) else None, "size": len(content), "version": 7,
                "keepers": [KEEPERS[2]], "seconds": 0.1, "resumed_bytes": 0}

    def get_files(self, pairs, *, on_result, **wanted):
        for path, local in pairs:
            try:
                on_result(self.get(path, local, **wanted), local=local, path=path)
            except errors.DfsError as e:
                on_result(e, local=local, path=path)

    def get_tree(self, path, directory, *, on_result, **wanted):
        os.makedirs(directory, exist_ok=True)
        for entry in self.list(path):
            local = os.path.join(directory, model.parent_and_name(entry.path)[1])
            if entry.kind == model.DIRECTORY:
                self.get_tree(entry.path, local, on_result=on_result, **wanted)
            else:
                self.get_files([(entry.path, local)], on_result=on_result, **wanted)

    def sha256(self, path):
        self._entry(path)
        return hashlib.sha256(self.files[path]).hexdigest()

    def remove(self, path, recursive=False):
        self._entry(path)
        if path in self.directories:
            below = [p for p in {*self.files, *self.directories} if p.startswith(path + "/")]
            if below and not recursive:
                raise errors.DirectoryNotEmpty(path=path)
            self.directories -= {path, *below}
            self.files = {p: content for p, content in self.files.items() if p not in below}
        else:
            del self.files[path]

    def rename(self, source, target, no_clobber=False):
        self.copy(source, target, no_clobber)
        self.files.pop(source, None)
        self.directories.discard(source)

    def copy(self, source, target, no_clobber=False):
        self._entry(source)
        if no_clobber and target in self.files:
            raise errors.FileExists(path=target)
        if source in self.directories:
            self.directories.add(target)
        else:
            self.files[target] = self.files[source]

    def mkdir(self, path, parents=False):
        if path in self.directories and not parents:
            raise errors.FileExists(path=path)
        if not parents and model.parent_and_name(path)[0] not in self.directories:
            raise errors.NoSuchFile(path=model.parent_and_name(path)[0])
        while parents and path != "/":
            self.directories.add(path)
            path = model.parent_and_name(path)[0]
        self.directories.add(path)

    def set_copies(self, path, copies):
        self._entry(path)
        self.copies[path] = copies

    def usage(self, path):
        self._entry(path)
        return messages.Used(files=2, directories=1, size=100, stored=300)

    def keeper_names(self, keepers):
        return [{keeper["keeper_id"]: keeper["name"] for keeper in self.status().keepers}[each] for each in keepers]

    def status(self):
        answer = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        if isinstance(answer, errors.DfsError):
            raise answer
        return answer

    def traffic(self, history=False):
        return self.moving

    def scrub(self, keepers=(), start=True):
        self.calls.append(("scrub", tuple(keepers), start))
        return messages.ScrubReport(running=1 if start else 0, verified=4, verified_bytes=400, bad=self.bad)

    def rebalance(self, dry_run=False, start=True):
        self.calls.append(("rebalance", dry_run, start))
        return messages.RebalancePlan(running=0 if dry_run or not start else 1,
                                      moves=[{"source": KEEPERS[0], "target": KEEPERS[1], "size": 50}])
