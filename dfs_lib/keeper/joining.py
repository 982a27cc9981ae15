"""How a keeper gets its keys: from a key file, or once from the master by a join code.

Never holds the cluster key for a keeper that joined: it gets the three keys derived from it that its work needs.
"""

import os

import dfs_lib
from dfs_lib import errors, keyfile
from dfs_lib.net import streams
from dfs_lib.wire import messages, trust

# In the data directory, mode 0600.
CLUSTER_KEY, NODE_KEYS = "cluster.key", "node.key"


def own_key_file(directory):
    """The key file in a keeper's data directory, or None."""
    for name in (CLUSTER_KEY, NODE_KEYS):
        path = os.path.join(directory, name)
        if os.path.exists(path):
            return path
    return None


def keyring(path):
    """The Keyring of a keeper's key file. Raises BadKeyFile."""
    key = keyfile.load(path)
    if key.kind == keyfile.USER:
        raise errors.BadKeyFile(path=str(path), detail="it holds a user's key, which opens nothing to a keeper")
    return trust.Keyring.from_bytes(key.key) if key.kind == keyfile.NODE else trust.Keyring.from_cluster_key(key.key)


def join(masters, code, directory, timeout_s, tls=None):
    """Spend a join code: ask the first master that answers for the keys, and keep them. Returns the key file's path.

    masters: (host, port) pairs; tls: trust.Tls. Raises BadJoinCode, NetworkError of the last master tried, LocalFileError.
    """
    name, secret = trust.read_join_code(code)
    credentials = trust.Credentials(trust.JOINER, name, trust.join_secret(name, secret), "hmac", tls)
    failure = None
    for host, port in masters:
        try:
            keys = _ask(host, port, credentials, timeout_s)
        except errors.NetworkError as e:
            failure = e
            continue
        path = os.path.join(directory, NODE_KEYS)
        keyfile.write(path, keyfile.Key(keyfile.NODE, None, keys))
        return path
    raise failure


def _ask(host, port, credentials, timeout_s):
    try:
        stream = streams.connect(host, port, credentials, timeout_s)
    except errors.BadKey as e:
        # The master does not know the code's name any more, or never did: it cannot prove that it knows its secret.
        raise errors.BadJoinCode(detail="it was used already, has lapsed, or is of another cluster") from e
    try:
        if stream.talk.peer.role != messages.MASTER:
            raise errors.ConnectFailed(address=stream.address, detail="it is no master")
        joined = stream.ask(messages.Join(software=f"dfs {dfs_lib.__version__}"))
        return trust.unwrap_keys(stream.talk.export(b"join pad", 96), stream.talk.export(b"join code", 32),
                                 bytes.fromhex(joined.keys), bytes.fromhex(joined.proof))
    finally:
        stream.close()
