"""Which network the words of a command name."""

from collections.abc import Iterable
from pathlib import Path

from medarts.config import Recipe, apply_overrides
from medarts.engine.directory import RunDirectory
from medarts.errors import GenotypeError, RecipeError, RunError, quoted
from medarts.models import Architecture
from medarts.spaces import space_settings
from medarts.spaces.genotype import Genotype, load_genotype


def network_to_train(
    recipe: Recipe,
    searched: Path | None,
    *,
    genotype: str | None,
    init_channel: int | None = None,
    changes: Iterable[str] = (),
) -> Architecture:
    """Returns what a training trains: the genotype, the recipe's model, or what a search has found.

    Args:
        recipe: of the training.
        searched: a finished search.
        genotype: a genotype of the zoo, a file, or a run.
        init_channel: another C of the genotype.
        changes: changes of the recipe as key.path=value; those of space are settings of the genotype.

    Raises:
        RecipeError: none of them is given, or a baseline has no such settings.
        GenotypeError: the genotype is damaged or unfit for the settings.
        RunError: the search has not finished.
    """
    changes, model = list(changes), recipe.train.model
    if genotype is not None:
        return genotype_of(genotype, init_channel=init_channel, changes=changes)
    if model is not None:
        if init_channel is not None or any(map(_is_of_space, changes)):
            raise RecipeError(
                f"{model.name} has no settings of a search space.",
                fix="Leave --init-channel and space out; a baseline has train.model.width and the like.",
            )
        return model
    if searched is not None:
        return searched_genotype(searched, init_channel=init_channel, changes=changes)
    raise RecipeError("Nothing says which network to train.", fix="Give RUN, --genotype NAME or --model NAME.")


def genotype_of(name: str | Path, *, init_channel: int | None = None, changes: Iterable[str] = ()) -> Genotype:
    """Returns a genotype of the zoo, a file, or a run, with other settings where they are given.

    Args:
        name: where it is.
        init_channel: another C.
        changes: changes of a recipe as key.path=value; those of space are settings of the genotype.

    Raises:
        GenotypeError: there is none, or it is damaged or unfit for the settings.
    """
    genotype = load_genotype(name)
    settings = apply_overrides({}, [change for change in changes if _is_of_space(change)]).get("space", {})
    if not isinstance(settings, dict):
        raise RecipeError(f"space cannot be {quoted(settings)}.", fix="Write space.init_channel=8 and the like.")
    settings = {str(key): value for key, value in settings.items()}
    if init_channel is not None:
        settings["init_channel"] = init_channel
    if "intermediate_nodes" in settings:
        raise GenotypeError("The cells of a genotype fix its intermediate_nodes.", fix="Leave that change out.")
    changed = genotype.with_settings(**settings)
    space_settings(changed)
    return changed


def _is_of_space(change: str) -> bool:
    return change.startswith(("space.", "space="))


def searched_genotype(run: Path, *, init_channel: int | None = None, changes: Iterable[str] = ()) -> Genotype:
    """Returns what a finished search has found; see ``genotype_of`` for the arguments.

    Raises:
        RunError: the folder is no search, or it has not finished.
    """
    if not RunDirectory.open(run, kind="search").facts["finished"]:
        raise RunError(
            f"The search {run} has not finished.",
            fix=f"Go on with it: medarts search --resume {run}. Or train what it has so far: --genotype {run}.",
        )
    return genotype_of(run, init_channel=init_channel, changes=changes)
