"""The words of the command line: which are files, and which are changes of a recipe or a study."""

import re
from collections.abc import Container, Sequence
from pathlib import Path

from medarts.config import Recipe
from medarts.config.study import Study
from medarts.errors import RecipeError
from medarts.system.files import exists

FLAGS = (
    "--json", "--no-json", "--help", "-h", "--yes", "--no-plan", "--force", "--schema", "--heads", "--flip",
    "--probabilities", "--overlay", "--largest", "--int8", "--torch", "--bundle", "--examples", "--clear", "--requeue",
)  # fmt: skip
"""Options that take no value."""

_SEVERAL = ("--data", "--threads", "--batch")
"""Options that take several values."""

_KEYS = rf"({'|'.join(Recipe.model_fields | Study.model_fields)})(\.\w+)*|model\.\w+"
"""Of changes of a recipe, of a study, or of a network that has no recipe (model.width=16)."""


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the words that name files, runs or networks, and those that are changes of a recipe."""
    return [word for word in words if not is_change(word)], [word for word in words if is_change(word)]


def is_change(word: str) -> bool:
    """Says whether a word is a change, key.path=value; what exists is a file, whatever its name looks like."""
    return re.match(r"[^\W\d]\w*(\.\w+)*\.?=", word) is not None and not exists(Path(word))


def changes_first(words: Sequence[str]) -> list[str]:
    """Returns the words with all changes behind the command and its file, where they are looked for.

    Otherwise an option that takes several values, such as --data, would take the changes behind it as well.

    Raises:
        RecipeError: a word is empty, as a variable of the shell is that is not set.
    """
    if "" in words:
        raise RecipeError("One of the arguments is empty.", fix="Check for a shell variable that is not set.")
    changes: list[str] = []
    others: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        is_value = before.startswith("--") and "=" not in before and before not in FLAGS
        moved = not is_value and re.match(f"({_KEYS})=", word) is not None and is_change(word)
        (changes if moved else others).append(word)
    named = 2 if len(others) > 1 and not others[1].startswith("-") else 1
    return [*others[:named], *changes, *others[named:]]


def check_repeated(words: Sequence[str], options: Container[str]) -> None:
    """Refuses an option that is given twice, of which only the last would count.

    Args:
        words: of the command line.
        options: those of the command, such as "--out"; others are refused where all words are read.

    Raises:
        RecipeError: names the option.
    """
    seen: set[str] = set()
    for word in words:
        if word == "--":  # the rest are not options
            return
        if not word.startswith("--"):
            continue
        option = word.partition("=")[0].replace("_", "-")
        name = option.replace("--no-", "--", 1)  # --no-json is the same option as --json
        if name in seen and name in options:
            fix = f"Give it once, with all of its values: {name} A B." if name in _SEVERAL else "Give it once."
            raise RecipeError(f"{name} is given twice.", fix=fix)
        seen.add(name)
