"""`dfs bench`: how fast this cluster is for this client. Puts and gets in a scratch directory of the store, which it removes again.

Never measures without comparing: what comes back has to be what went out. Its files have random bytes, so that nothing on the way can
make them smaller.

    a large file     put, get           bytes a second
    many small ones  put, get           files a second, several at once
    one small one    put, get, stat     milliseconds, one after the other: the middle one and the slowest of a hundred
"""

import filecmp
import os
import shutil
import tempfile
import time

from dfs_lib import errors, model, settings
from dfs_lib.cli import calls, options, output, paths

_SMALL = 4096
_CHUNK = 1 << 20


def bench(call):
    """Measure, show, clean up; the scratch directory is removed also when something fails or Ctrl-C comes."""
    top = paths.remote("bench", call.words[0])[0] if call.words else "/"
    size, n_small = call["size"] or 256 * model.MIB, call["files"] or 200
    wanted = {"copies": call.given("copies"), "safe": call.given("safe"), "jobs": call.given("jobs")}
    with call.client() as client:
        scratch = model.join(top, f".dfs-bench-{os.urandom(6).hex()}")
        client.mkdir(scratch)
        local = tempfile.mkdtemp(prefix="dfs-bench-")
        try:
            for result in _measure(call, client, local, scratch, size, n_small, wanted):
                call.out.both(_line(result), result)
                call.out.flush()
        finally:
            shutil.rmtree(local, ignore_errors=True)
            _clean_up(call, client, scratch)


def _clean_up(call, client, scratch):
    try:
        client.remove(scratch, recursive=True)
    except errors.DfsError as e:
        call.out.remark(f"{scratch} could not be removed: {e.message}; `dfs rm -r {scratch}` does it later")


def _measure(call, client, local, scratch, size, n_small, wanted):
    with call.out.progress("bench", None) as bar:
        yield from _large(client, local, scratch, size, wanted, bar)
        yield from _many(client, local, scratch, n_small, wanted, bar)
        yield from _single(client, local, scratch, min(100, n_small), wanted)


def _large(client, local, scratch, size, wanted, bar):
    source, back, path = os.path.join(local, "large"), os.path.join(local, "large.back"), model.join(scratch, "large")
    _write(source, size)
    began_s = time.perf_counter()
    put = client.put(source, path, progress=bar, **wanted)
    yield _result("put", "large", 1, size, time.perf_counter() - began_s, copies_durable=put["copies_durable"])
    began_s = time.perf_counter()
    client.get(path, back, jobs=wanted["jobs"], progress=bar)
    took_s = time.perf_counter() - began_s
    _compare(source, back, path)
    yield _result("get", "large", 1, size, took_s)
    for name in (source, back):
        os.unlink(name)


def _many(client, local, scratch, n, wanted, bar):
    names = [f"{number:06}" for number in range(n)]
    there, back = os.path.join(local, "small"), os.path.join(local, "back")
    for directory in (there, back):
        os.mkdir(directory)
    for name in names:
        _write(os.path.join(there, name), _SMALL)
    failures = []

    def on_result(outcome, local=None, path=None):
        if isinstance(outcome, errors.DfsError):
            failures.append(outcome)

    began_s = time.perf_counter()
    client.put_files([(os.path.join(there, name), model.join(scratch, name)) for name in names], progress=bar, on_result=on_result, **wanted)
    took_s = time.perf_counter() - began_s
    if failures:
        raise failures[0]
    yield _result("put", "small", n, n * _SMALL, took_s)
    began_s = time.perf_counter()
    client.get_files([(model.join(scratch, name), os.path.join(back, name)) for name in names], jobs=wanted["jobs"], progress=bar,
                     on_result=on_result)
    took_s = time.perf_counter() - began_s
    if failures:
        raise failures[0]
    for name in names:
        _compare(os.path.join(there, name), os.path.join(back, name), model.join(scratch, name))
    yield _result("get", "small", n, n * _SMALL, took_s)


def _single(client, local, scratch, n, wanted):
    source, back = os.path.join(local, "one"), os.path.join(local, "one.back")
    _write(source, _SMALL)
    path = model.join(scratch, "one")
    for verb, act in (("put", lambda: client.put(source, path, **wanted)), ("get", lambda: client.get(path, back)),
                      ("stat", lambda: client.stat(path))):
        times_s = []
        for _ in range(n):
            began_s = time.perf_counter()
            act()
            times_s.append(time.perf_counter() - began_s)
        times_s.sort()
        yield {"what": verb, "kind": "one by one", "files": n, "bytes": 0 if verb == "stat" else n * _SMALL, "seconds": round(sum(times_s), 4),
               "files_per_s": round(n / sum(times_s), 2), "median_s": round(times_s[n // 2], 6), "worst_s": round(times_s[-1], 6)}


def _result(what, kind, n, size, seconds, **more):
    seconds = max(seconds, 1e-9)
    return {"what": what, "kind": kind, "files": n, "bytes": size, "seconds": round(seconds, 4),
            "bytes_per_s": round(size / seconds), "files_per_s": round(n / seconds, 2), **more}


def _line(result):
    head = f"{result['what']:<5}"
    if result["kind"] == "large":
        copies = f", {output.count_text(result['copies_durable'], 'copy', 'copies')} durable" if "copies_durable" in result else ", every byte the same"
        return f"{head} one file of {output.size_text(result['bytes'])}: {output.size_text(result['bytes_per_s'])}/s{copies}"
    if result["kind"] == "small":
        return f"{head} {output.count_text(result['files'], 'file')} of 4 KiB: {result['files_per_s']:,.0f} files/s"
    return (f"{head} one of 4 KiB after the other: {1000 * result['median_s']:.1f} ms each, the slowest of {result['files']} "
            f"{1000 * result['worst_s']:.1f} ms")


def _write(path, size):
    """A local file of random bytes."""
    with open(path, "wb") as out:
        while size > 0:
            piece = os.urandom(min(size, _CHUNK))
            out.write(piece)
            size -= len(piece)


def _compare(source, back, path):
    if not filecmp.cmp(source, back, shallow=False):
        raise errors.IntegrityError(f"{path} came back with other bytes than were put", path=path)


def _parse_files(text):
    n = settings.parse_count(text)
    if not 1 <= n <= 100_000:
        raise ValueError(f"{text!r}: from 1 to 100000 files")
    return n


def _parse_some(text):
    size = settings.parse_size(text)
    if size < 1:
        raise ValueError(f"{text!r}: a file to measure with has a byte at least")
    return size


VERBS = {
    "bench": options.Verb("bench", bench, "[DIRECTORY]", "How fast this cluster is from here: large and small files in and out, compared, and removed again.", (
        options.Option(("--size",), "SIZE", "of the large file (default 256MiB)", _parse_some),
        options.Option(("--files",), "N", "small files of 4 KiB (default 200)", _parse_files),
        calls.setting_option("copies"), calls.setting_option("safe"), calls.setting_option("jobs"),
    ), 0, 1, """
It works in a directory of its own below DIRECTORY (default /), and needs as much room in the local temporary directory
(TMPDIR) as twice the large file. Figures of a busy cluster or machine say little: run it twice.
""", settings.CLIENT),
}
