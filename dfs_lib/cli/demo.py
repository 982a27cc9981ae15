"""The tour: a cluster in a temporary directory, a put, kill -9 of a keeper, the repair, a get, every byte compared.

Never touches a cluster or a file that was there before, and leaves nothing behind.
"""

import os
import shutil
import tempfile
import time

from dfs_lib import cluster_state, errors, model
from dfs_lib.cli import cluster as cluster_verbs
from dfs_lib.cli import local_verbs, output

N_KEEPERS = 4  # with three copies of everything, one more: a place for the repair
# Short spans, so that the tour shows in seconds what takes minutes by default.
MASTER_OPTIONS = ["--suspect-after", "1", "--dead-after", "2", "--repair-grace", "1"]
KEEPER_OPTIONS = ["--heartbeat-every", "0.3", "--reserve", "32MiB"]
# No step of the tour takes longer, unless something is wrong.
STEP_TIMEOUT_S = 40.0
_PIECE = 1 << 20


class Tour:
    """One tour: `run` tells it line by line and returns 0 when the file came back whole."""

    def __init__(self, call, source=None, keeps=False):
        self._call, self._out, self._source, self._keeps = call, call.out, source, keeps
        self._began = time.monotonic()

    def tell(self, event, text, **facts):
        """One line of the timeline."""
        at_s = time.monotonic() - self._began
        self._out.both(f"{at_s:5.1f} s  {output.safe_text(text)}", {"event": event, "at_s": round(at_s, 3), **facts})
        self._out.flush()

    def run(self):
        from dfs_lib import local

        if self._source is not None and not os.path.isfile(self._source):
            raise errors.LocalFileError(path=self._source, detail="there is no such file to show the tour with")
        directory = tempfile.mkdtemp(prefix="dfs-demo-")
        try:
            with local.Cluster(os.path.join(directory, "cluster"), keepers=N_KEEPERS, master_options=MASTER_OPTIONS,
                               keeper_options=KEEPER_OPTIONS, web="7080") as cluster:
                self.tell("ready", f"a master and {N_KEEPERS} keepers are running: {1 + N_KEEPERS} daemons in {directory}",
                          master=cluster.masters_text)
                if cluster.web_url:
                    self.tell("web", f"look on at {local_verbs.login_link(cluster)}", url=cluster.web_url)
                is_whole = self._tour(cluster, directory)
                if is_whole and self._keeps:
                    self._stay(cluster)
        finally:
            shutil.rmtree(directory, ignore_errors=True)
        self.tell("done", "stopped, and nothing is left behind" if is_whole else "the file came back different: this is a bug",
                  ok=is_whole)
        return 0 if is_whole else errors.IntegrityError.status

    def _tour(self, cluster, directory):
        source = self._source or self._make_file(directory)
        path = model.clean_path("/" + os.path.basename(source))
        with cluster.client() as client:
            result = client.put(source, path, safe=2)
            names = {keeper["keeper_id"]: keeper["name"] for keeper in client.status().keepers}
            holders = sorted(names.get(each, each) for each in result["keepers"])
            self.tell("put", f"put {source} -> {path}: {output.size_text(result['size'])}, {result['copies_durable']} copies "
                      f"durable on {' '.join(holders)} after {result['seconds']:.2f} s, the third on its way",
                      path=path, size=result["size"])
            self._until(client, lambda status: not status.under_replicated and not status.missing, "the third copy")
            self.tell("copies", "every block has its 3 copies")
            victim = self._victim(cluster, client, path)
            cluster.kill(victim)
            self.tell("kill", f"kill -9 of keeper {self._name(cluster, names, victim)}, which held copies of it",
                      keeper_id=cluster.keeper_id(victim))
            lost = self._until(client, lambda status: any(k["state"] == "dead" for k in status.keepers), "the master to notice")
            self.tell("dead", "the master has noticed:", under_replicated=lost.under_replicated)
            if not self._out.as_json:
                cluster_verbs.show_status(self._out, lost)
                self._out.flush()
            healed = self._until(client, lambda status: not status.under_replicated and not status.missing
                                 and not status.repairs_running, "the repair")
            self.tell("repaired", "repaired: every block has 3 copies again, on the keepers that live", epoch=healed.epoch)
            back = os.path.join(directory, "back")
            client.get(path, back)
        is_whole = same_bytes(source, back)
        self.tell("get", f"get {path}: {output.size_text(os.path.getsize(back))}, "
                  + ("every byte the same" if is_whole else "NOT the same bytes"), same=is_whole)
        return is_whole

    def _make_file(self, directory):
        """A file of random bytes, as large as asked for; smaller where the disk is small."""
        size = self._call["size"] or 64 * model.MIB
        free = shutil.disk_usage(directory).free
        if size * 6 > free:
            size = max(model.MIB, free // 12)
        path = os.path.join(directory, "tour.bin")
        with open(path, "wb") as out:
            for at in range(0, size, _PIECE):
                out.write(os.urandom(min(_PIECE, size - at)))
        return path

    def _victim(self, cluster, client, path):
        """The name of a keeper that holds a block of the file (of an empty file: any)."""
        holders = {keeper for block in client.stat(path, blocks=True)["blocks"] for keeper in block["keepers"]}
        return next((name for name in cluster.keepers if cluster.keeper_id(name) in holders), "k1")

    def _name(self, cluster, names, victim):
        return names.get(cluster.keeper_id(victim), victim)

    def _until(self, client, holds, what):
        """The first status for which `holds` is true. Raises TimedOut."""
        deadline = time.monotonic() + STEP_TIMEOUT_S
        while True:
            status = client.status()
            if holds(status):
                return status
            if time.monotonic() > deadline:
                raise errors.TimedOut(seconds=STEP_TIMEOUT_S, detail=f"{what}: {cluster_state.verdict(status, counts_seconds=True)[1]}")
            time.sleep(0.05)

    def _stay(self, cluster):
        with local_verbs.Signals() as signals:
            self._say_how_to_use(cluster)
            local_verbs.stay(self._call, cluster, signals)

    def _say_how_to_use(self, cluster):
        use = f"{local_verbs.our_name()} --config {os.path.join(cluster.directory, 'client.toml')}"
        self.tell("staying", "the cluster stays until Ctrl-C. In another terminal:", use=use)
        self._out.line(f"  {use} status")
        self._out.flush()


def same_bytes(one, other):
    """Whether two local files hold the same bytes."""
    with open(one, "rb") as a, open(other, "rb") as b:
        while True:
            piece = a.read(_PIECE)
            if piece != b.read(_PIECE):
                return False
            if not piece:
                return True
