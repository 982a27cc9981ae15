"""Where settings come from: flags, environment, files. Reads them and hands the layers to `settings.resolve`.

Never knows a default, and opens no key.

    flag > DFS_NAME > --config, DFS_CONFIG, ./dfs.toml or the user's dfs/dfs.toml
         > ./dfs-local/client.toml or ./client.toml > default

A file holds `name = value` lines, and may have a table a role (`[master]`, `[keeper]`, `[client]`), which counts for that role
alone. Paths in a file are relative to the file. `client.toml` counts for clients only, and as a whole or not at all: the key of
one cluster is never shown to another.
"""

import os

from dfs_lib import errors, settings

ROLES = (settings.CLIENT, settings.MASTER, settings.KEEPER, settings.LOCAL, settings.GATEWAY)
FLAG = "flag"  # the origin of what stands on the command line
LOCAL_FILES = ("dfs-local/client.toml", "client.toml")
_PATHS = ("key_file", "data", "tls_cert", "tls_key", "tls_ca")


def load(role, flags, environ=None, config=None, directory=".", faults=None):
    """The Settings of one command.

    role: whose table of a file counts; flags: {name: text}; environ: mapping (os.environ when None); config: what
    --config named; faults: see settings.resolve. Raises BadSetting or LocalFileError, each naming the source at fault.
    """
    environ = os.environ if environ is None else environ
    layers = [(FLAG, flags), *environment_layers(environ), *_file_layers(role, environ, config, directory)]
    if role == settings.CLIENT:
        layers += local_layers(layers, directory)
    return settings.resolve(layers, faults)


def environment_layers(environ):
    """One layer a variable, so that an error and `dfs settings` name it. Other DFS_ variables are none of our business."""
    layers = []
    for name in settings.BY_NAME:
        variable = "DFS_" + name.upper()
        if environ.get(variable):
            layers.append((variable, {name: environ[variable]}))
    return layers


def user_file(environ):
    """The path of the user's own settings file."""
    if os.name == "nt":
        return os.path.join(environ.get("APPDATA", ""), "dfs", "dfs.toml")
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME") or os.path.expanduser("~"), ".config")
    return os.path.join(base, "dfs", "dfs.toml")


def _file_layers(role, environ, config, directory):
    named = config or environ.get("DFS_CONFIG")
    if named:
        return [_layer(role, named)]
    for path in (os.path.join(directory, "dfs.toml"), user_file(environ)):
        if os.path.exists(path):
            return [_layer(role, path)]
    return []


def local_layers(stronger, directory="."):
    """The layer of a local cluster's client.toml, unless a stronger one names another master."""
    for name in LOCAL_FILES:
        path = os.path.join(directory, name)
        if os.path.exists(path):
            origin, values = _layer(settings.CLIENT, path)
            named = next((layer["master"] for _origin, layer in stronger if layer.get("master")), None)
            if named is None or _is_among(named, values.get("master")):
                return [(origin, values)]
            return []
    return []


def _is_among(named, masters):
    try:
        return bool(masters) and set(settings.parse_masters(named)) <= set(settings.parse_masters(masters))
    except ValueError:
        return False


def _layer(role, path):
    values = read_file(path)
    own = {}
    tables = {name: value for name, value in values.items() if isinstance(value, dict) and name in ROLES}
    for name, value in [*((n, v) for n, v in values.items() if n not in tables), *tables.get(role, {}).items()]:
        name = name.replace("-", "_")
        if name in _PATHS and isinstance(value, str):
            value = os.path.join(os.path.dirname(path), os.path.expanduser(value))
        own[name] = value
    return path, own


def read_file(path):
    """{name: value} of a TOML file. Raises LocalFileError when it cannot be read, BadSetting when it is no TOML."""
    try:
        with open(path, encoding="utf-8") as source:
            text = source.read()
    except OSError as e:
        raise errors.LocalFileError(path=path, detail=e.strerror or str(e)) from e
    except ValueError as e:
        raise errors.BadSetting(name="the file", origin=path, detail="it is not UTF-8") from e
    simple = parse_simple(text)
    if simple is not None:
        return simple
    import tomllib  # imports typing, datetime and more: only for what the few lines below do not read

    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as e:
        raise errors.BadSetting(name="the file", origin=path, detail=f"it is not TOML: {e}") from e


def parse_simple(text):
    """{name: value} when each line is empty, a comment, or a bare name and a plain string, integer or boolean; else None.

    This is what `dfs local` writes; a client in that folder should not pay for a whole TOML parser.
    """
    values = {}
    for line in text.splitlines():
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, raw = (part.strip() for part in line.partition("="))
        if not equals or not name.replace("_", "").replace("-", "").isalnum() or not name.isascii() or name in values:
            return None
        if len(raw) >= 2 and raw[0] == raw[-1] == '"' and not any(c in raw[1:-1] for c in '"\\'):
            values[name] = raw[1:-1]
        elif raw in ("true", "false"):
            values[name] = raw == "true"
        elif raw.isascii() and raw.isdigit() and (raw == "0" or raw[0] != "0"):
            values[name] = int(raw)
        else:
            return None
    return values
