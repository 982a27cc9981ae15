"""A cluster whose machines are network namespaces of this one, with a router between them that can be told to drop packets in silence.

Never touches the network of the machine itself: nodes and router are namespaces of their own, and go with `close`.

    master 10.77.1.2 ── n1 ┐
    k1     10.77.2.2 ── n2 ┤ router: forwards, unless a rule says `blackhole` for (from, to, protocol)
    k2     10.77.3.2 ── n3 ┤
    …      client    ── nX ┘
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time

from live_cluster import SOURCE, LiveCluster, until

from dfs_lib import local


def why_not():
    """Why there can be no namespaces here, or ""."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "network namespaces need Linux and root"
    if shutil.which("ip") is None:
        return "there is no `ip` (iproute2)"
    name = f"dfs-{os.getpid()}-try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return f"no network namespace can be made: {made.stderr.strip()}"
    try:
        tried = subprocess.run(["ip", "-n", name, "rule", "add", "ipproto", "udp", "to", "10.77.1.2", "blackhole"], capture_output=True, text=True)
        return f"no rule by protocol: {tried.stderr.strip()}" if tried.returncode else ""
    finally:
        subprocess.run(["ip", "netns", "del", name])


def _ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(words)}: {done.stderr.strip()}")


class Lab:
    """Nodes by name, and what is cut between them."""

    def __init__(self, names):
        self._prefix, self.names = f"dfs-{os.getpid()}", list(names)
        self._router, self._made = f"{self._prefix}-router", []
        try:
            self._make()
        except BaseException:
            self.close()
            raise

    def _make(self):
        self._add(self._router)
        self._in(self._router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        for number, name in enumerate(self.names, 1):
            node = self.namespace(name)
            self._add(node)
            _ip("-n", self._router, "link", "add", f"n{number}", "type", "veth", "peer", "name", "eth0", "netns", node)
            for place, device, address in ((self._router, f"n{number}", f"10.77.{number}.1"), (node, "eth0", f"10.77.{number}.2")):
                _ip("-n", place, "addr", "add", f"{address}/24", "dev", device)
                _ip("-n", place, "link", "set", device, "up")
            _ip("-n", node, "link", "set", "lo", "up")
            _ip("-n", node, "route", "add", "default", "via", f"10.77.{number}.1")

    def _add(self, namespace):
        _ip("netns", "add", namespace)
        self._made.append(namespace)

    def _in(self, namespace, *words):
        subprocess.run(["ip", "netns", "exec", namespace, *words], check=True, capture_output=True)

    def namespace(self, name):
        return f"{self._prefix}-{name}"

    def address(self, name):
        return f"10.77.{self.names.index(name) + 1}.2"

    def command(self, name):
        """The words that run a program on a node."""
        return ["ip", "netns", "exec", self.namespace(name)]

    def close(self):
        for namespace in reversed(self._made):
            subprocess.run(["ip", "netns", "del", namespace])

    # -- what goes wrong ------------------------------------------------------------------------------------------------
    @contextlib.contextmanager
    def cut(self, *ways, protocol=None):
        """While inside: nothing (or nothing of "tcp", "udp") goes these ways; each is (from, to), names of nodes, "*" for all the others."""
        rules = [rule for one, other in ways for rule in self._rules(one, other, protocol)]
        for rule in rules:
            _ip("-n", self._router, "rule", "add", *rule, "blackhole")
        try:
            yield
        finally:
            for rule in rules:
                _ip("-n", self._router, "rule", "del", *rule, "blackhole")

    def _rules(self, one, other, protocol):
        froms = [one] if one != "*" else [name for name in self.names if name != other]
        tos = [other] if other != "*" else [name for name in self.names if name != one]
        more = ["ipproto", protocol] if protocol else []
        return [["from", self.address(a), "to", self.address(b), *more] for a in froms for b in tos]

    @contextlib.contextmanager
    def unplugged(self, name):
        """While inside: the cable is out."""
        device = f"n{self.names.index(name) + 1}"
        _ip("-n", self._router, "link", "set", device, "down")
        try:
            yield
        finally:
            _ip("-n", self._router, "link", "set", device, "up")

    def disturb(self, name, *words):
        """Have the router treat what it sends to a node as `tc qdisc … netem WORDS` says. Returns why it cannot, or ""."""
        device = f"n{self.names.index(name) + 1}"
        done = subprocess.run(["ip", "netns", "exec", self._router, "tc", "qdisc", "replace", "dev", device, "root", "netem", *words],
                              capture_output=True, text=True)
        return done.stderr.strip() if done.returncode else ""


def both(one, other):
    return (one, other), (other, one)


class LabCluster(LiveCluster):
    """A LiveCluster on the nodes of a Lab. Clients are programs on the node `client`: there is no client in this process."""

    def __init__(self, directory, lab, **rest):
        self.lab = lab
        super().__init__(directory, **rest)

    def _daemon(self, name, arguments):
        daemon = super()._daemon(name, arguments)
        daemon.command = [*self.lab.command(name), *SOURCE]
        host = daemon.arguments.index("--host") + 1
        daemon.arguments[host] = self.lab.address(name)
        return daemon

    @property
    def masters(self):
        return tuple((self.lab.address(local.MASTER), port) for port in self.master.ports)

    def command_line(self, verb, *words):
        return [*self.lab.command("client"), *super().command_line(verb, *words)]

    def dfs(self, verb, *words, status=0, **options):
        done = subprocess.run(self.command_line(verb, *map(os.fspath, words)), capture_output=True, text=True, timeout=60,
                              env=local.program_environment(), **options)
        assert done.returncode == status, f"dfs {verb} ended with {done.returncode}: {done.stderr}"
        return done.stdout if status == 0 else done.stderr

    def timed(self, verb, *words):
        """(seconds, output) of a verb that has to do it."""
        began_s = time.monotonic()
        out = self.dfs(verb, *words)
        return time.monotonic() - began_s, out

    def states(self):
        return {self.name_of(keeper["keeper_id"]): keeper["state"] for keeper in self.status()["keepers"]}

    def wait_live(self, n_keepers, timeout_s=30.0):
        until(lambda: sum(state == "live" for state in self.states().values()) >= n_keepers, timeout_s, "the keepers are live")

    def said(self, text):
        """How often the master's log says this."""
        with open(os.path.join(self.directory, "logs", "master.log"), encoding="utf-8") as log:
            return log.read().count(text)
