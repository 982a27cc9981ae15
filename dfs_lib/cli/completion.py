"""`dfs completion bash|zsh|fish`: a script that completes verbs, options and file names, made from the tables that parse them.

Never asks a cluster: a key press must not wait for a network. Whatever is no option is completed as a local path.
"""

from dfs_lib import errors
from dfs_lib.cli import admin, calls, options

SHELLS = ("bash", "zsh", "fish")
_FILES, _DIRECTORIES = "FILE", "DIR"


def table():
    """[(name, one line, [Option…] that are shown, words that may follow)] of every verb."""
    from dfs_lib.cli import main

    found = []
    for name, family, line in main.VERBS:
        verb = family().VERBS[name]
        shown = [option for option in calls.options_of(verb) if not option.hidden]
        found.append((name, line, shown, _words_after(name)))
    return found


def _words_after(name):
    if name == "admin":
        return sorted({word for words in admin.ACTIONS for word in words[:1]})
    return {"completion": list(SHELLS)}.get(name, [])


def _words_after_two():
    """{"admin user": words that may follow}."""
    found = {}
    for words in admin.ACTIONS:
        if len(words) > 1:
            found.setdefault(f"admin {words[0]}", []).append(words[1])
    return found


def completion(call):
    """Print the script for one shell."""
    shell = call.words[0]
    if shell not in SHELLS:
        raise errors.UsageError(detail=f"completion: {shell!r} is none of {', '.join(SHELLS)}", verb="completion")
    text = {"bash": bash, "zsh": zsh, "fish": fish}[shell](table())
    call.out.line(text, end="")
    call.out.record({"shell": shell, "script": text})


def _names_of(options_):
    return [name for option in options_ for name in option.names]


# -- bash -------------------------------------------------------------------------------------------------------------
_BASH = """# dfs completion bash: source it, or put it into /etc/bash_completion.d/dfs
_dfs() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} verb= n word opts= words= files= dirs= values=
    for ((n = 1; n < COMP_CWORD; n++)); do
        word=${{COMP_WORDS[n]}}
        case $word in
            client|help) ;;
            --master|--key-file|--config) ((n++)) ;;
            -*) ;;
            *) verb=$word; break ;;
        esac
    done
    COMPREPLY=()
    case $verb in
        '') case $prev in
                --key-file|--config) COMPREPLY=($(compgen -f -- "$cur")); return ;;
                --master) return ;;
            esac
            COMPREPLY=($(compgen -W '{verbs} help client --help --version --master --key-file --config' -- "$cur")); return ;;
{cases}
        *) return ;;
    esac
    case " $files " in *" $prev "*) COMPREPLY=($(compgen -f -- "$cur")); return ;; esac
    case " $dirs " in *" $prev "*) COMPREPLY=($(compgen -d -- "$cur")); return ;; esac
    case " $values " in *" $prev "*) return ;; esac
    case "$verb $prev" in
{seconds}
    esac
    case $cur in
        -*) COMPREPLY=($(compgen -W "$opts" -- "$cur")) ;;
        *) if [ -n "$words" ]; then COMPREPLY=($(compgen -W "$words" -- "$cur")); fi ;;
    esac
}}
complete -o default -F _dfs dfs
"""


def bash(verbs):
    """The script for bash, from `table()`."""
    cases = []
    for name, _line, shown, words in verbs:
        sets = {"opts": _names_of(shown), "words": words,
                "files": _names_of([option for option in shown if option.metavar == _FILES]),
                "dirs": _names_of([option for option in shown if option.metavar == _DIRECTORIES]),
                "values": _names_of([option for option in shown if option.metavar not in ("", _FILES, _DIRECTORIES)])}
        given = " ".join(f"{key}='{' '.join(value)}'" for key, value in sets.items() if value)
        cases.append(f"        {'|'.join([name, *_aliases(name)])}) {given} ;;")
    seconds = "\n".join(f"        '{two}') words='{' '.join(words)}' ;;" for two, words in _words_after_two().items())
    return _BASH.format(verbs=" ".join(name for name, *_rest in verbs), cases="\n".join(cases), seconds=seconds)


def _aliases(name):
    from dfs_lib.cli import main

    return [alias for alias, of in main.ALIASES.items() if of == name]


# -- zsh --------------------------------------------------------------------------------------------------------------
_ZSH = """#compdef dfs
# dfs completion zsh: put it as _dfs into a directory of $fpath, or: source <(dfs completion zsh)
_dfs() {{
    local -a verbs
    local verb n
    for ((n = 2; n < CURRENT; n++)); do
        case $words[n] in
            client|help) ;;
            --master|--key-file|--config) ((n++)) ;;
            -*) ;;
            *) verb=$words[n]; break ;;
        esac
    done
    if [[ -z $verb ]]; then
        verbs=(
{verbs}
        )
        _describe -t verbs 'verb' verbs
        return
    fi
    words=("${{words[@]:$n-1}}")
    ((CURRENT -= n - 1))
    case $verb in
{cases}
    esac
}}
compdef _dfs dfs
"""


def _zsh_text(text):
    for character in "\\'[]:":
        text = text.replace(character, "'\\''" if character == "'" else "\\" + character)
    return text


def zsh(verbs):
    """The script for zsh, from `table()`."""
    lines = "\n".join(f"            '{name}:{_zsh_text(line)}'" for name, line, *_rest in verbs)
    cases = []
    for name, _line, shown, words in verbs:
        arguments = [_zsh_option(option, name_) for option in shown for name_ in option.names]
        arguments.append(f"'1:word:({' '.join(words)})'" if words else "'*:path:_files'")
        cases.append(f"        {'|'.join([name, *_aliases(name)])}) _arguments -s {' '.join(arguments)} ;;")
    return _ZSH.format(verbs=lines, cases="\n".join(cases))


def _zsh_option(option, name):
    value = "" if not option.metavar else f":{_zsh_text(option.metavar)}:" + {_FILES: "_files", _DIRECTORIES: "_files -/"}.get(option.metavar, "")
    many = "*" if option.many else ""
    equals = "=" if option.metavar and name.startswith("--") else ""
    return f"'{many}{name}{equals}[{_zsh_text(option.help)}]{value}'"


# -- fish -------------------------------------------------------------------------------------------------------------
def _fish_text(text):
    return text.replace("\\", "\\\\").replace("'", "\\'")


def fish(verbs):
    """The script for fish, from `table()`."""
    names = " ".join(each for name, *_rest in verbs for each in [name, *_aliases(name)])
    lines = ["# dfs completion fish: put it into ~/.config/fish/completions/dfs.fish",
             "complete -c dfs -e", f"set -l verbs {names}"]
    for name, line, shown, words in verbs:
        lines.append(f"complete -c dfs -n \"not __fish_seen_subcommand_from $verbs\" -f -a {name} -d '{_fish_text(line)}'")
        seen = f"-n '__fish_seen_subcommand_from {' '.join([name, *_aliases(name)])}'"
        if words:
            lines.append(f"complete -c dfs {seen} -f -a '{' '.join(words)}'")
        for option in shown:
            kinds = " ".join(f"-{'l' if each.startswith('--') else 's'} {each.lstrip('-')}" for each in option.names)
            value = "" if not option.metavar else {_FILES: " -r -F", _DIRECTORIES: " -x -a '(__fish_complete_directories)'"}.get(option.metavar, " -x")
            lines.append(f"complete -c dfs {seen} {kinds}{value} -d '{_fish_text(option.help)}'")
    return "\n".join(lines) + "\n"


VERBS = {
    "completion": options.Verb("completion", completion, "bash|zsh|fish", "A script that completes verbs and options in a shell.", (), 1, 1, """
  source <(dfs completion bash)                          # in ~/.bashrc
  dfs completion zsh >"${fpath[1]}/_dfs"
  dfs completion fish >~/.config/fish/completions/dfs.fish
""", ""),
}
