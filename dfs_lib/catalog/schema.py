"""The tables and indexes of the catalog, and how an empty file becomes one.

Never reads or changes a row after the making; operations and queries do that.

    entries ──version──> versions ──extents──> blocks ──replicas──> keepers
      │ parent                │ removed_at                 │
      └─> entries             └─ trash                     └─ drops: forgotten here, still to be deleted there
"""

from dfs_lib import errors

# Grows with every change of a table; a file with a higher one was made by a newer program and is not touched.
VERSION = 3

# Entry ids: the parent of every top (the root, and trees cut off by `rm -r`), and the root itself.
NOWHERE, ROOT = 0, 1

USERS = """
-- "Who may do what?" No secret: a user's key follows from the clients key and NAME.serial. home: the path that confines it.
CREATE TABLE users (name TEXT PRIMARY KEY, serial INTEGER NOT NULL UNIQUE, role TEXT NOT NULL, home TEXT NOT NULL,
                    changed_at REAL NOT NULL) WITHOUT ROWID;
"""
UNSUMMED = """
-- "Which files of several blocks have no SHA-256 yet?" Those of one block get theirs from the scrub. Small once all have been summed.
CREATE INDEX versions_unsummed ON versions (version) WHERE sha256 IS NULL AND removed_at IS NULL AND size > block_size;
"""
# What brings a file of the version before to this one.
MIGRATIONS = {2: USERS, 3: UNSUMMED}

TABLES = f"""
-- Facts about the whole: schema, cluster_id, epoch; knows_from: of versions below it, those that are not here may still be somewhere
-- (the catalog was made anew from blocks alone).
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- "What happened after X?" One row an operation, written by the transaction that made the change. Sequence never starts
-- again with a new epoch, so it is the key by itself; the last row is never trimmed, so it is also the counter.
-- result: what the caller was told, kept for those that may ask again under the same op.
CREATE TABLE log (sequence INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, at REAL, name TEXT NOT NULL, op TEXT,
                  body TEXT NOT NULL, result TEXT);

-- "Which keepers are there?" A number is never given again (AUTOINCREMENT): old numbers live on in logs and memories.
CREATE TABLE keepers (number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, host TEXT NOT NULL,
                      ports TEXT NOT NULL, labels TEXT NOT NULL, draining INTEGER NOT NULL DEFAULT 0,
                      first_seen_at REAL NOT NULL, last_registered_at REAL NOT NULL, clean_stop INTEGER NOT NULL DEFAULT 0);

-- "What is at this path, what is in this directory?" Files and directories. Clustered by (parent, name), so that a listing
-- is one range of one tree; size, mtime_at and copies repeat the version's for the same reason.
-- The root is (0, ''); a tree cut off by `rm -r` is (0, its id): no path leads there.
CREATE TABLE entries (parent INTEGER NOT NULL, name TEXT NOT NULL, id INTEGER NOT NULL, kind TEXT NOT NULL,
                      version INTEGER NOT NULL, size INTEGER NOT NULL, mtime_at REAL NOT NULL, copies INTEGER NOT NULL,
                      PRIMARY KEY (parent, name)) WITHOUT ROWID;
-- "What is the path of this entry?"
CREATE UNIQUE INDEX entries_id ON entries (id);

-- "What is this version?" Live while removed_at is NULL: then exactly one entry names it. entry stays after the removal,
-- and an entry id is never given again.
CREATE TABLE versions (version INTEGER PRIMARY KEY, entry INTEGER NOT NULL, size INTEGER NOT NULL,
                       block_size INTEGER NOT NULL, copies INTEGER NOT NULL, mtime_at REAL NOT NULL,
                       published_sequence INTEGER NOT NULL, sha256 TEXT, removed_at REAL);
-- "What is in the trash, oldest first?"
CREATE INDEX versions_trash ON versions (removed_at) WHERE removed_at IS NOT NULL;
{UNSUMMED}
-- "Which blocks has this version, in order?"
CREATE TABLE extents (version INTEGER NOT NULL, idx INTEGER NOT NULL, block BLOB NOT NULL,
                      PRIMARY KEY (version, idx)) WITHOUT ROWID;
-- "Whose is this block?"
CREATE INDEX extents_block ON extents (block);

-- "What should this block be, how many are wanted and there?" refs counts its extents, of the trash too; want is the most
-- copies any live version asks for; n_replicas counts its replicas. All three change with what they count.
CREATE TABLE blocks (block BLOB PRIMARY KEY, size INTEGER NOT NULL, crcs BLOB NOT NULL, want INTEGER NOT NULL,
                     refs INTEGER NOT NULL, n_replicas INTEGER NOT NULL) WITHOUT ROWID;
-- "Which blocks need a copy, which may lose one?" Small as long as the cluster is well: nobody scans blocks.
CREATE INDEX blocks_short ON blocks (block) WHERE n_replicas < want;
CREATE INDEX blocks_surplus ON blocks (block) WHERE n_replicas > want;

-- "Who has this block?" Disjoint from drops.
CREATE TABLE replicas (block BLOB NOT NULL, keeper INTEGER NOT NULL, PRIMARY KEY (block, keeper)) WITHOUT ROWID;
-- "What has this keeper?", in the order of a block report.
CREATE INDEX replicas_keeper ON replicas (keeper, block);

-- "What must this keeper delete?" Replicas the catalog has forgotten, until the keeper says they are gone.
CREATE TABLE drops (keeper INTEGER NOT NULL, block BLOB NOT NULL, at REAL NOT NULL,
                    PRIMARY KEY (keeper, block)) WITHOUT ROWID;

-- "Which trees are cut off and still to be worked off?"
CREATE TABLE detached (entry INTEGER PRIMARY KEY, at REAL NOT NULL);

{USERS}
-- "How much is there?" One row, so that status counts nothing. Cut-off trees count until they are worked off; the root
-- does not. next_entry is the next entry's id.
CREATE TABLE totals (one INTEGER PRIMARY KEY CHECK (one = 1), files INTEGER NOT NULL, bytes INTEGER NOT NULL,
                     directories INTEGER NOT NULL, next_entry INTEGER NOT NULL);
"""

# Every table a log replay must reproduce; sqlite_sequence remembers the highest keeper number.
NAMES = ("meta", "log", "keepers", "entries", "versions", "extents", "blocks", "replicas", "drops", "detached", "users", "totals",
         "sqlite_sequence")


def create(connection):
    """Make the tables in an empty database, in one transaction."""
    connection.executescript(f"BEGIN IMMEDIATE;\n{TABLES}\n"
                             f"INSERT INTO meta VALUES ('schema', {VERSION}), ('epoch', 0);\n"
                             f"INSERT INTO totals VALUES (1, 0, 0, 0, {ROOT + 1});\nCOMMIT;")


def migrate(connection):
    """Bring an older file to this version, a transaction each step. A newer one is left to `check` to refuse."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    for version in range(row[0] + 1, VERSION + 1) if row else ():
        connection.executescript(f"BEGIN IMMEDIATE;\n{MIGRATIONS[version]}\n"
                                 f"UPDATE meta SET value = {version} WHERE key = 'schema';\nCOMMIT;")


def check(connection, path, whole):
    """Raise CatalogDamaged unless its schema is ours, or an older one that was brought to it. whole: after `check_whole`."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if whole or row is None or row[0] < VERSION:  # nothing is rebuilt on what may be damaged
        check_whole(connection, path)
    migrate(connection)
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone()
    if row is None or row[0] != VERSION:
        found = "none" if row is None else row[0]
        raise errors.CatalogDamaged(path=path, detail=f"its schema is {found}, this program knows {VERSION}")


def check_whole(connection, path):
    """Raise CatalogDamaged unless SQLite finds the file whole: reads all of it, about a second for a million files."""
    found = [row[0] for row in connection.execute("PRAGMA quick_check(5)")]
    if found != ["ok"]:
        raise errors.CatalogDamaged(path=path, detail="; ".join(found))
