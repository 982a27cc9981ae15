"""Words become values and names, or one error that names the word at fault."""

import pytest

from dfs_lib import errors
from dfs_lib.cli import options

TABLE = (options.flag("-l", "--long", help="long"), options.flag("-R", "--recursive", help="deep"),
         options.Option(("-j", "--jobs"), "N", "how many", int), options.Option(("--label",), "K=V", "labels", str, True),
         options.Option(("-v", "--verbose"), "", "more", None, True))


@pytest.mark.parametrize("words, values, rest", [
    ([], {}, []),
    (["-l", "/a", "--jobs", "3"], {"long": True, "jobs": 3}, ["/a"]),
    (["-lRj4", "/a"], {"long": True, "recursive": True, "jobs": 4}, ["/a"]),
    (["--jobs=5", "-"], {"jobs": 5}, ["-"]),
    (["-j", "-1"], {"jobs": -1}, []),
    (["--", "-l", "--jobs"], {}, ["-l", "--jobs"]),
    (["--label", "a=1", "--label=b=2"], {"label": ["a=1", "b=2"]}, []),
    (["-vv", "-v"], {"verbose": [True, True, True]}, []),
    (["/b", "-l", "/a"], {"long": True}, ["/b", "/a"]),
    (["--jobs", "1", "--jobs", "2"], {"jobs": 2}, []),
])
def test_words_become_values_and_names(words, values, rest):
    assert options.parse("ls", words, TABLE) == (values, rest)


@pytest.mark.parametrize("words, part", [
    (["--lnog"], "did you mean --long"), (["-x"], "no option -x"), (["--jobs"], "--jobs needs a value"),
    (["-j"], "-j needs a value"),
    (["--jobs", "many"], "'many' is not a number"), (["--long=1"], "--long takes no value"), (["-lx"], "no option -x"),
    (["--lon"], "no option --lon"),
])
def test_a_wrong_word_is_named(words, part):
    with pytest.raises(errors.UsageError) as caught:
        options.parse("ls", words, TABLE)
    assert part in caught.value.message and caught.value.message.startswith("ls: ") and caught.value.facts["verb"] == "ls"


def test_too_few_and_too_many_words_are_refused():
    verb = options.Verb("mv", None, "SOURCE… TARGET", "", (), 2, None)
    with pytest.raises(errors.UsageError, match="mv needs SOURCE… TARGET"):
        options.check_words(verb, ["/a"])
    with pytest.raises(errors.UsageError, match="'b' is one word too many"):
        options.check_words(options.Verb("status", None, "", "", (), 0, 1), ["a", "b"])


def test_help_shows_every_option_but_hidden_ones():
    verb = options.Verb("ls", None, "[PATH…]", "What is there.", (), 0, None, "More words.")
    text = options.explain(verb, (*TABLE, options.flag("--secret", help="hidden", hidden=True)))
    assert text.startswith("usage: dfs ls [PATH…]\n") and "More words." in text and "--secret" not in text
    assert all(option.names[-1] in text and option.help in text for option in TABLE)
    assert max(map(len, text.splitlines())) <= 100
