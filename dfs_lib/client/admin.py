"""Users and invitations for those who administer: asks the master, and uncovers the keys it shows.

Never stores a key: whoever asked has to.
"""

import hashlib
import os

from dfs_lib import errors, keyfile
from dfs_lib.wire import messages, trust


def add_user(client, name, role, home="/"):
    """A new user: (identity, the line of its key file). Raises UserExists, BadName, NotPermitted."""
    nonce = os.urandom(32).hex()
    return _shown(client, nonce, client.ask(messages.AddUser(name=name, role=role, home=home, nonce=nonce, op=os.urandom(16).hex())))


def rotate_user(client, name):
    """A new key for a user: (identity, the line of its key file); the old key opens nothing from now on. Raises NoSuchUser."""
    nonce = os.urandom(32).hex()
    return _shown(client, nonce, client.ask(messages.RotateUser(name=name, nonce=nonce, op=os.urandom(16).hex())))


def _shown(client, nonce, answer):
    key = trust.covered(client.credentials.secret, nonce, bytes.fromhex(answer.key))
    return answer.identity, keyfile.line(keyfile.Key(keyfile.USER, answer.identity, key))


def remove_user(client, name):
    """The user's key opens nothing from now on. Raises NoSuchUser."""
    client.ask(messages.RemoveUser(name=name, op=os.urandom(16).hex()))


def users(client):
    """Every user: dicts of name, identity, role, home, changed_at."""
    found, more = [], True
    while more:
        page = client.ask(messages.ListUsers(after=found[-1]["name"] if found else None))
        found += page.users
        more = page.more and bool(page.users)
    return found


def invite(client):
    """(join code, seconds until it lapses)."""
    nonce = os.urandom(32).hex()
    answer = client.ask(messages.Invite(nonce=nonce))
    secret = trust.covered(client.credentials.secret, nonce + answer.name, bytes.fromhex(answer.secret))
    return trust.join_code(answer.name, secret), answer.lapses_s


def backup(client, path, progress=lambda n: None):
    """A copy of the master's catalog in a new local file; returns its size. It appears under its name when it is whole and durable.
    Raises LocalFileError, when there is such a file as well: it may be the copy that is needed; IntegrityError."""
    _refuse_existing(path)
    made = client.ask(messages.MakeBackup())  # it says Working meanwhile
    part = path + ".part"
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0), 0o600), "wb") as out:
            digest, offset = hashlib.sha256(), 0
            while offset < made.size:
                data = bytes.fromhex(client.ask(messages.FetchBackup(backup=made.backup, offset=offset)).data)
                if not data:
                    break
                digest.update(data)
                out.write(data)
                offset += len(data)
                progress(len(data))
            if offset != made.size or digest.hexdigest() != made.sha256:
                raise errors.IntegrityError(f"the copy in {part} is not what the master has made: try again", path=path)
            out.flush()
            os.fsync(out.fileno())
        _refuse_existing(path)  # somebody else may have been faster
        os.replace(part, path)
        _sync_directory(os.path.dirname(os.path.abspath(path)))
    except OSError as e:
        raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
    finally:
        client.ask(messages.FetchBackup(backup=made.backup, offset=None))
    return made.size


def _refuse_existing(path):
    if os.path.lexists(path):
        error = errors.LocalFileError(path=path, detail="it exists already, and a copy of the catalog replaces nothing")
        error.hint = "choose another name, or remove it first"
        raise error


def _sync_directory(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
