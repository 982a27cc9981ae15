"""Completion scripts and the manual page: made from the tables that parse, and accepted by the programs that read them."""

import importlib.util
import os
import re
import shutil
import subprocess

import pytest

from dfs_lib.cli import completion, main

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))


@pytest.fixture(scope="module")
def verbs():
    return completion.table()


def needs(program):
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program} here")


@pytest.mark.parametrize("shell", [pytest.param(shell, marks=needs(shell)) for shell in completion.SHELLS])
def test_the_shell_takes_the_script(shell, verbs, tmp_path):
    script = tmp_path / "script"
    script.write_text(getattr(completion, shell)(verbs))
    done = subprocess.run([shell, "-n", str(script)], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")


@needs("bash")
@pytest.mark.parametrize("words, expected", [
    (["dfs", "sta"], {"stat", "status"}), (["dfs", "client", "mkd"], {"mkdir"}), (["dfs", "--master", "host:7000", "undr"], {"undrain"}),
    (["dfs", "put", "--cop"], {"--copies"}), (["dfs", "upload", "--no-clob"], {"--no-clobber"}), (["dfs", "ls", "--js"], {"--json"}),
    (["dfs", "completion", "f"], {"fish"}), (["dfs", "admin", "in"], {"invite"}), (["dfs", "admin", "user", ""], {"add", "list", "remove", "rotate"}),
    (["dfs", "admin", "user", "ro"], {"rotate"}), (["dfs", "put", "--copies", ""], set()),
    (["dfs", "keeper", "--key-file", "./da"], {"./data"}), (["dfs", "keeper", "--data", "./d"], {"./directory"}), (["dfs", "get", "/"], set())])
def test_bash_completes(words, expected, verbs, tmp_path):
    (tmp_path / "data").write_text("")
    (tmp_path / "directory").mkdir()
    program = completion.bash(verbs) + 'COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _dfs; printf "%s\\n" "${COMPREPLY[@]}"\n'
    done = subprocess.run(["bash", "--norc", "-c", program, "bash", *words], capture_output=True, text=True, timeout=30, cwd=tmp_path)
    assert done.stderr == "" and set(done.stdout.split()) - ({"./directory"} if expected == {"./data"} else set()) == expected


@needs("fish")
def test_fish_completes(verbs, tmp_path):
    script = tmp_path / "dfs.fish"
    script.write_text(completion.fish(verbs))
    done = subprocess.run(["fish", "--no-config", "-c", f"source {script}; complete -C 'dfs put --no-cl'; complete -C 'dfs sta'"],
                          capture_output=True, text=True, timeout=30, env={**os.environ, "HOME": str(tmp_path)})
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["--no-clobber", "stat", "status"], done.stderr


def test_every_verb_and_shown_option_is_in_every_script(verbs):
    for shell in completion.SHELLS:
        text = getattr(completion, shell)(verbs)
        for name, _line, shown, _words in verbs:
            assert name in text
            for option in shown:
                assert option.names[-1].lstrip("-") in text, (shell, name, option.names)
    assert [name for name, *_rest in verbs] == [name for name, *_rest in main.VERBS]


def test_the_verb_prints_one_and_refuses_others(capsys):
    assert main.main(["completion", "bash"]) == 0 and "complete -o default -F _dfs dfs" in capsys.readouterr().out
    assert main.main(["completion", "csh"]) == 2 and "none of bash, zsh, fish" in capsys.readouterr().err


@pytest.fixture(scope="module")
def manual():
    spec = importlib.util.spec_from_file_location("write_manual", os.path.join(ROOT, "docs", "write_manual.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_manual_page_is_up_to_date(manual):
    with open(manual.PAGE, encoding="utf-8") as source:
        assert source.read() == manual.page(), "run python3 docs/write_manual.py"


@needs("mandoc")
def test_the_manual_page_is_well_formed(manual):
    done = subprocess.run(["mandoc", "-Tlint", "-Wwarning", manual.PAGE], capture_output=True, text=True, timeout=30)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []  # a date would make it out of date by itself
    text = re.sub(".\b", "", subprocess.run(["mandoc", "-Tascii", manual.PAGE], capture_output=True, text=True, timeout=30).stdout)
    assert [name for name, *_rest in main.VERBS if f"   dfs {name}" not in text] == []
