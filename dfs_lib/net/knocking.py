"""Whether an address can be reached at all, for those who look for what is wrong. Says nothing of who answers there."""

import socket


def knock(host, port, timeout_s):
    """Why a TCP connection could not be made, None when it could."""
    try:
        socket.create_connection((host, port), timeout_s).close()
    except TimeoutError:
        return f"no answer within {timeout_s:g} s: a firewall drops it, or the machine is away"
    except OSError as e:
        return (e.strerror or str(e)).lower()
    return None


def throw(host, port, n):
    """Send `n` datagrams that are no heartbeats, which a master counts and drops. Raises OSError when none could be sent."""
    family, kind, _proto, _name, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as sock:
        for _ in range(n):
            sock.sendto(b"dfs doctor" + bytes(16), address)
