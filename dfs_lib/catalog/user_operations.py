"""Operations about users: who they are, their role and home. `operations` is the door to them.

Never holds a secret: a user's key follows from the clients key and its identity, NAME.SERIAL. The serial is the operation's place
in the log, so no two users of one name, before and after a removal or a rotation, ever share an identity.
"""

from dfs_lib import errors
from dfs_lib.catalog.records import Operation, operation

# The master keeps all of them in memory, and looks one up for each request.
MAX_USERS = 10_000


def _serial(tx, name):
    row = tx.execute("SELECT serial FROM users WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise errors.NoSuchUser(name=name)
    return row[0]


@operation
class AddUser(Operation):
    """A new user. Raises UserExists. -> {"serial"}"""

    op: str
    name: str
    role: str
    home: str
    at: float
    grows = True

    def run(self, tx):
        if tx.execute("SELECT 1 FROM users WHERE name = ?", (self.name,)).fetchone() is not None:
            raise errors.UserExists(name=self.name)
        if tx.execute("SELECT count(*) FROM users").fetchone()[0] >= MAX_USERS:
            raise errors.Refusal(detail=f"there are {MAX_USERS} users already")
        tx.execute("INSERT INTO users (name, serial, role, home, changed_at) VALUES (?,?,?,?,?)",
                   (self.name, tx.sequence, self.role, self.home, self.at))
        return {"serial": tx.sequence}


@operation
class RemoveUser(Operation):
    """A user is no more. Raises NoSuchUser. -> {"serial": the one that was}"""

    op: str
    name: str
    at: float

    def run(self, tx):
        serial = _serial(tx, self.name)
        tx.execute("DELETE FROM users WHERE name = ?", (self.name,))
        return {"serial": serial}


@operation
class RotateUser(Operation):
    """A user gets a new serial, and with it a new key. Raises NoSuchUser. -> {"serial", "was": the old one}"""

    op: str
    name: str
    at: float

    def run(self, tx):
        was = _serial(tx, self.name)
        tx.execute("UPDATE users SET serial = ?, changed_at = ? WHERE name = ?", (tx.sequence, self.at, self.name))
        return {"serial": tx.sequence, "was": was}
