"""One connection: request after request until one side has had enough. Pipelined requests wait in the buffer for their turn.

Never knows what a request is for: `handle(exchange)` does. Deadlines: a first request within the handshake's limit, a later one within
the idle limit, each head within HEAD_S from its first byte, bodies at the least rate of net/foreign.

    read head ──▶ 400 and close when it is none ──▶ handle ──▶ drain what is left of the body ──▶ again, or linger and close
"""

import logging
import time

from dfs_lib import errors
from dfs_lib.gateway import exchange as exchanges
from dfs_lib.gateway import faults, http
from dfs_lib.net import foreign

log = logging.getLogger(__name__)

# The whole head, however it trickles.
HEAD_S = 10.0
# What is left for the first head at least, after a slow TLS handshake.
LEAST_FIRST_S = 0.5
READ_SIZE = 16 << 10
MAX_REQUESTS = 10_000  # on one connection; then the client opens another


class Service:
    """What net/foreign serves with. handle(exchange): answers; telemetry: see telemetry.py."""

    def __init__(self, handle, telemetry, idle_s=60.0, first_s=10.0, clock=time.monotonic, now=time.time):
        self._handle, self._telemetry, self._idle_s, self._first_s = handle, telemetry, idle_s, first_s
        self._clock, self._now = clock, now
        self._buffer_size = READ_SIZE

    def serve(self, connection):
        self._telemetry.connected(+1)
        try:
            self._serve(connection)
        finally:
            self._telemetry.connected(-1)

    def _serve(self, connection):
        early, scratch = bytearray(), memoryview(bytearray(self._buffer_size))
        for number in range(MAX_REQUESTS):
            try:
                wait_s = self._idle_s if number else max(LEAST_FIRST_S, self._first_s - connection.age_s())
                request = self._next_request(connection, early, scratch, wait_s)
            except http.HttpError as e:
                self._refuse(connection, e)
                return
            if request is None:
                return
            connection.is_known()
            connection.set_timeout(foreign.SILENCE_S)
            connection.begin()
            if number == MAX_REQUESTS - 1:
                request = request._replace(keeps=False)
            if not self._one(connection, early, request):
                connection.linger()
                return

    def _next_request(self, connection, early, scratch, wait_s):
        """The next Request, or None when the client has gone or has asked nothing in time. Raises HttpError."""
        end_s = self._clock() + wait_s
        connection.is_idle = not early
        began = bool(early)
        if began:
            end_s = self._clock() + HEAD_S
        while (end := http.head_end(early)) < 0:
            left_s = end_s - self._clock()
            if left_s <= 0:
                if began:
                    raise http.bad("the head of the request did not come in time", 408, "timeout")
                return None
            connection.set_timeout(left_s)
            connection.begin(0)  # the deadline above is the stricter one
            try:
                n = connection.receive_into(scratch)
            except foreign.Silent:
                continue
            if not n:
                return None
            early += scratch[:n]
            while not began and early[:2] == b"\r\n":
                del early[:2]  # an empty line before a request: RFC 9112, section 2.2
            if early and not began:
                began, connection.is_idle = True, False
                end_s = self._clock() + HEAD_S
        head = early[:end]
        del early[:end]
        return http.parse_head(head)

    def _refuse(self, connection, error):
        """Answer what is no request, and close: where the next one would start is not known."""
        request = http.Request("GET", "/", "", {}, (1, 1), 0, False, False)
        exchange = exchanges.Exchange(request, exchanges.Body(connection, bytearray(), request), connection, self._now)
        connection.set_timeout(2.0)
        exchange.answer_error(error)
        self._telemetry.answered("other", error.status, 0.0)
        connection.linger(1.0)

    def _one(self, connection, early, request):
        """Serve one request; whether another may follow."""
        began_s = self._clock()
        exchange = exchanges.Exchange(request, exchanges.Body(connection, early, request), connection, self._now)
        try:
            self._handle(exchange)
            if exchange.status is None:
                raise errors.Misuse(detail=f"{request.method} was not answered")
            return exchange.keeps and exchange.body.is_done
        except http.HttpError as e:
            return self._told(exchange, e)
        except foreign.Departed:
            raise  # its connection is all that is lost
        except errors.Misuse:
            log.exception("bug while answering method=%s", request.method)
            return self._told(exchange, http.HttpError(500, "bug", "this is a bug in dfs; the gateway's log tells more"))
        except errors.DfsError as e:
            return self._told(exchange, faults.as_http(e))
        except Exception:
            log.exception("bug while answering method=%s", request.method)
            return self._told(exchange, http.HttpError(500, "bug", "this is a bug in dfs; the gateway's log tells more"))
        finally:
            self._telemetry.answered(request.method, exchange.status or 499, self._clock() - began_s)
            self._telemetry.moved(exchange.body.n_read, exchange.n_sent)

    @staticmethod
    def _told(exchange, error):
        """Answer with an error. Half an answer is on the wire already? Then only closing tells."""
        if exchange.status is not None:
            return False
        exchange.answer_error(error)
        return exchange.keeps and exchange.body.is_done
