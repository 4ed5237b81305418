"""Which words of the command line are files, and which are changes."""

import errno
import os
from inspect import signature
from pathlib import Path

import pytest

from medarts import cli
from medarts.arguments import FLAGS, changes_first, check_repeated, is_change, split
from medarts.cli import _options
from medarts.errors import RecipeError, check_number, of_system, quoted, shortened


@pytest.mark.parametrize(
    "word", ["train.lr=0.1", "seed=3", "serch.lr=3", "note=a = b", "data.sources.0.path=/x/y=z", "note=", "train.=3"]
)
def test_changes(word: str) -> None:
    assert is_change(word)
    assert split(["a.yaml", word]) == (["a.yaml"], [word])


@pytest.mark.parametrize(
    "word", ["runs/lr=0.1", "./seed=3", "=3", "a b=c", "my-run=2", "(x)=1", "x@y=1", "1=2", "ü+=3"]
)
def test_words_that_are_no_keys_are_files_even_where_they_are_not_there(word: str) -> None:
    assert not is_change(word)


@pytest.mark.parametrize("word", ["seed=3", "train.lr=0.1", "data=x.yaml", "lr=0.1"])
def test_what_is_there_is_a_file(word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_change(word)
    Path(word).mkdir()
    assert not is_change(word)
    assert split([word, "seed=4"]) == ([word], ["seed=4"])
    assert changes_first(["train", word, "--data", "a", "seed=4"]) == ["train", word, "seed=4", "--data", "a"]


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("train run --data a b seed=3", "train run seed=3 --data a b"),
        ("train seed=3 run", "train run seed=3"),
        ("cost unet unetpp model.width=8 --json", "cost unet model.width=8 unetpp --json"),
        ("plan r.yaml --json seed=3", "plan r.yaml seed=3 --json"),
        ("train --data a seed=3", "train seed=3 --data a"),
        # The word behind an option is its value, whatever it looks like.
        ("search r.yaml --out seed=3", "search r.yaml --out seed=3"),
        ("search r.yaml --out=x seed=3", "search r.yaml seed=3 --out=x"),
        ("train --resume train.lr=1 note=x", "train note=x --resume train.lr=1"),
        ("benchmark r.yaml recipe.train.epochs=3", "benchmark r.yaml recipe.train.epochs=3"),
        ("benchmark s --jobs 2 recipe.seed=3 networks=[]", "benchmark s recipe.seed=3 networks=[] --jobs 2"),
        ("plan s.yaml --json trained_on.0.seeds=[1]", "plan s.yaml trained_on.0.seeds=[1] --json"),
    ],
)
def test_changes_stand_where_they_are_looked_for(words: str, ordered: str) -> None:
    assert changes_first(words.split()) == ordered.split()


def test_an_empty_word_is_no_folder() -> None:
    with pytest.raises(RecipeError, match="arguments is empty"):
        changes_first(["search", "r.yaml", "--out", ""])


@pytest.mark.parametrize("number", [0, 65, -1, 10**40])
def test_numbers_out_of_range(number: int) -> None:
    with pytest.raises(RecipeError) as caught:
        check_number("jobs", number, low=1, high=64, reason="as this machine has no more cores")
    assert str(caught.value) == f"jobs is {number}. Use 1 to 64, as this machine has no more cores."


def test_numbers_in_range() -> None:
    for number in (1, 64, None):
        check_number("jobs", number, low=1, high=64)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x"),
            "runs/x: No space left on device. Make room on the",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "runs/x"),
            "runs/x: Permission denied. Change its permissions",
        ),
        (
            NotADirectoryError(errno.ENOTDIR, "Not a directory", "f/x"),
            "f/x: Not a directory. A part of this path is a file",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", b"\xe9"),
            "\udce9: Read-only file system. The disk can only be read",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "x" * 5000), "...: File name too long. Use a shorter name"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "Cannot allocate memory. Free memory"),
        (OSError("odd"), "OSError. Check the disk"),
    ],
)
def test_errors_of_the_system_have_file_cause_and_fix(error: OSError, says: str) -> None:
    found = of_system(error)
    assert says in str(found)
    assert found.fix
    assert len(str(found)) < 350


def test_values_are_quoted_shortly() -> None:
    assert shortened("x" * 300, longest=10) == "xxxxxxx..."
    assert quoted("a\n") == r"'a\n'"
    for value in ("x" * 10**5, list(range(10**5)), {n: n for n in range(10**5)}, [[[[[1]]]]], b"x" * 10**4):
        assert len(quoted(value)) < 100


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("train --data a --data b", "--data"),
        ("evaluate run --data a --data=b", "--data"),
        ("cost unet --threads 1 --threads 2", "--threads"),
        ("cost unet --batch 1 --size 8 --batch 1", "--batch"),
        ("search r.yaml --out a --out b", "--out"),
        ("train --init-channel 8 --init_channel 16", "--init-channel"),
        ("plan r.yaml --json --no-json", "--json"),
    ],
)
def test_an_option_given_twice_is_refused_as_only_its_last_value_would_count(words: str, option: str) -> None:
    with pytest.raises(RecipeError, match=f"^{option} is given twice"):
        check_repeated(words.split(), _options(words.split()))


def test_several_values_of_an_option_and_words_behind_two_dashes_may_look_alike() -> None:
    words = ["cost", "unet", "unet", "--threads", "1", "1", "--batch", "1", "--", "--threads", "--threads"]
    check_repeated(words, _options(words))


def test_options_that_take_no_value_are_known_so_that_changes_may_follow_them() -> None:
    switches = {
        f"--{name.removeprefix('as_').replace('_', '-')}"
        for command in cli.COMMANDS.values()
        for name, parameter in signature(command).parameters.items()
        if isinstance(parameter.default, bool)
    }
    assert {"--yes", "--json"} < switches <= {*FLAGS}
    assert changes_first(["init", "d", "--yes", "data.size=16"]) == ["init", "d", "data.size=16", "--yes"]
