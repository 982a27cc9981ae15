"""The program with a disk that fails when told to: `python3 faulty_program.py keeper --data DIR …` is `dfs keeper --data DIR …`.

Never touches a path outside DIR: system calls on files below it ask the text file DIR.faults what to do, other calls and programs
without --data go through. The text is read at each call, so a test changes the weather while the daemon runs:

    fsync EIO    write ENOSPC    read EIO     that call fails with that error
    fsync hang                                the call does not return until the word has gone
    commit EIO                                SQLite's COMMIT of the catalog ends with an I/O error; nobody knows what was written
"""

import errno
import os
import sqlite3
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


def weather(directory):
    """{call: what is to happen} now."""
    try:
        with open(directory + ".faults", encoding="ascii") as source:
            return dict(line.split() for line in source)
    except FileNotFoundError:
        return {}


def strike(directory, call):
    """Fail or hang as the weather says for this call."""
    while (what := weather(directory).get(call)) == "hang":
        time.sleep(0.02)
    if what is not None:
        number = getattr(errno, what)
        raise OSError(number, os.strerror(number))


def install(directory):
    """Put the weather between the program and the system."""
    def wrap(name, call):
        real = getattr(os, name)

        def wrapped(fd, *rest, **named):
            file = rest[0] if name == "sendfile" else fd
            if isinstance(file, int) and os.readlink(f"/proc/self/fd/{file}").startswith(directory + "/"):
                strike(directory, call)
            return real(fd, *rest, **named)

        setattr(os, name, wrapped)

    for name, call in (("fsync", "fsync"), ("writev", "write"), ("preadv", "read"), ("pread", "read"), ("sendfile", "read")):
        wrap(name, call)

    class Connection(sqlite3.Connection):
        def execute(self, statement, *rest):
            if statement == "COMMIT" and weather(directory).get("commit"):
                error = sqlite3.OperationalError("disk I/O error")
                error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
                raise error
            return super().execute(statement, *rest)

    from dfs_lib.keeper import health

    health.SICK_S = 1.0  # a test waits for the end of a fault

    connect = sqlite3.connect
    sqlite3.connect = lambda *words, **named: connect(*words, **{"factory": Connection, **named})


if __name__ == "__main__":
    if "--data" in sys.argv[1:]:
        install(os.path.abspath(sys.argv[sys.argv.index("--data") + 1]))
    from dfs_lib.cli.main import run

    run()
