"""`dfs keygen` and `dfs settings`: keys are made, settings are shown. Never prints a key."""

from dfs_lib import settings
from dfs_lib.cli import calls, options, output, settings_sources


def keygen(call):
    """A fresh cluster key in a new file."""
    from dfs_lib import keyfile

    path = call.words[0]
    keyfile.make(path)
    call.out.both(f"made a cluster key: {output.safe_text(path)} (only you can read it; whoever has it administers the cluster)",
                  {"path": path})


def show_settings(call):
    """Each setting, its value and its origin, as a command of that role run here would see them."""
    role = call["role"] or settings.CLIENT
    faults = []
    taken = settings_sources.load(role, {}, config=call["config"], faults=faults)
    bad = {fault.facts["name"]: fault for fault in faults}
    own = _names_of(role)
    rows = []
    for setting in settings.SETTINGS:
        name = setting.name.replace("_", "-")
        if setting.name not in own and not call["all"] and name not in bad:
            continue
        value, origin = getattr(taken, setting.name), taken.origins[setting.name]
        record = {"name": name, "value": value, "origin": origin, "who": list(setting.who), "reason": setting.reason}
        shown = calls.default_text(setting) if origin == "default" else calls.value_text(setting, value)
        if name in bad:
            origin, shown = bad[name].facts["origin"], "not to be read"
            record.update(value=None, origin=origin, fault=bad[name].facts["detail"])
        call.out.record(record)
        rows.append((name, output.safe_text(shown) or "-", output.safe_text(origin)))
    call.out.table([("SETTING", "VALUE", "FROM"), *rows])
    for fault in faults:
        fault.hint = f"every command says so and ends, until {fault.facts['origin']} is put right"
        call.failed(fault)


def _names_of(role):
    """Names of the settings that commands of this role take."""
    found = {setting.name for setting in settings.SETTINGS if role in setting.who}
    if role == settings.LOCAL:  # it hands on what its daemons take
        from dfs_lib.cli import local_verbs

        found |= {options.key_of(option) for option in calls.options_of(local_verbs.VERBS["local"]) if option.is_setting}
    return found


def _parse_role(text):
    if text not in settings_sources.ROLES:
        raise ValueError(f"{text!r} is none of {', '.join(settings_sources.ROLES)}")
    return text


VERBS = {
    "keygen": options.Verb("keygen", keygen, "FILE", "Make a cluster key in a new file that only its owner can read.", (), 1, 1,
                           "Copy it to each machine of the cluster and name it there with --key-file or DFS_KEY_FILE."),
    "settings": options.Verb("settings", show_settings, "[--role ROLE]", "Each setting, its value and where it came from.", (
        options.Option(("--role",), "ROLE", "client, master, keeper, local or gateway (default client)", _parse_role),
        options.flag("--all", help="settings of the other roles too"),
    ), 0, 0, """
flag > DFS_NAME > --config FILE, DFS_CONFIG, ./dfs.toml or the user's dfs/dfs.toml
     > ./dfs-local/client.toml or ./client.toml (clients) > default
""", ""),
}
