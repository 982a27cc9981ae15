"""What people and scripts see: lines, JSON objects, sizes, times, tables, progress bars and errors.

Never decides anything, and never prints a control character of a name: names forge no lines in terminals.

    stdout   results: text, or with --json one object a line and nothing else
    stderr   remarks, progress bars, errors (`dfs: what` and `try: what next`, or with --json one object)
"""

import os
import sys

from dfs_lib import model
from dfs_lib.model import count_text, duration_text, size_text


def safe_text(text):
    """`text` with control characters shown as escapes; other characters, and undecodable bytes, as they are."""
    text = str(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode() for c in text)


def exact_size(n):
    """`64MiB`: as a person would type it, exact."""
    for unit, name in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if n and n % unit == 0:
            return f"{n // unit}{name}"
    return str(n)


def time_text(at):
    """Unix seconds as ISO 8601 UTC; None stays None."""
    if at is None:
        return None
    import time

    at = max(-62135596800.0, min(253402300799.0, at))  # years 1 to 9999: what gmtime and readers of ISO 8601 take
    milliseconds = int(at * 1000 // 1)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{whole}.{milliseconds % 1000:03d}Z" if milliseconds % 1000 else whole + "Z"


def entry_record(entry):
    """The JSON object of a model.Entry, as `ls`, `stat` and `find` print it."""
    return {"path": entry.path, "type": entry.kind, "size": entry.size, "version": entry.version,
            "mtime": time_text(entry.mtime_at), "copies_wanted": entry.copies_wanted, "copies_have": entry.copies_have}


def entry_of(found):
    """The model.Entry in what `Client.stat` gives."""
    return model.Entry(found["path"], found["type"], found["size"], found["version"], found["mtime_at"], found["copies_wanted"],
                       found["copies_have"])


def to_json(record):
    """One line of JSON; undecodable bytes of local names become \\udcXX escapes."""
    import json

    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(record, separators=(",", ":"))
    return text


class Output:
    """Where a verb writes. Text lines vanish under --json, records vanish without it, remarks vanish under --quiet."""

    def __init__(self, as_json=False, is_quiet=False, wants_progress=False):
        self.as_json, self.is_quiet, self.wants_progress = as_json, is_quiet, wants_progress
        self._bar, self._has_screen = None, False
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(encoding="utf-8", errors="surrogateescape" if stream is sys.stdout else "backslashreplace")

    def line(self, text="", end="\n", stream=None):
        if not self.as_json:
            self._write(text + end, stream)

    def record(self, record, stream=None):
        if self.as_json:
            self._write(to_json(record) + "\n", stream)

    def both(self, text, record):
        """`text` for people, `record` for scripts."""
        self._write((to_json(record) if self.as_json else text) + "\n")

    def remark(self, text):
        """One line on stderr for people: what was skipped, what to do next."""
        if not self.is_quiet and not self.as_json:
            sys.stdout.flush()
            self._write(f"dfs: {safe_text(text)}\n", sys.stderr)

    def _write(self, text, stream=None):
        self.clear_bar()
        (stream or sys.stdout).write(text)

    def clear_bar(self):
        """Wipe the progress bar before other words appear on the same terminal; it is drawn again by its next step."""
        if self._bar is not None:
            self._bar.clear()

    def flush(self):
        sys.stdout.flush()

    @property
    def is_terminal(self):
        return sys.stdout.isatty()

    @property
    def has_color(self):
        return not self.as_json and not os.environ.get("NO_COLOR") and self._moves_cursor

    @property
    def _moves_cursor(self):
        return os.environ.get("TERM") != "dumb" and sys.stdout.isatty()

    def size(self):
        """(columns, rows) of the terminal that stdout is; 80 columns elsewhere."""
        try:
            size = os.get_terminal_size(sys.stdout.fileno())
            return size.columns or 80, size.lines or 24
        except (OSError, ValueError, AttributeError):
            return 80, 24

    def screen(self, lines):
        """[(text, color or None)] in place of what `screen` showed before; written over it, so that nothing flickers."""
        if not self._moves_cursor:
            self._write("\n".join(text for text, _color in lines) + "\n")
        else:
            drawn = [(self.colored(text, color) if color else text) + "\x1b[K" for text, color in lines]
            before = "" if self._has_screen else "\x1b[2J"
            self._has_screen = True
            self._write(before + "\x1b[H" + "\n".join(drawn) + "\x1b[J")
        self.flush()

    def colored(self, text, color):
        """`text` in red, yellow or green, on a terminal without NO_COLOR."""
        code = {"red": 31, "yellow": 33, "green": 32}[color]
        return f"\x1b[{code}m{text}\x1b[0m" if self.has_color else text

    def table(self, rows, right=()):
        """Rows of text in columns; `right`: numbers of the columns that are aligned to the right."""
        if not rows or self.as_json:
            return
        widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
        for row in rows:
            cells = [cell.rjust(width) if n in right else cell.ljust(width) for n, (cell, width) in enumerate(zip(row, widths))]
            sys.stdout.write("  ".join(cells).rstrip() + "\n")

    def progress(self, label, total=None):
        """A Progress bar, or one that shows nothing when nobody would see it."""
        shows = self.wants_progress or (not self.is_quiet and not self.as_json and sys.stderr.isatty())
        self._bar = Progress(label, total, shows)
        return self._bar


class Progress:
    """A bar on stderr for what takes over a second.

    progress(n): so many bytes more, as often as one likes and from any thread; file_done(): one file more. Redrawn five times a second
    at most. The rate is that of the last seconds, so that it tells of now.
    """

    _WINDOW_S = 5.0

    def __init__(self, label, total=None, shows=True):
        import time

        self._clock = time.monotonic
        self.label, self.total, self.done = safe_text(label), total, 0
        self.n_files = self.n_files_done = 0
        self._shows, self._started = shows, self._clock()
        self._next = self._started + 1.0
        self._marks = [(self._started, 0)]
        self._width = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.clear()

    @property
    def shows(self):
        """Whether anybody sees it: else nothing need be measured for it."""
        return self._shows

    def expect(self, n_bytes, n_files):
        """How much there is in all, when that is known later than the beginning."""
        self.n_files, self.total = n_files, n_bytes

    def __call__(self, n):
        self.done += n  # two threads may lose a step to each other: it is a picture, not an account
        if self._shows:
            now = self._clock()
            if now >= self._next:
                self._next = now + 0.2
                self._draw(now)

    def file_done(self):
        self.n_files_done += 1
        self(0)

    def note(self, text):
        """For progress that is not counted in bytes: draw `text` after the label."""
        now = self._clock()
        if self._shows and now >= self._next:
            self._next = now + 0.2
            self._write(f"{self.label}  {text}")

    def _draw(self, now):
        recent = [mark for mark in self._marks if now - mark[0] <= self._WINDOW_S]
        self._marks = [*(recent or self._marks[-1:]), (now, self.done)]
        since, before = self._marks[0]
        rate = (self.done - before) / (now - since) if now > since else 0.0
        files = (self.n_files_done, self.n_files) if self.n_files > 1 else None
        self._write(fitted(self.label, progress_text(self.done, self.total, rate, files), _columns() if sys.stderr.isatty() else 1000))

    def _write(self, text):
        if sys.stderr.isatty():
            columns = _columns()
            text = text if len(text) < columns else text[:columns - 1]
            sys.stderr.write("\r" + text.ljust(self._width))
            self._width = len(text)
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def clear(self):
        """Wipe the bar, so that the next line starts at the margin."""
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()
            self._width = 0


def _columns():
    try:
        return os.get_terminal_size(2).columns or 80
    except OSError:
        return 80


def fitted(label, text, columns):
    """`label  text` in less than so many columns: a long label loses its beginning, and goes before a figure does."""
    room = columns - 1 - len(text) - 2
    if len(label) <= room:
        return f"{label}  {text}"
    return f"…{label[len(label) - room + 1:]}  {text}" if room >= 8 else text[:columns - 1]


def progress_text(done, total, rate, files=None):
    """`[#####-----]  50 %  32 MB of 64 MB  3 of 7 files  21 MB/s  1.5 s left`, without what cannot be known. files: (done, in all)."""
    speed = f"{size_text(rate)}/s"
    if files:
        speed = f"{files[0]:,} of {files[1]:,} files  {speed}"
    if not total:
        return f"{size_text(done)}  {speed}"
    share = min(1.0, done / total)
    bar = "#" * int(share * 10)
    left = f"  {duration_text((total - done) / rate)} left" if rate and done < total else ""
    return f"[{bar:-<10}] {share * 100:3.0f} %  {size_text(done)} of {size_text(total)}  {speed}{left}"


def show_error(error, as_json=False, verbose=False, verb=None):
    """One of our errors on stderr: what went wrong and what to do next. verb: the command that it befell."""
    sys.stdout.flush()
    hint = hint_of(error, verb)
    if as_json:
        record = {"error": error.code, "message": error.message}
        if isinstance(error.facts.get("path"), str):
            record["path"] = error.facts["path"]
        if hint:
            record["hint"] = hint
        sys.stderr.write(to_json(record) + "\n")
    elif error.status in (3, 4):  # network and protocol: one line, which a log or a script shows whole
        sys.stderr.write(f"dfs: {safe_text(error.message)}" + (f"; {safe_text(hint)}\n" if hint else "\n"))
    else:
        sys.stderr.write(f"dfs: {safe_text(error.message)}\n")
        if hint:
            sys.stderr.write(f"try: {safe_text(hint)}\n")
    if verbose and error.__traceback__ is not None:
        _show_traceback(error)
    sys.stderr.flush()


# (code, verb): what to do next, where the words for every verb do not fit this one.
_HINTS = {
    ("exists", "mkdir"): "choose another name; with -p a directory that is there is no failure",
    ("is_directory", "cat"): "name the files in it; `dfs get -r` takes a whole directory",
    ("is_directory", "sum"): "name the files in it",
    ("is_directory", "put"): "choose another name",
}


def hint_of(error, verb=None):
    """What to do next, with the error's facts filled in."""
    hint = error.hint
    if hint == type(error).hint:
        hint = _HINTS.get((error.code, verb), hint)
        home = error.facts.get("home")
        if verb in ("ls", "du", "find", "fsck") and isinstance(home, str):  # a user whom a home confines
            hint = f"`dfs {verb} {home}` shows what there is for you"
    asked = error.facts.get("verb")
    if error.code == "usage" and hint == type(error).hint and asked:
        return f"dfs {asked} --help"
    if error.code == "too_few_keepers" and not error.facts.get("live"):
        return "start a keeper; `dfs status` shows those there are"
    if "{" in hint:
        try:
            hint = hint.format_map(error.facts)
        except (KeyError, ValueError, IndexError):
            return hint.partition("{")[0].rstrip(" -")
    return hint


def show_bug(error, as_json=False, verbose=False):
    """An exception nobody expected: said to be a bug; where it came from, for whoever asks with -v."""
    import traceback

    from dfs_lib import errors

    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" ({os.path.basename(where[0].filename)} line {where[0].lineno})" if where else ""
    show_error(errors.DfsError(detail=f"{type(error).__name__}: {error}{place}"), as_json=as_json)
    if verbose:
        _show_traceback(error)


def _show_traceback(error):
    import traceback

    sys.stderr.write("".join(traceback.format_exception(error)))
