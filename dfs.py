#!/usr/bin/env python3
"""The one program: `python3 dfs.py` from a checkout, and what the frozen `dfs` runs.

Never does any work itself: it answers or refuses what multiprocessing asks of a frozen program, then calls `cli.main.run`.
"""

import os
import sys


def answer_multiprocessing(argv):
    """In the frozen program: be the child that `multiprocessing` wants (no fork there), or refuse to be one.

    Without this a spawned child would run `main` again and spawn in its turn, until the machine has no process left.
    """
    flags = argv[1:]
    while flags and flags[0].startswith("-"):
        if flags[0] == "--multiprocessing-fork" and not hasattr(os, "fork"):
            import multiprocessing

            multiprocessing.freeze_support()  # runs the child and exits
        if flags[0] == "--multiprocessing-fork" or flags[0] == "-c" and "multiprocessing" in "".join(flags[1:2]):
            sys.stderr.write("dfs: this program is not a Python interpreter and starts no multiprocessing children\n")
            sys.exit(2)
        flags = flags[1:]


if getattr(sys, "frozen", False):
    answer_multiprocessing(sys.argv)

if __name__ == "__main__":
    from dfs_lib.cli.main import run

    run()
