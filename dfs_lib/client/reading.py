"""One version of a file for those who pass its bytes on in order: stretches of it, every chunk checked.

Never keeps a byte: what is delivered is the receiver's until it returns.
"""

from dfs_lib.client import download


class Reading:
    """Facts of one version, and its bytes. path, version, size, mtime_at. For one thread at a time."""

    def __init__(self, peers, path):
        """Raises NoSuchFile, IsADirectory, …"""
        self._peers = peers
        self._plan = download.Plan(peers, path, peers.new_stop()).open()
        self.path, self.version, self.size, self.mtime_at = self._plan.path, self._plan.version, self._plan.size, self._plan.mtime_at

    def deliver(self, first, end, to):
        """Bytes [first, end) in order to `to(view)`, whose errors pass. Raises AllReplicasBad, NoLiveReplica."""
        buffer = self._peers.take_buffer()
        try:
            download.stretch(self._plan, first, end, to, buffer)
        finally:
            self._peers.give_buffer(buffer)
