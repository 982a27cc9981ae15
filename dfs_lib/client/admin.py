"""Users and invitations for those who administer: asks the master, and uncovers the keys it shows.

Never stores a key: whoever asked has to.
"""

import os

from dfs_lib import keyfile
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
