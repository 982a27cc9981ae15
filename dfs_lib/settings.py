"""Every setting: its default, unit and reason, and where a value came from. Read once in `cli`, then passed down as one frozen record.

Order: flag > environment (`DFS_` and the flag's name) > file (`--config`, `DFS_CONFIG`, `./dfs.toml`, the user's `dfs/dfs.toml`)
> `client.toml` of a local cluster > default. Never reads a file by itself: `cli/settings_sources.py` hands the layers in.
"""

from dfs_lib import errors, model
from dfs_lib.records import record

CLIENT, MASTER, KEEPER, LOCAL, GATEWAY = "client", "master", "keeper", "local", "gateway"

OFF = "off"

# name as in the flag with `_` for `-`; default; parse(text or TOML value) → value; who reads it; what it is for, with its unit
Setting = record("Setting", "name default parse who reason")

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "pb": 10**15,
          "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "pib": 1 << 50}


def whole(value):
    """An int from text or a number. Raises ValueError in words for people."""
    try:
        number = int(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{value!r} is not a whole number") from None
    if isinstance(value, float) and number != value:
        raise ValueError(f"{value!r} is not a whole number")
    return number


def number(value):
    """A float from text or a number. Raises ValueError in words for people."""
    try:
        return float(value)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{value!r} is not a number") from None


def parse_size(value):
    """Bytes from `64MiB`, `1GB`, `4096`. Raises ValueError."""
    text = str(value).strip().lower().replace(" ", "")
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyz")
    unit = text[len(digits):]
    if unit not in _UNITS or not digits:
        raise ValueError(f"{value!r} is not a size such as 64MiB, 1GB or 4096")
    if len(digits) > 20:
        raise ValueError(f"{value!r} is too large")
    try:
        size = int(float(digits) * _UNITS[unit]) if "." in digits else int(digits) * _UNITS[unit]
    except ValueError:
        raise ValueError(f"{value!r} is not a size such as 64MiB, 1GB or 4096") from None
    if size < 0:
        raise ValueError(f"{value!r} is negative")
    return size


def parse_block_size(value):
    """Bytes of a block: a size that the master takes."""
    size = parse_size(value)
    if fault := model.block_size_fault(size):
        raise ValueError(f"{value!r}: {fault}")
    return size


def parse_port(value):
    port = whole(value)
    if not 0 <= port <= 65535:
        raise ValueError(f"{value!r}: ports go from 0 to 65535")
    return port


def parse_ports(value):
    """A tuple of ports from `7000-7002`, `7000,7005`, `0,0,0` (any free port)."""
    ports = []
    for part in str(value).split(",") if not isinstance(value, (list, tuple)) else value:
        first, dash, last = str(part).strip().partition("-")
        try:
            low, high = int(first), int(last if dash else first)
        except ValueError:
            raise ValueError(f"{value!r} is not a list of ports such as 7000-7002 or 7000,7005") from None
        if low > high:
            raise ValueError(f"{value!r}: the range {first}-{last} ends before it begins; {last}-{first} is one")
        if not 0 <= low <= high <= 65535:
            raise ValueError(f"{value!r}: ports go from 0 to 65535")
        ports.extend(range(low, high + 1))
    if not 1 <= len(ports) <= 16:
        raise ValueError(f"{value!r}: from 1 to 16 ports")
    return tuple(ports)


def parse_masters(value):
    """A tuple of (host, port) from `HOST[:PORT][,HOST…]`; a host without a port stands for ports 7000 to 7002."""
    found = []
    for part in str(value).split(",") if not isinstance(value, (list, tuple)) else value:
        part = str(part).strip()
        if not part:
            continue
        if part.startswith("["):
            host, _, rest = part[1:].partition("]")
            port = rest.lstrip(":")
        elif part.count(":") == 1:
            host, _, port = part.partition(":")
        else:
            host, port = part, ""
        if port and not (port.isdigit() and 0 < int(port) < 65536):
            raise ValueError(f"{part!r} is not HOST or HOST:PORT")
        found.extend([(host, int(port))] if port else [(host, each) for each in (7000, 7001, 7002)])
    if not found:
        raise ValueError("name a master as HOST or HOST:PORT")
    return tuple(found)


def parse_seconds(value):
    """Seconds from `60`, `0.5`, `5m`, `2h`."""
    text = str(value).strip().lower()
    factor = {"s": 1, "m": 60, "h": 3600, "d": 86400}.get(text[-1:], None)
    try:
        seconds = float(text[:-1]) * factor if factor else float(text)
    except ValueError:
        raise ValueError(f"{value!r} is not a time in seconds such as 60, 0.5 or 5m") from None
    if not 0 <= seconds < 1e9:
        raise ValueError(f"{value!r} is not a time in seconds such as 60, 0.5 or 5m")
    return seconds


def parse_days(value):
    days = number(value)
    if not 0 <= days <= 10_000:
        raise ValueError(f"{value!r}: days go from 0 to 10000")
    return days


def parse_copies(value):
    copies = whole(value)
    if not 1 <= copies <= model.MAX_COPIES:
        raise ValueError(f"{value!r}: copies go from 1 to {model.MAX_COPIES}")
    return copies


def parse_jobs(value):
    jobs = whole(value)
    if jobs < 1:
        raise ValueError(f"{value!r}: at least 1, or nothing would ever travel")
    return jobs


def parse_count(value):
    count = whole(value)
    if count < 0:
        raise ValueError(f"{value!r} is negative")
    return count


def parse_epoch(value):
    epoch = whole(value)
    if not 0 <= epoch < MAX_EPOCH:
        raise ValueError(f"{value!r}: an epoch is a number from 0 to {MAX_EPOCH - 1}")
    return epoch


def parse_limit(value):
    limit = whole(value)
    if not 1 <= limit <= 1_000_000:
        raise ValueError(f"{value!r}: a limit goes from 1 to 1000000")
    return limit


def parse_bool(value):
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text in ("1", "true", "yes", "on"):
        return True
    if text in ("", "0", "false", "no", "off"):
        return False
    raise ValueError(f"{value!r} is neither yes nor no")


def parse_labels(value):
    """{key: value} from `key=value[,key=value]`, a list of such, or a table."""
    if isinstance(value, dict):
        return {str(k): str(v) for k, v in value.items()}
    labels = {}
    for part in value if isinstance(value, (list, tuple)) else str(value).split(","):
        if part:
            key, equals, text = str(part).partition("=")
            if not equals or not key.strip():
                raise ValueError(f"{part!r} is not key=value")
            labels[key.strip()[:64]] = text.strip()[:64]
    return labels


def parse_names(value):
    return tuple(part.strip() for part in (value if isinstance(value, (list, tuple)) else str(value).split(",")) if part.strip())


def parse_rebalance(value):
    text = "off" if value is False else str(value).strip().lower()  # TOML and people write off in several ways
    if text not in ("off", "gentle", "now"):
        raise ValueError(f"{value!r} is none of off, gentle and now")
    return text


def parse_listen(value):
    """(address, port) from `ADDR:PORT`, `[ADDR]:PORT` or `PORT` (on 127.0.0.1); port 0: any free one."""
    host, colon, port = str(value).strip().rpartition(":")
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not port.isascii() or not port.isdigit() or int(port) > 65535 or colon and not host:
        raise ValueError(f"{value!r} is not ADDR:PORT or PORT")
    return host or "127.0.0.1", int(port)


def parse_web(value):
    """OFF, or (address, port) as in parse_listen."""
    return OFF if value is False or str(value).strip().lower() == OFF else parse_listen(value)


def parse_metrics(value):
    text = str(value).strip().lower()
    if text not in ("open", "key"):
        raise ValueError(f"{value!r} is neither open nor key")
    return text


def parse_webhook(value):
    """A URL that events are posted to, or None for `off`."""
    text = str(value).strip()
    if text.lower() in ("off", ""):
        return None
    if not text.startswith(("http://", "https://")) or not text.isascii() or not text.isprintable() or " " in text or "@" in text:
        raise ValueError(f"{value!r} is not a URL such as https://host/path (without a user name or password in it)")
    return text


def parse_percent(value):
    share = number(str(value).strip().rstrip("%"))
    if not 0 <= share <= 100:
        raise ValueError(f"{value!r}: a percentage goes from 0 to 100")
    return share


def parse_backup(value):
    """How many keepers: a count, or off."""
    text = str(value).strip().lower()
    count = 0 if value is False or text in ("off", "no", "false") else whole(text)
    if not 0 <= count <= model.MAX_COPIES:
        raise ValueError(f"{value!r} is neither off nor a number from 0 to {model.MAX_COPIES}")
    return count


MAX_EPOCH = 1 << 20  # as the wire has it
EVERYWHERE = "everywhere"  # what `insecure` is when it was said twice


def parse_insecure(value):
    """False, True, or EVERYWHERE: also where other machines can reach it. A flag that is given twice says so as well."""
    if isinstance(value, list):
        return EVERYWHERE if len(value) > 1 else bool(value)
    return EVERYWHERE if str(value).strip().lower() == EVERYWHERE else parse_bool(value)


TLS_MODES = ("off", "auto", "allow", "require")


def parse_tls(value):
    text = "off" if value is False else "require" if value is True else str(value).strip().lower()
    if text not in TLS_MODES:
        raise ValueError(f"{value!r} is none of {', '.join(TLS_MODES)}")
    return text


def parse_rate(value):
    """Bytes a second, 0 for no limit."""
    return parse_size(value)


SETTINGS = (
    # -- who and where
    Setting("master", ((("127.0.0.1", 7000), ("127.0.0.1", 7001), ("127.0.0.1", 7002))), parse_masters, (CLIENT, KEEPER, GATEWAY),
            "HOST[:PORT][,HOST…] of the master; its ports are tried in random order"),
    Setting("key_file", None, str, (CLIENT, MASTER, KEEPER, GATEWAY), "file with the cluster's key, readable by its owner alone"),
    Setting("insecure", False, parse_insecure, (CLIENT, MASTER, KEEPER, LOCAL, GATEWAY),
            "no authentication at all; every part must say so, and daemons then listen on this machine alone unless it is given twice"),
    Setting("tls", "auto", parse_tls, (CLIENT, MASTER, KEEPER, GATEWAY),
            "off, auto, allow or require: encryption of every TCP connection; auto: as the master wants it, and a master that can be "
            "reached from other machines wants it wherever both sides can"),
    Setting("tls_cert", None, str, (MASTER, KEEPER, GATEWAY),
            "PEM file of this daemon's certificate: for TLS where Python is older than 3.13, and for https on a gateway (a master's page takes the master's)"),
    Setting("tls_key", None, str, (MASTER, KEEPER, GATEWAY), "PEM file of its private key, readable by its owner alone; default: the file of --tls-cert"),
    Setting("tls_ca", None, str, (CLIENT, MASTER, KEEPER, GATEWAY), "PEM file of the certificates that daemons' ones must be signed by"),
    Setting("data", None, str, (MASTER, KEEPER, LOCAL), "directory that holds everything this daemon keeps"),
    Setting("host", None, str, (MASTER, KEEPER), "address to listen on and to be reached at; default 127.0.0.1 for a master, for a keeper the one that reaches the master"),
    Setting("ports", None, parse_ports, (MASTER, KEEPER), "TCP ports, list or range; default 7000-7002 for a master, 8000-8002 for a keeper"),
    Setting("heartbeat_port", None, parse_port, (MASTER,), "UDP port for heartbeats; default: the first of --ports"),
    # -- promises
    Setting("copies", 3, parse_copies, (CLIENT, MASTER), "replicas wanted of each file"),
    Setting("safe", 2, parse_copies, (CLIENT, MASTER), "replicas fsynced on different keepers before a put says done"),
    Setting("block_size", model.BLOCK_SIZE, parse_block_size, (CLIENT,), "bytes a block of new files, a multiple of 1 MiB up to 1 GiB"),
    # -- liveness and repair (seconds)
    Setting("suspect_after", 3.0, parse_seconds, (MASTER,), "seconds without heartbeat until a keeper is chosen last"),
    Setting("dead_after", 10.0, parse_seconds, (MASTER,), "seconds without heartbeat until its replicas no longer count"),
    Setting("repair_grace", 60.0, parse_seconds, (MASTER,), "seconds a dead keeper may come back before blocks with two good copies or more are copied anew"),
    Setting("stop_grace", 1800.0, parse_seconds, (MASTER,), "the same after a clean stop"),
    Setting("repair_rate", 0, parse_rate, (MASTER,), "bytes a second for all repairs together, 0: no limit"),
    Setting("repair_jobs", 4, parse_count, (MASTER,), "copies under way at once from one keeper"),
    Setting("spread", (), parse_names, (MASTER,), "labels that name failure domains, e.g. room: no two replicas in one while others have room"),
    Setting("rebalance", "gentle", parse_rebalance, (MASTER,), "off, gentle or now: whether blocks move by themselves when a keeper is far emptier than the mean (gentle), or whenever keepers are uneven (now)"),
    Setting("upload_keep", 300.0, parse_seconds, (MASTER,), "seconds that blocks of a broken upload are kept for a resume"),
    Setting("trash_grace", 120.0, parse_seconds, (MASTER,), "seconds that blocks of removed and replaced versions stay for readers under way"),
    # Most of what is replaced or removed again lives for minutes, and whoever has just put a file has no use for its sum.
    Setting("sum_after", 600.0, parse_seconds, (MASTER,),
            "seconds after which the SHA-256 of a file of several blocks is taken by a keeper whose scrub is on, while nothing is being repaired"),
    Setting("catalog_backup", 2, parse_backup, (MASTER,),
            "keepers that keep a copy of the catalog and its log as it grows, for `dfs master --rebuild`; off or 0: none"),
    Setting("rebuild", False, parse_bool, (MASTER,),
            "make a new catalog from what the keepers hold: for a master whose data directory was lost; needs the old cluster's key"),
    Setting("epoch_above", 0, parse_epoch, (MASTER,),
            "for a catalog put back from a backup: the highest epoch that a keeper has obeyed, which `dfs status` names then; without it they obey no older master"),
    Setting("rebuild_keepers", 1, parse_limit, (MASTER,), "keepers that a rebuild waits for at least; better: all there are"),
    Setting("rebuild_wait", 30.0, parse_seconds, (MASTER,), "seconds in which no further keeper has come before a rebuild goes by those that are there"),
    Setting("web", None, parse_web, (MASTER, LOCAL),
            "[ADDR:]PORT of the page, or off; default 127.0.0.1:7080, or a port near it where that is taken. It is plain HTTP: another address shows keys to who listens on the way"),
    # -- gateway
    Setting("listen", None, parse_listen, (GATEWAY,), "[ADDR:]PORT to serve HTTP on; 0: any free port; default 127.0.0.1:7080"),
    Setting("metrics", "open", parse_metrics, (GATEWAY,), "open: whoever reaches it may read /metrics; key: who has a key"),
    # -- what others watch
    Setting("monitor", OFF, parse_web, (MASTER, KEEPER),
            "[ADDR:]PORT of /metrics, /healthz and /readyz over HTTP, or off; without ADDR on loopback; no key is asked, and no path told"),
    Setting("alarm_command", None, str, (MASTER,), "command, split into words as a shell does but run without one, for each alarm and all-clear; facts as DFS_ALARM_… and as JSON on stdin"),
    Setting("alarm_webhook", None, parse_webhook, (MASTER,), "URL that each alarm and all-clear is posted to, as JSON"),
    Setting("space_low", 10.0, parse_percent, (MASTER,), "percent of all space that is free, below which space low is an alarm"),
    # -- limits: what exceeds one is refused or closed, and counted in `status`
    Setting("max_connections", 4000, parse_limit, (MASTER, KEEPER, GATEWAY), "connections of one port; each costs a thread and a descriptor"),
    Setting("max_connections_host", 1000, parse_limit, (MASTER, KEEPER, GATEWAY),
            "of these, from one address: one machine that runs wild must not shut the others out"),
    Setting("handshake_timeout", 5.0, parse_seconds, (MASTER, KEEPER, GATEWAY),
            "seconds in all until a peer has proved itself: one that trickles holds a place no longer"),
    Setting("idle_timeout", 600.0, parse_seconds, (MASTER, KEEPER, GATEWAY), "seconds a connection may ask nothing; clients open another when they need it"),
    Setting("least_rate", 16 * model.KIB, parse_rate, (MASTER, KEEPER),
            "bytes a second, after 10 s of grace, below which a transfer is broken off; 0: only silence counts"),
    Setting("max_transfers", 256, parse_limit, (KEEPER,),
            "transfers of one port at once; each holds a buffer of a MiB and an open file, and beyond some dozens they only share the disk"),
    Setting("max_requests", 512, parse_limit, (MASTER,),
            "requests of clients at work at once; more would only wait for each other, and hold memory meanwhile"),
    Setting("max_entries", 2000, parse_limit, (MASTER,), "entries in one page of a listing: bounds an answer to some hundred KiB"),
    # -- keeper
    Setting("label", {}, parse_labels, (KEEPER,), "key=value, repeatable: room, rack, host; see --spread of the master"),
    Setting("reserve", model.GIB, parse_size, (KEEPER,), "bytes of the disk that are never filled"),
    Setting("heartbeat_every", 1.0, parse_seconds, (KEEPER,), "seconds between heartbeats"),
    Setting("scrub_days", 14.0, parse_days, (KEEPER,), "days in which every replica is read again by itself and compared with its checksums, 0: never"),
    Setting("scrub_rate", 0, parse_rate, (KEEPER,), "bytes a second that re-reading replicas never exceeds, 0: no limit"),
    Setting("disk_timeout", 15.0, parse_seconds, (KEEPER,),
            "seconds a write or sync of the disk may take; then the block is given up here, and the keeper takes nothing new until it ends"),
    # -- client
    Setting("jobs", 4, parse_jobs, (CLIENT, GATEWAY), "blocks or files in flight at once"),
    Setting("patience", 30.0, parse_seconds, (CLIENT, GATEWAY), "seconds a transfer that has begun waits for a master that has gone"),
    Setting("connect_timeout", 3.0, parse_seconds, (CLIENT, KEEPER, GATEWAY), "seconds for a connection to be made"),
    Setting("hedge_after", 1.0, parse_seconds, (CLIENT, GATEWAY), "seconds of silence after which a reader turns to the next replica"),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}


class Settings:
    """A frozen record: one attribute a setting; `origins` says where each came from."""

    def __init__(self, values, origins):
        for name, value in values.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "origins", origins)

    def __setattr__(self, name, value):
        raise AttributeError("settings are read-only")

    def but(self, **changes):
        """The same settings with some replaced (tests, `dfs local`)."""
        values = {name: getattr(self, name) for name in BY_NAME}
        unknown = set(changes) - set(values)
        if unknown:
            raise errors.Misuse(detail=f"no setting is called {sorted(unknown)}")
        return Settings({**values, **changes}, {**self.origins, **{name: "given" for name in changes}})


def resolve(layers, faults=None):
    """Settings from layers, strongest first.

    layers: iterable of (origin text, {name: text or TOML value}); keys that are no setting are refused by name, because a
    misspelt line that is silently ignored loses data. faults: a list that gets each BadSetting, and what is left is resolved without;
    None: raises the first, with the name, the origin and what is wrong.
    """
    values = {setting.name: setting.default for setting in SETTINGS}
    origins = {setting.name: "default" for setting in SETTINGS}
    for origin, layer in reversed(list(layers)):
        for name, raw in layer.items():
            if raw is None:
                continue
            try:
                values[name] = _parsed(name, raw, origin)
            except errors.BadSetting as e:
                if faults is None:
                    raise
                faults.append(e)
                continue
            origins[name] = origin
    return Settings(values, origins)


def _parsed(name, raw, origin):
    setting = BY_NAME.get(name)
    if setting is None:
        raise errors.BadSetting(name=name, origin=origin, detail="there is no such setting")
    try:
        return setting.parse(raw)
    except (ValueError, TypeError) as e:
        raise errors.BadSetting(name=name.replace("_", "-"), origin=origin, detail=str(e)) from e
