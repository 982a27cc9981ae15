"""A keeper's numbers for Prometheus: one scrape from the page that its processes share, and from what is known of its disk.

Never counts by itself: each process writes its own cells, whoever is asked adds them up. Labels are bounded: ports and processes of
this keeper.
"""

import dfs_lib
from dfs_lib import metrics
from dfs_lib.keeper import shared


class Measures:
    """`text()` is one scrape; `health()` and `readiness()` are (whether all is well, a sentence).

    page: shared.Page; ports: their numbers; disk() → (store.Space as last seen, why the disk counts as failed or ""): no disk is asked
    while a monitor waits.
    """

    def __init__(self, page, ports, disk):
        self._page, self._ports, self._disk = page, ports, disk
        self.registry = registry = metrics.Registry()
        gauge, counter = registry.gauge, registry.counter
        gauge("dfs_build_info", "Always 1; the labels say what runs here.", ["version", "role"]).set(1, dfs_lib.__version__, "keeper")
        self._connected = gauge("dfs_master_up", "Whether a master has taken this keeper in, and is heard.")
        self._registered = counter("dfs_registrations_total", "Times a master has taken this keeper in.")
        self._epoch = gauge("dfs_epoch", "The highest reign of a master heard of.")
        self._used = gauge("dfs_disk_used_bytes", "Bytes of the block files here.")
        self._free = gauge("dfs_disk_free_bytes", "Bytes that could still be taken, without the reserve.")
        self._blocks = gauge("dfs_disk_blocks", "Block files here.")
        self._sick = gauge("dfs_disk_sick", "Whether the disk has failed of late.")
        self._up = gauge("dfs_process_up", "Whether a process of this keeper runs.", ["process"])
        self._bytes = counter("dfs_transfer_bytes_total", "Bytes of blocks moved; in: written here.", ["port", "direction"])
        self._ended = counter("dfs_transfers_total", "Transfers that have ended, well or not.", ["port"])
        self._active = gauge("dfs_transfers", "Transfers under way.", ["port"])
        self._lost = counter("dfs_events_lost_total", "Events that found no room on the way to the master; a block report follows.")
        self._refused = counter("dfs_tickets_refused_total", "Tickets refused.")
        self._seconds = registry.histogram("dfs_request_duration_seconds", "Time of transfers, from the ticket's check to the answer.", ["request"])

    def text(self):
        page = self._page
        self._connected.set(page.is_connected)
        self._registered.set(page.n_registered)
        self._epoch.set(page.reign()[0])
        space, sick = self._disk()
        self._used.set(space.used)
        self._free.set(space.free)
        self._blocks.set(space.n_blocks)
        self._sick.set(bool(sick))
        self._lost.set(page.n_lost())
        self._refused.set(page.guard.n_refused())
        slots = [(str(port), page.slot(index)) for index, port in enumerate(self._ports)] + [("reporter", page.slot(page.n_ports))]
        for name, slot in slots:
            counts = slot.counters()
            self._up.set(counts["pid"] != 0, name if name == "reporter" else f"port-{name}")
            self._bytes.set(counts["bytes_in"], name, "in")
            self._bytes.set(counts["bytes_out"], name, "out")
            self._ended.set(counts["ended"], name)
            self._active.set(counts["active"], name)
        for kind, word in ((shared.PUT, "put"), (shared.GET, "get")):
            self._take_times(word, [slot.times(kind) for _name, slot in slots])
        return self.registry.text()

    def _take_times(self, word, of_slots):
        counts = [sum(column) for column in zip(*(counts for counts, _seconds in of_slots))]
        self._seconds.take(counts, sum(seconds for _counts, seconds in of_slots), word)

    def health(self):
        return True, "ok"

    def readiness(self):
        if not self._page.is_connected:
            return False, "no master has taken this keeper in, or it was lost"
        _space, sick = self._disk()
        return (False, f"the disk failed: {sick}") if sick else (True, "ok")
