"""Stands for a daemon in tests of `local.Cluster`: says ready, has a child, obeys signals and its lifeline.

Behaviours by file in --data: `stubborn` ignores SIGTERM, `broken` ends with a message, `silent` never says ready."""

import json
import os
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))

from dfs_lib.cli import daemons  # noqa: E402

words = sys.argv[1:]
data = words[words.index("--data") + 1]
os.makedirs(data, exist_ok=True)


def has(behaviour):
    return os.path.exists(os.path.join(data, behaviour))


if has("broken"):
    sys.exit("dfs: the disk is on fire\ntry: water")
stop = []
for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda *_: None if has("stubborn") else stop.append(1))
daemons.hold_lifeline(0)
if "--await-go" in words:
    os.read(0, 1)
# A child that ends with its parent, as a keeper's port process does.
read_end, write_end = os.pipe()
child = os.fork()
if not child:
    os.close(write_end)
    os.read(read_end, 1)
    os._exit(0)
with open(os.path.join(data, "starts"), "a") as log:
    log.write(f"{time.monotonic()} {' '.join(words)}\n")
if not has("silent"):
    print(json.dumps({"event": "ready", "role": words[0], "pid": os.getpid(), "ports": [7101, 7102],
                      "keeper_id": os.path.basename(data) * 16}),
          flush=True)
while not stop:
    time.sleep(0.005)
with open(os.path.join(data, "stops"), "a") as log:
    log.write(f"{time.monotonic()}\n")
os.kill(child, signal.SIGKILL)
os.waitpid(child, 0)
