"""One command under way: its options, words, settings and output, and the way to the cluster.

Never does what a verb does. Settings are read when first asked for, the client is connected when first needed.
"""

from dfs_lib import errors
from dfs_lib import settings as all_settings
from dfs_lib.cli import options, output

# Settings of clients that every client verb takes as flags; the others are named by the verbs they mean something to.
_CLIENT_FLAGS = ("master", "key_file", "insecure", "tls", "tls_ca", "connect_timeout", "patience")


def setting_option(name, note=None):
    """The flag of one setting: its reason as help, its default shown."""
    setting = all_settings.BY_NAME[name]
    names = ("--" + name.replace("_", "-"),)
    if setting.parse is all_settings.parse_insecure:
        return options.Option(names, "", setting.reason, None, True, is_setting=True)  # a flag that counts
    if setting.parse is all_settings.parse_bool:
        return options.flag(*names, help=setting.reason)._replace(is_setting=True)
    shown = "" if setting.default in (None, (), {}) else f" (default {default_text(setting)})"
    metavar = _NAMED_METAVARS.get(name) or _METAVARS.get(setting.parse, "TEXT" if setting.parse is str else "N")
    is_many = setting.parse in (all_settings.parse_labels, all_settings.parse_names)
    help = note or setting.reason + shown
    return options.Option(names, metavar, help, _checked(setting.parse), is_many, is_setting=True)


_METAVARS = {all_settings.parse_size: "SIZE", all_settings.parse_block_size: "SIZE", all_settings.parse_rate: "SIZE", all_settings.parse_seconds: "SECONDS",
             all_settings.parse_ports: "PORTS", all_settings.parse_masters: "HOST[:PORT][,…]",
             all_settings.parse_labels: "KEY=VALUE",
             all_settings.parse_names: "NAME[,…]"}
_NAMED_METAVARS = {"data": "DIR", "key_file": "FILE", "host": "ADDRESS", "heartbeat_port": "PORT", "web": "[ADDR:]PORT", "listen": "[ADDR:]PORT",
                   "metrics": "open|key", "rebalance": "off|gentle|now", "monitor": "[ADDR:]PORT", "alarm_command": "COMMAND", "alarm_webhook": "URL", "space_low": "PERCENT",
                   "tls": "MODE", "tls_cert": "FILE", "tls_key": "FILE", "tls_ca": "FILE"}


def _checked(parse):
    """Refuse a bad value at the flag, where the message can name it, and keep the text: `resolve` parses all layers alike."""
    def check(text):
        parse(text)
        return text
    return check


def default_text(setting):
    """A default as a person would write it."""
    value = setting.default
    if setting.parse is all_settings.parse_masters:
        return "127.0.0.1:7000 to 7002"
    if setting.parse in (all_settings.parse_size, all_settings.parse_block_size, all_settings.parse_rate) and value:
        return output.exact_size(value)
    return value_text(setting, value)


def value_text(setting, value):
    """A value of a setting as text that its parser reads back."""
    if value is None:
        return ""
    if setting.parse is all_settings.parse_masters:
        return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in value)
    if setting.parse in (all_settings.parse_listen, all_settings.parse_web) and value != all_settings.OFF:
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if setting.parse is all_settings.parse_labels:
        return ",".join(f"{key}={text}" for key, text in value.items())
    if setting.parse in (all_settings.parse_ports, all_settings.parse_names):
        return ",".join(str(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def options_of(verb):
    """Every option a verb takes: its own, those of its role's settings, and the common ones."""
    table = list(verb.options)
    taken = {name for option in table for name in option.names}
    if verb.role == all_settings.CLIENT:
        table += [setting_option(name) for name in _CLIENT_FLAGS if "--" + name.replace("_", "-") not in taken]
    elif verb.role:
        names = [setting.name for setting in all_settings.SETTINGS if verb.role in setting.who]
        table += [setting_option(name) for name in names if "--" + name.replace("_", "-") not in taken]
    return table + list(options.COMMON)


class Call:
    """What a verb is given: `values` of options, `words`, `out`; `worst` is the exit status of what failed so far, `n_failed` how much."""

    def __init__(self, verb, values, words):
        self.verb, self.values, self.words = verb, values, words
        self.worst = self.n_failed = 0
        self.out = output.Output(as_json=bool(values.get("json")), is_quiet=bool(values.get("quiet")),
                                 wants_progress=bool(values.get("progress")))
        self._settings = None
        if values.get("verbose") and verb.role not in (all_settings.MASTER, all_settings.KEEPER, all_settings.GATEWAY):
            self.start_log(len(values["verbose"]))

    def __getitem__(self, key):
        """The value of an option, None when it was not given."""
        return self.values.get(key)

    @property
    def settings(self):
        if self._settings is None:
            from dfs_lib.cli import settings_sources

            role = self.verb.role or all_settings.CLIENT
            own = {options.key_of(option) for option in options_of(self.verb) if option.is_setting}
            flags = {name: value for name, value in self.values.items() if name in own}
            self._settings = settings_sources.load(role, flags, config=self["config"])
        return self._settings

    def given(self, name):
        """The value of a setting, None when nobody has set it: then the master's default holds."""
        return None if self.settings.origins[name] == "default" else getattr(self.settings, name)

    def client(self):
        """A context manager: dfs_lib.client.Client of the cluster that settings name."""
        return Connection(self.settings)

    def failed(self, error, path=None, local=None):
        """Show one of several failures and go on; the worst one's status is the exit status. path, local: whom it befell."""
        named = local if local not in (None, "-") and path is None else path
        if path is not None:
            error.facts.setdefault("path", path)
        if named is not None and str(named) not in error.message and error.code != errors.BadName.code:  # that one names it, escaped
            error.args = (f"{named}: {error.message}",)
        self.out.clear_bar()
        output.show_error(error, as_json=self.out.as_json, verbose=bool(self["verbose"]), verb=self.verb.name)
        self.worst = max(self.worst, error.status)
        self.n_failed += 1

    def start_log(self, level):
        """Log to stderr: 0 warnings, 1 what happens, 2 each message."""
        import logging

        logging.basicConfig(level=(logging.WARNING, logging.INFO, logging.DEBUG)[min(level, 2)],
                            format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        # What this format does not show is not looked for, a third of what a line costs; see "Optimization" in Python's Logging HOWTO.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        logging._srcfile = None


class Connection:
    """`with Connection(settings) as client`: reads the key, connects, closes; says so when no key or cluster was named at all."""

    def __init__(self, settings):
        self._settings, self._client = settings, None

    def __enter__(self):
        from dfs_lib import client

        try:
            # Without a key and without --insecure the client refuses a master that asks for no key.
            self._client = client.connect(self._settings.master, settings=self._settings, insecure=self._settings.insecure)
        except Exception as e:
            self._explain(e)
            raise
        return self._client

    def __exit__(self, kind, error, trace):
        if self._client is not None:
            self._client.close()
        if error is not None:
            self._explain(error)

    def _explain(self, error):
        if isinstance(error, errors.NetworkError) and self._settings.origins["master"] == "default":
            error.hint = ("`dfs local` starts a cluster here; --master HOST names another "
                          "(or DFS_MASTER, or master = \"HOST\" in dfs.toml)")
