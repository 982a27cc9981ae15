"""Users and join codes as the master keeps them: who is known, whose tickets are void, which code still opens the door.

Never decides what a user may do: `permissions` does. Never holds a user's key: it is derived when it is to be shown, once.

    add ──▶ known as NAME.SERIAL ── rotate ──▶ known as NAME.SERIAL' ── remove ──▶ unknown
                                       └── the old identity's tickets are void at the keepers until they would have expired
"""

import logging
import re
import secrets
import threading

from dfs_lib import errors, model
from dfs_lib.catalog import operations
from dfs_lib.wire import messages, trust

log = logging.getLogger(__name__)

LIST_PAGE = 100
# A join code is good for so long, and so many wait at once: each costs its maker an administrator's request.
INVITATION_S = 900.0
MAX_INVITATIONS = 64
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class UserTable:
    """The users in memory, as the catalog has them; looked up for each request. Replaced as a whole at a change."""

    def __init__(self, rows, ticket_life):
        """rows: catalog User records; ticket_life: ticks that a ticket lives."""
        self._ticket_life = ticket_life
        self._lock = threading.Lock()
        self._void = []  # guarded by _lock: (tick until which, 16 hex digits that tickets know the user by)
        self.load(rows)

    def load(self, rows):
        self._known = {f"{row.name}.{row.serial}": row for row in rows}

    def known(self, identity):
        """The User of this identity, or None."""
        return self._known.get(identity)

    def all(self):
        return sorted(self._known.values(), key=lambda user: user.name)

    def void(self, identity, tick):
        """Tickets of this identity are refused from now on. Returns False when there is no room to remember it."""
        with self._lock:
            self._forget(tick)
            if len(self._void) >= messages.MAX_REFUSED_USERS:
                return False
            self._void.append((tick + self._ticket_life, trust.user_digest(identity).hex()))
            return True

    def refused(self, tick):
        """What keepers are told: users whose tickets are void."""
        with self._lock:
            self._forget(tick)
            return [user for _until, user in self._void]

    def _forget(self, tick):
        if self._void and self._void[0][0] < tick:
            self._void = [each for each in self._void if each[0] >= tick]


class Invitations:
    """Join codes that have neither been used nor lapsed. Lost with the process: then a new one is asked for."""

    def __init__(self, clock, draw=secrets.token_bytes):
        self._clock, self._draw = clock, draw
        self._lock = threading.Lock()
        self._open = {}  # guarded by _lock: name → (secret, monotonic seconds at which it lapses)

    def make(self):
        """(name, secret) of a fresh code. Raises Busy when too many wait."""
        with self._lock:
            self._lapse()
            if len(self._open) >= MAX_INVITATIONS:
                raise errors.Busy(address="the master", detail=f"{MAX_INVITATIONS} join codes wait to be used")
            name, secret = self._draw(4).hex(), self._draw(16)
            self._open[name] = secret, self._clock() + INVITATION_S
            return name, secret

    def secret_for(self, name):
        """What a joiner of that name proves itself with, or None."""
        with self._lock:
            self._lapse()
            found = self._open.get(name)
        return found and trust.join_secret(name, found[0])

    def use(self, name):
        """Raises BadJoinCode unless the code is still good; from now on it is not."""
        with self._lock:
            self._lapse()
            if self._open.pop(name, None) is None:
                raise errors.BadJoinCode(detail="it was used already, or has lapsed")

    def _lapse(self):
        now_s = self._clock()
        for name in [name for name, (_secret, until_s) in self._open.items() if until_s <= now_s]:
            del self._open[name]


class Users:
    """Handlers of the messages about users and joining."""

    def __init__(self, tracker):
        self._t = tracker
        self._lock = threading.Lock()  # a change and the table made from it belong together

    def table(self):
        return {messages.AddUser: self.add, messages.ListUsers: self.list, messages.RemoveUser: self.remove,
                messages.RotateUser: self.rotate, messages.Invite: self.invite, messages.Join: self.join,
                messages.Identify: self.identify}

    def _check(self, name):
        if self._t.keyring.auth == "none":
            raise errors.Refusal(detail="this cluster runs with --insecure: there is nobody to tell apart")
        if not _NAME.fullmatch(name) or name == trust.ADMIN:
            raise errors.BadName(path=name, detail="a user's name has 1 to 32 small letters, digits, - and _, and is not admin")

    def _apply(self, operation):
        with self._lock:
            done = self._t.database.apply(operation)
            self._t.users.load(self._t.queries().users())
        return done

    def _void(self, identity):
        t = self._t
        if not t.users.void(identity, t.tick):
            t.roll_ticket_key(2)  # more users than keepers remember: then every ticket made so far is void

    def add(self, message, exchange):
        self._check(message.name)
        home = model.clean_path(message.home)
        done = self._apply(operations.AddUser(op=message.op, name=message.name, role=message.role, home=home, at=self._t.wall()))
        return self._key(message, exchange, done)

    def rotate(self, message, exchange):
        self._check(message.name)
        done = self._apply(operations.RotateUser(op=message.op, name=message.name, at=self._t.wall()))
        self._void(f"{message.name}.{done['was']}")
        return self._key(message, exchange, done)

    def _key(self, message, exchange, done):
        """A user's key, readable for the asker alone. One that was changed again meanwhile is not shown."""
        t, identity = self._t, f"{message.name}.{done['serial']}"
        user = t.users.known(identity)
        if user is None:
            raise errors.NoSuchUser(name=message.name)
        key = trust.covered(t.keyring.secret_for("client", exchange.peer.identity), message.nonce,
                            t.keyring.secret_for("client", identity))
        return messages.UserKey(identity=identity, role=user.role, home=user.home, key=key.hex())

    def remove(self, message, exchange):
        done = self._apply(operations.RemoveUser(op=message.op, name=message.name, at=self._t.wall()))
        self._void(f"{message.name}.{done['serial']}")
        return messages.Done()

    def identify(self, message, exchange):
        user = self._t.users.known(exchange.peer.identity)
        if user is None:  # the cluster's own key, or no keys at all: permissions have let it through
            return messages.Identified(name=None, role="admin", home="/")
        return messages.Identified(name=user.name, role=user.role, home=user.home)

    def list(self, message, exchange):
        users = [user for user in self._t.users.all() if user.name > (message.after or "")]
        return messages.UsersListed(more=len(users) > LIST_PAGE, users=[
            {"name": user.name, "identity": f"{user.name}.{user.serial}", "role": user.role, "home": user.home,
             "changed_at": user.changed_at} for user in users[:LIST_PAGE]])

    # -- joining --------------------------------------------------------------------------------------------------------
    def invite(self, message, exchange):
        t = self._t
        if t.keyring.auth == "none":
            raise errors.Refusal(detail="this cluster runs with --insecure: a keeper needs no key to join")
        name, secret = t.invitations.make()
        hidden = trust.covered(t.keyring.secret_for("client", exchange.peer.identity), message.nonce + name, secret)
        return messages.Invited(name=name, secret=hidden.hex(), lapses_s=INVITATION_S)

    def join(self, message, exchange):
        t, name = self._t, exchange.peer.identity
        t.invitations.use(name)
        hidden, code = trust.wrap_keys(exchange.export(b"join pad", 96), exchange.export(b"join code", 32), t.keyring.to_bytes())
        t.count("keepers_invited")
        return messages.Joined(keys=hidden.hex(), proof=code.hex())
