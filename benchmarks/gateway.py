"""Upload and download of one large file by curl through the gateway, beside the client's own rate, in one run.

    python3 benchmarks/gateway.py [--size 1GiB] [--rounds 3] [--directory DIR]

Prints a line for each way: the best of the rounds in MB/s, the ratio to the client's own, and the most memory that the gateway has had
resident. The client's own rate is what `dfs put` and `dfs get` of the same file take, measured as processes in turn with curl. Asked for
in both directions: at least 0.7 of the client's rate, in at most 100 MiB.
"""

import argparse
import filecmp
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dfs_lib import keyfile, local, settings

MIB = 1 << 20


def peak_memory(pid):
    """The most bytes a process has had resident."""
    with open(f"/proc/{pid}/status") as status:
        return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmHWM:"))


def processor_s(pid):
    """Seconds of processor time that a process has used."""
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(*command):
    began_s = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=local.program_environment())
    return time.monotonic() - began_s


def start_gateway(cluster, directory):
    gateway = local.Daemon("gateway", ["gateway", "--master", cluster.masters_text, "--key-file", cluster.key_file, "--listen", "127.0.0.1:0"],
                           os.path.join(directory, "gateway.log"))
    gateway.start()
    gateway.wait_ready(time.monotonic() + 30)
    return gateway


def measure(cluster, gateway, source, rounds, directory):
    """{way: [seconds]} of the four ways, in turn."""
    url = gateway.ready["url"] + "files/big"
    line = keyfile.line(keyfile.load(cluster.key_file)).replace(" ", "+")
    curl = ["curl", "--silent", "--show-error", "--fail", "--header", f"Authorization: Bearer {line}"]
    dfs = [*local.program()]
    words = [*cluster.client_words(), "--config", os.devnull]
    back, found = os.path.join(directory, "back"), {}
    for _ in range(rounds):
        for way, command in (("client put", [*dfs, "put", *words, source, "/big"]), ("curl PUT", [*curl, "--upload-file", source, url]),
                             ("client get", [*dfs, "get", *words, "/big", back]), ("curl GET", [*curl, "--output", back, url])):
            if os.path.exists(back):
                os.unlink(back)
            found.setdefault(way, []).append(timed(*command))
            if way.endswith(("get", "GET")):
                assert filecmp.cmp(source, back, shallow=False), f"{way}: other bytes came back"
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=settings.parse_size, default=1 << 30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", default="/dev/shm" if os.path.isdir("/dev/shm") else None)
    parser.add_argument("--copies", type=int, default=1)
    options = parser.parse_args()
    directory = tempfile.mkdtemp(prefix="dfs-gateway-bench-", dir=options.directory)
    os.environ["TMPDIR"] = directory
    try:
        source = os.path.join(directory, "source")
        with open(source, "wb") as out:
            for at in range(0, options.size, MIB):
                out.write(os.urandom(min(MIB, options.size - at)))
        cluster = local.Cluster(os.path.join(directory, "cluster"), keepers=2, keeper_options=["--reserve", "1MiB"],
                                master_options=["--copies", str(options.copies), "--safe", str(options.copies), "--trash-grace", "0"])
        with cluster:
            gateway = start_gateway(cluster, directory)
            try:
                found = measure(cluster, gateway, source, options.rounds, directory)
                memory, processor = peak_memory(gateway.pid), processor_s(gateway.pid)
            finally:
                gateway.ask_to_stop()
                gateway.wait_stopped(time.monotonic() + 5)
        best = {way: min(seconds) for way, seconds in found.items()}
        for way, seconds in best.items():
            own = best["client put" if way.endswith(("put", "PUT")) else "client get"]
            print(json.dumps({"way": way, "MB_per_s": round(options.size / seconds / 1e6), "of_client": round(own / seconds, 2),
                              "seconds": [round(each, 2) for each in found[way]]}))
        print(json.dumps({"gateway_peak_MiB": round(memory / MIB, 1), "gateway_processor_s": round(processor, 2), "load": os.getloadavg()[0]}))
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
