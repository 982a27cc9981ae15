"""A process to be killed: applies operations from four threads and prints each answer once it has it.

    catalog_crasher.py DIRECTORY run      until killed
    catalog_crasher.py DIRECTORY limit    until a write fails on a file size limit; prints how, and that reads go on
"""

import json
import os
import sys
import threading

from catalog_helpers import publish, with_keepers
from dfs_lib import errors
from dfs_lib.catalog import operations as o


def say(*answer):
    os.write(1, (json.dumps(answer) + "\n").encode())


def work(database, thread):
    for step in range(1_000_000):
        number = step * 4 + thread
        kept, op = f"/kept/{thread}/{number}", f"publish-{number}"
        say(op, kept, database.apply(publish(kept, number, parents=True))["version"])
        churn = f"/churn/{step % 3}"
        database.apply(publish(churn, 10 ** 8 + number, parents=True))
        try:
            database.apply(o.CopyFile(f"cp{number}", churn, f"/copy{step % 5}", (2 << 32) + number, False, 1.0))
            database.apply(o.RenamePath(f"mv{number}", "/churn", f"/moved{number}", False, 1.0))
            database.apply(o.RemovePath(f"rm{number}", f"/moved{number}", True, 1.0))
            database.apply(o.PurgeDetached(3, 1.0))
        except errors.Refusal:
            pass
        trashed = [row.version for row in database.queries().trash(None, 3)]
        database.apply(o.CollectVersions(trashed, 2.0))


def run(database):
    for thread in range(4):
        threading.Thread(target=work, args=(database, thread)).start()


def limit(database):
    import resource
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    try:
        for number in range(100_000):
            say(f"publish-{number}", f"/{number}", database.apply(publish(f"/{number}", number))["version"])
    except errors.DfsError as e:
        assert database.queries().totals().files == number
        say(type(e).__name__, str(e))


if __name__ == "__main__":
    database = with_keepers(sys.argv[1])
    {"run": run, "limit": limit}[sys.argv[2]](database)
