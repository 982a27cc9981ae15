"""Speaks with the master for the whole keeper: registration, heartbeats, block reports, events, orders.

Never touches a block's bytes: orders.py does. It runs in a process of its own, so that a busy port delays no heartbeat.

    thread       does                                                        loop ends when
    main         register → report the inventory → Notify, each second or     told to stop
                 when something has happened; at any failure: register again
    disk         health.Health: room, and whether the disk answers            process ends
    heartbeats   a datagram each second, from the moment it is registered    process ends
    mailbox      events from the ports' processes → the queue                process ends
    orders       AwaitOrders on a connection of its own → orders.Orders      process ends
    catalog      a copy of the master's catalog, while it wants one here     process ends
    (a bug in any of them ends the process, and the supervisor starts a new one: never alive with a dead thread, F39)
"""

import collections
import json
import logging
import os
import random
import threading
import time
import zlib

import dfs_lib
from dfs_lib import errors
from dfs_lib.keeper import rebuilding, shared
from dfs_lib.keeper.events import Events
from dfs_lib.keeper.health import Health
from dfs_lib.net import datagrams, streams
from dfs_lib.wire import heartbeats, messages

log = logging.getLogger(__name__)

NOTIFY_EVERY_S = 1.0
# Under load events are gathered for so long, so that the master hears tens of messages a second from us and not thousands.
NOTIFY_GAP_S = 0.02
# What the master can wait for is gathered longer: it hears of stored blocks from the client's receipts first. A resume, and the
# ports of ended transfers, wait for it no longer than this.
ROUTINE_GAP_S = 0.15
_RECORDS_A_PAGE = 40_000
# Kept blocks that are told by id and reason; beyond it they are only counted.
_KEPT_SHOWN = 500
# A large report may take the master a while to compare; it says Working meanwhile.
_ANSWER_S = 15.0
# Silence after which the master is taken for lost; to register again costs it a whole report, so not too soon.
_NOTIFY_S = 10.0
ORDERS_WAIT_S = 5.0
_PAUSE_S = (0.1, 1.0)  # between tries to reach a master: first and longest, doubled each time
_WARN_EVERY_S = 10.0
# What the scrub has to write its place when we stop.
_ROUNDS_STOP_S = 1.0
# How long a master's refusal is taken for a passing one: our predecessor, just killed, still counts as alive there (F23).
REFUSED_PATIENCE_S = 30.0


class Reporter:
    """The reporter's process. `run` returns when it is told to stop.

    facts: Facts below; store: its own Store; page: shared.Page; epoch: shared.HighestEpoch; stop: shared.StopSignal;
    say(dict): one line to the supervisor; tls: trust.Tls.
    """

    def __init__(self, facts, keyring, store, page, mailbox, epoch, stop, say, save_cluster, tls=None):
        self._facts, self._keyring, self._store, self._page = facts, keyring, store, page
        self._mailbox, self._epoch, self._stop, self._say, self._save_cluster = mailbox, epoch, stop, say, save_cluster
        self._credentials = keyring.credentials("keeper", facts.keeper_id, tls)
        self._mail_lock = threading.Lock()  # held while letters become events: these stand in the order in which things happened
        self.events = Events()
        self.orders = None  # set by whoever makes Orders, before run
        self.rounds = None  # rounds.Rounds, set before run; None when nothing is scrubbed by itself
        self.follower = None  # likewise; without one no copy of the catalog is kept
        self._cluster_id = facts.cluster_id
        self._beat = None  # (Sender, session, seconds) of the registration in force; replaced as a whole
        self._master = None  # (host, port) of the registration in force, for the thread that awaits orders
        self._health = Health(store, self.events.wake, facts.disk_timeout_s)
        self._awaited = []  # guarded by _awaited_lock: events to be set once a whole inventory has been sent
        self._awaited_lock = threading.Lock()
        self._kept_told = None  # Store.kept_since of what the master was last told
        self._n_lost_seen = 0
        self._moved_told_s = float("-inf")  # when the master was last told how many bytes have moved
        self._warned = {}  # text of an address → when we last complained about it (monotonic seconds)

    # -- what others ask for ----------------------------------------------------------------------------------------------
    def tell(self, event):
        """An event of this process; see shared.Teller for those of others.

        What others have posted before is taken first: of a block that is dropped here, or found bad, the older word that it was stored must
        not be heard after that, or it would be on record again.
        """
        with self._mail_lock:
            self._take_letters()
            self._take(event, None)

    def _take_letters(self):
        """Call with _mail_lock held."""
        while (letter := self._mailbox.read_now()) is not None:
            self._take(json.loads(letter), len(letter))

    def disk(self):
        """(store.Space as last seen, why the disk counts as failed now or "")."""
        return self._health.space, self._health.sickness()

    def want_report(self):
        """Have the whole inventory sent again soon. Returns a threading.Event that is set when the master has compared it."""
        sent = threading.Event()
        with self._awaited_lock:
            self._awaited.append(sent)
        self.events.wake()
        return sent

    def _take(self, event, size):
        if event["kind"] == "sick":
            self._health.fault(event["reason"])
        elif event["kind"] == "full":
            self._health.full()
        else:
            self.events.add(event, size)

    # -- main ---------------------------------------------------------------------------------------------------------------
    def run(self):
        loops = {"heartbeats": self._beat_forever, "mailbox": self._read_forever, "orders": self._await_forever, "disk": self._health.run}
        if self.rounds is not None:
            loops["rounds"] = self.rounds.run
        if self.follower is not None:
            loops["catalog"] = self.follower.run
        threads = {name: threading.Thread(target=_or_end, args=(loop,), name=name, daemon=True) for name, loop in loops.items()}
        for thread in threads.values():
            thread.start()
        try:
            self._speak()
        finally:
            if self.rounds is not None:
                self.rounds.stop()
                threads["rounds"].join(_ROUNDS_STOP_S)

    def _speak(self):
        pause_s, refused_since_s = _PAUSE_S[0], None
        while not self._stop.is_set:
            stream, failure = self._reach_a_master()
            if stream is None:
                refused_since_s = self._give_up_or_not(failure, refused_since_s)
                self._stop.wait(pause_s)
                pause_s = min(2 * pause_s, _PAUSE_S[1])
                continue
            pause_s, refused_since_s = _PAUSE_S[0], None
            try:
                self._serve(stream)
            except errors.DfsError as e:
                log.warning("the master was lost address=%s reason=%s", stream.address, e.message)
            finally:
                self._beat = self._master = None
                self._page.set_connected(False)
                stream.close()

    def _give_up_or_not(self, failure, refused_since_s):
        """Before the first registration some failures are final: raise them. Later ones only show in the log."""
        now_s = time.monotonic()
        if self._page.n_registered:
            return None
        if isinstance(failure, (errors.WrongCluster, errors.BadKey, errors.TlsRequired, errors.NoTls, errors.BadSetting)):
            raise failure
        is_refusal = isinstance(failure, (errors.Refusal, errors.VersionMismatch))
        if is_refusal and not isinstance(failure, (errors.NotReady, errors.Busy)):
            if refused_since_s is not None and now_s - refused_since_s > REFUSED_PATIENCE_S:
                raise failure
            return refused_since_s if refused_since_s is not None else now_s
        return None

    # -- registration ---------------------------------------------------------------------------------------------------------
    def _reach_a_master(self):
        """(Stream to a master that has taken this keeper in, None), or (None, the most telling failure)."""
        failure = None
        for host, port in random.sample(self._facts.masters, len(self._facts.masters)):
            if self._stop.is_set:
                break
            try:
                return self._register(host, port), None
            except errors.DfsError as e:
                self._complain(host, port, e)
                if failure is None or isinstance(failure, errors.NetworkError):
                    failure = e
        return None, failure

    def _complain(self, host, port, e):
        address, now_s = streams.address_text(host, port), time.monotonic()
        if now_s - self._warned.get(address, -_WARN_EVERY_S) >= _WARN_EVERY_S:
            self._warned[address] = now_s
            level = logging.WARNING if isinstance(e, errors.NetworkError) else logging.ERROR
            log.log(level, "no master yet address=%s reason=%s", address, e.message)

    def _register(self, host, port):
        stream = streams.connect(host, port, self._credentials, self._facts.connect_timeout_s)
        try:
            if stream.talk.cluster_id == messages.NO_CLUSTER:
                self._help_rebuild(stream)
            self._check_cluster(stream.talk.cluster_id, stream.address)
            facts, space = self._facts, self._health.space
            registered = stream.ask(messages.Register(
                keeper=facts.keeper_id, incarnation=facts.incarnation, cluster_id=self._cluster_id, host=facts.host,
                ports=list(facts.ports), labels=facts.labels, pids=self._page.pids(), used=space.used, free=space.free,
                n_blocks=space.n_blocks, epoch=self._epoch.value, software=f"dfs {dfs_lib.__version__}"), timeout_s=_ANSWER_S)
            self._welcome(registered, stream.address, stream.is_encrypted)
            sender = datagrams.Sender(host, registered.heartbeat_port)
        except OSError as e:
            stream.close()
            raise errors.NetworkError(address=streams.address_text(host, port), detail=str(e)) from e
        except errors.DfsError:
            stream.close()
            raise
        self._beat = sender, registered.session, min(self._facts.heartbeat_every_s, registered.heartbeat_s or 1.0)
        self._master = host, port
        log.info("registered master=%s epoch=%s session=%s", stream.address, registered.epoch, registered.session)
        return stream

    def _help_rebuild(self, stream):
        """A master without a catalog, which holds our key: tell it what is here, until it goes. Never returns."""
        if self._cluster_id is not None:
            rebuilding.Helper(self._facts, self._cluster_id, self._store, self._epoch, self._stop).help(stream)
        raise errors.NotReady(f"the master at {stream.address} is making a new catalog from its keepers, and has no cluster yet",
                              detail="this keeper has none either")

    def _check_cluster(self, theirs, address):
        if self._cluster_id is not None and theirs != self._cluster_id:
            raise errors.WrongCluster(what=f"the master at {address}", theirs=theirs, ours=self._cluster_id)

    def _welcome(self, registered, address, is_encrypted):
        """Bind to this cluster and reign, durably, before anything is done for them."""
        self._check_cluster(registered.cluster_id, address)
        self._epoch.obey(registered.epoch, address)
        if self._cluster_id is None:
            self._save_cluster(registered.cluster_id)
            self._cluster_id = registered.cluster_id
        self._store.cluster_id = registered.cluster_id
        self._page.set_cluster(registered.cluster_id)
        self._page.guard.heard(registered.ticket_key_id, registered.refused_users)
        self._page.set_reign(registered.epoch, registered.tick)
        self._page.count_registration()
        self._page.set_connected(True)
        if is_encrypted:
            self._page.want_tls()
        self._say({"registered": registered.cluster_id})

    # -- while registered -----------------------------------------------------------------------------------------------------
    def _serve(self, stream):
        self._send_inventory(stream)
        self._kept_told = None
        while not self._stop.is_set:
            began_s = time.monotonic()
            self._notify(stream)
            self._tell_kept(stream)
            if self._awaited or self._lost_some():
                self._send_inventory(stream)
            self.events.wait(max(0.0, began_s + NOTIFY_EVERY_S - time.monotonic()), self._stop)
            self.events.gather(ROUTINE_GAP_S, self._stop)
            self._stop.wait(max(0.0, began_s + NOTIFY_GAP_S - time.monotonic()))
        self._say_farewell(stream)

    def _tell_kept(self, stream):
        """What lies in aside/ and quarantine/, when that has changed."""
        try:
            since = self._store.kept_since()
            if since == self._kept_told:
                return
            aside, quarantined = self._store.aside(), self._store.quarantined()
        except errors.DfsError as e:
            log.warning("what is kept aside could not be listed reason=%s", e.message)
            return
        shown = [("quarantine", one) for one in quarantined] + [("aside", one) for one in aside]
        stream.ask(messages.ReportKept(aside=len(aside), quarantined=len(quarantined), blocks=[
            {"block": one.block, "where": where, "reason": one.reason[:300]} for where, one in shown[:_KEPT_SHOWN]]), timeout_s=_ANSWER_S)
        self._kept_told = since

    def _say_farewell(self, stream):
        """What is left to tell, then that this stop is meant."""
        try:
            for _ in range(20):
                if not self._notify(stream, timeout_s=1.0):
                    break
            stream.ask(messages.Farewell(), timeout_s=2.0)
            log.info("said farewell master=%s", stream.address)
        except errors.DfsError as e:
            log.warning("no farewell master=%s reason=%s", stream.address, e.message)

    def _notify(self, stream, timeout_s=_NOTIFY_S):
        """Tell the oldest events; returns how many."""
        batch, space = self.events.first(), self._health.space
        if batch:
            self._health.look_soon()
        scrub = None if self.rounds is None else self.rounds.state()._asdict()
        moved = self._moved_if_due()
        answer = stream.ask(messages.Notify(
            events=batch, used=space.used, free=space.free, n_blocks=space.n_blocks, sick=self._health.sickness(), pids=self._page.pids(),
            tickets_refused=self._page.guard.n_refused(), scrub=scrub, moved=moved,
            refusals=None if moved is None else self._page.refusals()), timeout_s=timeout_s)
        self._epoch.obey(answer.epoch, stream.address)
        self._page.guard.heard(answer.ticket_key_id, answer.refused_users)
        self._page.set_reign(answer.epoch, answer.tick)
        if self.follower is not None:
            self.follower.heard(answer.follow)
        self.events.forget(batch)
        return len(batch)

    def _moved_if_due(self):
        """The running totals of bytes moved, once a second however often there is something to tell; else None."""
        now_s = time.monotonic()
        if now_s - self._moved_told_s < NOTIFY_EVERY_S:
            return None
        self._moved_told_s = now_s
        return dict(zip(("from_clients", "to_clients", "copied"), self._page.moved()))

    def _lost_some(self):
        """Whether events have been lost since we last looked: then the master's picture may be wrong."""
        n_lost = self._page.n_lost() + self.events.n_lost
        seen, self._n_lost_seen = self._n_lost_seen, n_lost
        if n_lost != seen:
            log.warning("events lost n=%s, sending the whole inventory", n_lost - seen)
        return n_lost != seen

    # -- inventory ------------------------------------------------------------------------------------------------------------
    def _send_inventory(self, stream):
        """Every block this keeper has, in pages sorted by id. What is stored meanwhile comes as an event besides."""
        with self._awaited_lock:
            awaited, self._awaited = self._awaited, []
        try:
            if self._send_pages(stream):
                while awaited:
                    awaited.pop().set()
        finally:
            with self._awaited_lock:
                self._awaited += awaited  # the next master hears it

    def _send_pages(self, stream):
        """Returns whether all of it has been sent."""
        began_s, n = time.monotonic(), 0
        # Before the first name is read: from now on the master remembers what is published, which this list may be too old to have.
        self._send_page(stream, b"", True, False)
        page = bytearray()
        for block, size in self._store.list(damaged=self._found_damaged):
            if len(page) == _RECORDS_A_PAGE * messages.BLOCK_RECORD_SIZE:
                self._send_page(stream, page, False, False)
                page.clear()
                if self._stop.is_set:
                    return False
            page += bytes.fromhex(block)
            page += size.to_bytes(8, "big")
            n += 1
        self._send_page(stream, page, False, True)
        log.info("inventory sent blocks=%s took_s=%.3f", n, time.monotonic() - began_s)
        self._health.look_soon()
        return True

    def _send_page(self, stream, page, first, last):
        page = bytes(page)
        stream.ask(messages.ReportBlocks(first=first, last=last, crc=zlib.crc32(page)), page, timeout_s=4 * _ANSWER_S)

    def _found_damaged(self, block, error):
        """A file whose footer cannot be believed: out of use, and told."""
        if isinstance(error, errors.IntegrityError):
            try:
                self._store.quarantine(block, error.message)
            except errors.DfsError as e:
                log.error("block could not be put into quarantine block=%s reason=%s", block, e.message)
        self.tell({"kind": "bad", "block": block, "reason": shared.reason_of(error)})

    # -- other threads --------------------------------------------------------------------------------------------------------
    def _beat_forever(self):
        number, sender = 0, None
        while True:
            began_s, beat = time.monotonic(), self._beat
            every_s = 0.02
            if beat is not None:
                if sender is not None and sender is not beat[0]:
                    sender.close()
                sender, session, every_s = beat
                number += 1
                loads = dict(zip(self._facts.ports, self._page.loads()))
                space = self._health.space
                sender.send(heartbeats.Heartbeat(session, self._facts.keeper_id, number, space.free, space.used, space.n_blocks, loads),
                            self._keyring.node)
            time.sleep(max(0.01, began_s + every_s - time.monotonic()))

    def _read_forever(self):
        while self._mailbox.wait():
            with self._mail_lock:
                self._take_letters()
        raise errors.Misuse(detail="the mailbox was closed")

    def _await_forever(self):
        stream = at = None
        while True:
            master = self._master
            if master is None or master != at:
                if stream is not None:
                    stream.close()
                    stream = None
                at = master
            try:
                if master is None:
                    time.sleep(0.02)
                    continue
                if stream is None:
                    stream = self._connect(*master)
                self._take_orders(stream)
            except errors.DfsError as e:
                log.debug("no orders reason=%s", e.message)
                if stream is not None:
                    stream.close()
                    stream = None
                time.sleep(0.2)

    def _connect(self, host, port):
        stream = streams.connect(host, port, self._credentials, self._facts.connect_timeout_s)
        try:
            self._check_cluster(stream.talk.cluster_id, stream.address)
        except errors.DfsError:
            stream.close()
            raise
        return stream

    def another_connection(self):
        """A further Stream to the master registered with, or None while there is none."""
        master = self._master
        return master and self._connect(*master)

    def _take_orders(self, stream):
        orders = stream.ask(messages.AwaitOrders(wait_s=ORDERS_WAIT_S), timeout_s=ORDERS_WAIT_S + 5.0)
        if orders.epoch != self._epoch.value or self._master is None:
            raise errors.NotMaster(address=stream.address)  # not the reign we are registered under: neither older nor newer
        # Drops of a reign that is not on our disk wait: after a crash its predecessor might be obeyed again. The master repeats them.
        self.orders.take(orders.epoch, [order for order in orders.orders if self._epoch.is_saved or order["kind"] != "drop"])


Facts = collections.namedtuple(
    "Facts", "keeper_id cluster_id incarnation host ports labels masters heartbeat_every_s connect_timeout_s disk_timeout_s")


def _or_end(loop):
    """Run a thread's loop; a bug in it ends the process."""
    try:
        loop()
    except BaseException:
        log.exception("bug in thread %s", threading.current_thread().name)
        logging.shutdown()
        os._exit(70)
