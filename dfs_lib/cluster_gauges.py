"""How the cluster is, as gauges for Prometheus: the same names and help on the master and on every gateway.

Never asks anybody: whoever serves the numbers hands in a ClusterStatus. Labels are bounded: keepers and states.
"""

STATES = ("live", "suspect", "dead", "draining")


class ClusterGauges:
    """Makes its families in a metrics.Registry; `take` fills them."""

    def __init__(self, registry):
        gauge = registry.gauge
        self._plain = {
            "files": gauge("dfs_files", "Files in the store."),
            "directories": gauge("dfs_directories", "Directories in the store."),
            "bytes": gauge("dfs_file_bytes", "Bytes of the files in the store, each counted once."),
            "under_replicated": gauge("dfs_blocks_under_replicated", "Blocks with fewer copies than are wanted."),
            "missing": gauge("dfs_blocks_missing", "Blocks of which no live keeper has a copy."),
            "repairs_running": gauge("dfs_repairs_running", "Copies being made by repair."),
            "repair_bytes_left": gauge("dfs_repair_left_bytes", "Bytes that repair has still to copy."),
            "uploads": gauge("dfs_uploads_open", "Uploads under way or interrupted."),
        }
        self._alarms = gauge("dfs_alarms", "Alarms that stand: things that somebody has to look at.")
        self._states = gauge("dfs_keepers", "Keepers by state.", ["state"])
        # gauge → what it says of a keeper's record; None: nothing
        self._of_keeper = {
            gauge("dfs_keeper_up", "Whether a keeper counts: live, suspect or draining, and not dead.", ["keeper"]): lambda k: k["state"] != "dead",
            gauge("dfs_keeper_used_bytes", "Bytes that a keeper holds.", ["keeper"]): lambda k: k["used"],
            gauge("dfs_keeper_free_bytes", "Bytes that a keeper could still take.", ["keeper"]): lambda k: k["free"],
            gauge("dfs_keeper_blocks", "Copies of blocks that a keeper holds.", ["keeper"]): lambda k: k["blocks"],
            gauge("dfs_keeper_transfers", "Transfers under way on a keeper.", ["keeper"]): lambda k: k["load"],
            gauge("dfs_keeper_heartbeat_age_seconds", "Seconds since a keeper was heard.", ["keeper"]): lambda k: k["heartbeat_age_s"],
            gauge("dfs_keeper_sick", "Whether a keeper's disk has failed of late.", ["keeper"]): lambda k: bool(k["sick"]),
        }

    def take(self, status, n_alarms=None):
        """The numbers of now. status: a ClusterStatus, or None when none is known: then there are none, old ones least of all.

        n_alarms: those that stand, where more is known than a status shows.
        """
        for family in (self._alarms, self._states, *self._plain.values(), *self._of_keeper):
            family.clear()  # keepers that were forgotten, too
        if status is None:
            return
        for name, family in self._plain.items():
            family.set(getattr(status, name))
        self._alarms.set(len(status.alarms) if n_alarms is None else n_alarms)
        for state in STATES:
            self._states.set(sum(keeper["state"] == state for keeper in status.keepers), state)
        for keeper in status.keepers:
            for family, measure in self._of_keeper.items():
                if (value := measure(keeper)) is not None:
                    family.set(value, keeper["name"])
