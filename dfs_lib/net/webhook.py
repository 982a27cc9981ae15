"""One JSON object posted to a URL: one try, one deadline.

Never follows a redirection, uses a proxy, or repeats anything: the caller does. The answer's body is read away up to a ceiling.
"""

import http.client
import socket
import ssl
import threading
import urllib.parse

from dfs_lib import errors

_MOST_READ = 64 << 10


def post(url, data, timeout_s):
    """POST bytes of JSON; returns when the receiver has said 2xx. Raises NetworkError; the address in it is scheme and host alone,
    because the path of a webhook is often its secret."""
    parts = urllib.parse.urlsplit(url)
    address = f"{parts.scheme}://{parts.hostname}"
    try:
        port = parts.port
        if parts.scheme == "https":
            connection = http.client.HTTPSConnection(parts.hostname, port, timeout=timeout_s, context=ssl.create_default_context())
        else:
            connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
    except (ValueError, http.client.HTTPException) as e:
        raise errors.NetworkError(address=address, detail=str(e)) from e
    # The limits of a socket start anew with every byte; this one does not. asked: the socket once the question is out, because
    # the connection lets go of it when the answer's head has come, and the rest of the answer may trickle all the same.
    asked = []
    watch = threading.Timer(timeout_s, _cut_off, (connection, asked))
    watch.daemon = True
    watch.start()
    try:
        connection.request("POST", (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), data,
                           {"Content-Type": "application/json", "User-Agent": "dfs", "Connection": "close"})
        asked.append(connection.sock)
        answer = connection.getresponse()
        try:
            answer.read(_MOST_READ)
        except (OSError, http.client.HTTPException):
            pass  # it has said what counts; that the rest was cut off in the middle is no failure
    except (OSError, http.client.HTTPException) as e:
        raise errors.NetworkError(address=address, detail=str(e) or type(e).__name__) from e
    finally:
        watch.cancel()
        connection.close()
    if not 200 <= answer.status < 300:
        raise errors.NetworkError(address=address, detail=f"it answers {answer.status} {answer.reason}")


def _cut_off(connection, asked):
    sock = asked[0] if asked else connection.sock
    if sock is not None:
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed already
