"""`/api/events`: a page that listens hears of every change, as server-sent events, until it goes."""

import json

from dfs_lib import cluster_state, errors
from dfs_lib.gateway import http

# A status at least so often, a sign of life in between, and how many pages may listen at once: each holds a thread.
STATUS_S, PING_S = 5.0, 10.0
MAX_LISTENERS = 200
RETRY_MS = 2000


def event(kind, value, id_=None):
    """One event as bytes. JSON has no line break in it, so one `data` line does."""
    head = f"id: {id_}\n" if id_ is not None else ""
    return f"{head}event: {kind}\ndata: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class Events:
    """Serves the listeners of one Watch."""

    def __init__(self, watch, telemetry, clock):
        self._watch, self._telemetry, self._clock = watch, telemetry, clock
        self._n = 0

    def serve(self, exchange, client):
        if self._n >= MAX_LISTENERS:
            raise http.HttpError(503, "busy", "too many pages listen already", headers=[("Retry-After", "30")])
        is_confined = client.ask_identity().home != "/"  # a key that may not ask hears nothing: what the watch knows came by another one
        self._n += 1
        self._telemetry.watched(+1)
        self._watch.listen(client, is_confined)
        try:
            exchange.keeps = False
            exchange.begin(200, [("Content-Type", "text/event-stream; charset=utf-8"), ("Cache-Control", "no-store")], None)
            if exchange.has_body:
                exchange.without_limit()
                self._tell(exchange, client, is_confined)
            exchange.end()
        finally:
            self._watch.leave(client)
            self._telemetry.watched(-1)
            self._n -= 1

    def _tell(self, exchange, client, is_confined):
        watch, last_id = self._watch, exchange.header("last-event-id", "")
        seen_id = int(last_id) if last_id.isascii() and last_id.isdigit() and len(last_id) < 16 else None
        exchange.write(f"retry: {RETRY_MS}\n\n".encode())
        told_s = pinged_s = None
        generation = -1
        while not watch.is_stopping:
            now_s, current = self._clock(), watch.generation
            is_due = told_s is None or current != generation or now_s - told_s >= STATUS_S
            if is_due:
                try:
                    record, unreachable = self._record(client, is_confined)
                except errors.NotPermitted:
                    return  # the user was removed meanwhile, or has another key
            for id_, happening in watch.after(seen_id, is_confined):
                exchange.write(event("happening", happening, id_))
                seen_id = id_
            if is_due:
                if record is not None:
                    exchange.write(event("status", record))
                elif unreachable:
                    exchange.write(event("unreachable", {"message": "The master does not answer"}))
                if record is not None or unreachable:
                    told_s, generation = now_s, current
            if pinged_s is None or now_s - pinged_s >= PING_S:
                exchange.write(b": ping\n\n")
                pinged_s = now_s
            watch.wait(current, 1.0)

    def _record(self, client, is_confined):
        """(status record or None, whether the master is known not to answer) for this listener. Raises NotPermitted.

        What the watch has may name any path: to whom a home confines it is asked for anew, with that user's own key.
        """
        record, unreachable = self._watch.record()
        if record is None:
            if unreachable or self._watch.status_s is not None:
                try:
                    client.ask_identity()  # a page whose key was taken away has to go, also when nobody else is there to ask
                except errors.NetworkError:
                    return None, True
            return record, unreachable
        try:
            if is_confined:
                return cluster_state.status_record(client.status()), False
            client.ask_identity()
        except errors.NetworkError:
            return None, True
        return record, unreachable
