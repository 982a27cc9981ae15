"""Where things land: command-line words become names in the store or local paths, as `cp` would have it.

Never touches the store or a disk by itself: it asks `kind_of` what is there.

    target is a directory          each source goes into it, under its own last name
    target is nothing, one source  the source gets that name (a tree too: `cp -r DIR NEW`)
    target is a file               one file replaces it
    NAME/                          means a directory, that has to be there
"""

import os

from dfs_lib import errors, model

PREFIX = "dfs:"
# Verbs that would make the name; to the others a bad one is a name that nothing has.
_MAKE_NAMES = ("put", "mkdir", "mv", "cp")


def is_remote(word):
    """Whether a word names something in the store where a verb takes both kinds."""
    return word.startswith(PREFIX)


def remote(verb, word):
    """(path, whether a directory is meant) of a word that names something in the store. Raises UsageError or BadName."""
    text = word.removeprefix(PREFIX)
    if not text.startswith("/"):
        near = f"; did you mean /{text}?" if text else ""
        raise errors.UsageError(detail=f"{verb}: {word!r} is no remote path: those start with /{near}", verb=verb)
    while text.endswith("//"):
        text = text[:-1]  # what a shell makes of "$DIR/" when DIR ends in a slash
    try:
        return model.clean_path(text), text.endswith("/")
    except errors.BadName as e:
        if verb in _MAKE_NAMES:
            raise
        error = errors.BadName(f"nothing in the store can be called {text[:300]!a}: {e.facts['detail']}", **e.facts)
        error.hint = "`dfs ls` on the directory above shows what is there"
        raise error from e


def last_name(path):
    """The last name of a remote path; "" for the root: its contents are meant."""
    return model.parent_and_name(path)[1]


def local_name(path):
    """The last name of a local path; "" for `.`, `..` and the root: their contents are meant."""
    name = os.path.basename(path.rstrip("/" + (os.sep if os.sep != "/" else "")))
    return "" if name in (".", "..") else name


class Landing:
    """Where the sources of one command go.

    kind: model.FILE, model.DIRECTORY or None of what is at `target` now; means_directory: it was written with a trailing slash;
    join(directory, name): a path in it. Raises the refusal that holds for all sources.
    """

    def __init__(self, verb, target, kind, n_sources, means_directory, join):
        self.target, self.kind, self._join = target, kind, join
        self.is_into = kind == model.DIRECTORY
        self._means_directory = means_directory
        if kind == model.FILE and (n_sources > 1 or means_directory):
            raise errors.NotADirectory(path=target)
        if kind is None and n_sources > 1:
            detail = f"{verb}: the target for several sources has to be a directory, and there is none at {target}"
            raise errors.NoSuchFile(detail, path=target)

    def place(self, name, is_tree=False):
        """The path for a source of that last name. Raises NoSuchFile or UsageError when this one cannot land there."""
        if self.is_into:
            return self._join(self.target, name) if name else self.target
        if self._means_directory and not is_tree:
            raise errors.NoSuchFile(f"there is no directory {self.target}", path=self.target)
        if is_tree and self.kind == model.FILE:
            raise errors.NotADirectory(path=self.target)
        return self.target


class Unique:
    """Refuses the second source of one command that would land where an earlier one did."""

    def __init__(self):
        self._taken = set()

    def take(self, path, source):
        if path in self._taken:
            raise errors.FileExists(f"{source} would overwrite {path}, which this command has just written", path=path)
        self._taken.add(path)
