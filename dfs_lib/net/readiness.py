"""A daemon says that it is ready: one JSON line on standard output, and a word to the service manager that waits for it.

The second is systemd's protocol (sd_notify(3)): a datagram READY=1 to the local socket that NOTIFY_SOCKET names. With it a unit of
Type=notify has started when the daemon serves, not when its process runs, so that the next command of a recipe finds it at work.
"""

import json
import logging
import os
import socket

log = logging.getLogger(__name__)

VARIABLE = "NOTIFY_SOCKET"
_TIMEOUT_S = 2.0


def announce(facts):
    """Print `facts` (a dict) as the ready line, and tell the service manager, if one waits."""
    print(json.dumps(facts), flush=True)
    tell_manager()


def tell_manager(environ=None):
    """READY=1 to the socket named in `environ` (this process's own by default); whether it was sent. A manager that does not hear is only logged:
    it ends us by its own time limit."""
    address = (os.environ if environ is None else environ).get(VARIABLE, "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]  # the abstract name space
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.settimeout(_TIMEOUT_S)
            sock.sendto(b"READY=1", address)
    except OSError as e:
        log.warning("the service manager cannot be told that this daemon is ready: %s", e)
        return False
    return True
