"""The networks that can be trained: baselines, one file each, those of genotypes, and what was pruned of both."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import ValidationError

from medarts.errors import RecipeError, did_you_mean, quoted
from medarts.models.ensemble import FILE as ENSEMBLE
from medarts.models.ensemble import Ensemble, read_ensemble
from medarts.models.pruned import FILE as STRUCTURE
from medarts.models.pruned import Pruned, read_pruned
from medarts.registry import Settings, models
from medarts.spaces import WIDTHS, load_genotype, space_of, zoo
from medarts.spaces.genotype import Genotype
from medarts.system.files import exists

if TYPE_CHECKING:
    from medarts.config import Recipe, Task
    from medarts.network import Network
    from medarts.network.layers import Norm

Architecture = Genotype | Settings | Pruned | Ensemble
"""A genotype, the settings of a baseline, what was pruned of one of them, or several of one; all have a name."""

A = TypeVar("A", bound=Architecture)
Model = TypeVar("Model", bound=Callable[..., "Network"])


def register_model(
    name: str,
    *,
    settings: type[Settings],
    task: "Task",
    outputs: int = 1,
    size: int = 256,
    width: str | None = None,
) -> Callable[[Model], Model]:
    """Returns a decorator that registers a baseline, which recipes then choose by ``train.model: {name: NAME}``.

    It is called as ``model(settings, in_channels=..., outputs=..., norm=...)``, where norm is "group", "batch", or
    None for the norms of its paper, and returns a `medarts.network.Network` with fresh weights. A model that has one
    kind of norm alone can do without that argument; a recipe with ``train.norm`` is then refused.

    Args:
        name: of the model.
        settings: the class of its settings, with a default for each. A field ``weights`` is the path of a file that the
            network starts from.
        task: what it is for.
        outputs: those of the published network, with which its cost is measured by default.
        size: height and width of the images of the published network, in pixels.
        width: the field of the settings, a whole number, that all numbers of channels grow with; a budget scales it.
            Default: there is none, and the network stays as it is.
    """
    if width is not None and width not in settings.model_fields:
        raise ValueError(f"{name} has no setting {width} that could be its width")
    return models.register(name, settings=settings, task=task, outputs=outputs, size=size, width=width)


def list_models(task: "Task | None" = None) -> tuple[str, ...]:
    """Returns the names that `create_model` takes: baselines, then the genotypes that come with medarts.

    Args:
        task: "segmentation" or "classification". Default: both.

    >>> list_models("classification")
    ('chexnet', 'chestxray14_first_order', 'darts_v2')
    """
    names = (*models.names(), *zoo())
    return tuple(name for name in names if task in (None, task_of(architecture_named(name))))


def create_model(
    architecture: str | Architecture,
    *,
    in_channels: int = 3,
    outputs: int | None = None,
    norm: "Norm | None" = None,
    **settings: Any,
) -> "Network":
    """Returns a network with fresh weights, or with those of the file that its settings name.

    Args:
        architecture: a genotype, settings of a baseline, or a name: of a baseline, what `load_genotype` takes, or a run
            of a pruned network.
        in_channels: channels of the images.
        outputs: channels of the logits. Default: those of the published network.
        norm: kind of all norms, "group" or "batch". Default: those of the network's paper.
        settings: what else is set of the network: width=16 of a baseline, init_channel=8 of a genotype.

    Raises:
        RecipeError, GenotypeError: there is no such network, setting or norm, or a value does not fit.
        RunError: what was cut away of a pruned network is damaged, or does not fit.

    >>> import torch
    >>> network = create_model("unet", in_channels=1, outputs=2, width=8)
    >>> network(torch.zeros(1, 1, 32, 32)).shape
    torch.Size([1, 2, 32, 32])
    """
    for name, number in (("in_channels", in_channels), ("outputs", 1 if outputs is None else outputs)):
        if not isinstance(number, int) or number < 1:
            raise RecipeError(f"{name} is {quoted(number)}.", fix="Give a whole number from 1.")
    chosen = architecture_named(str(architecture)) if isinstance(architecture, str | Path) else architecture
    if not isinstance(chosen, Genotype | Settings | Pruned | Ensemble):
        raise RecipeError(f"{quoted(chosen)} is not a network.", fix="Give a name of list_models(), or a genotype.")
    if settings:
        chosen = _with_settings(chosen, settings)
    wanted = published_outputs(chosen) if outputs is None else outputs
    return build_network(chosen, in_channels=in_channels, outputs=wanted, norm=norm)


def _with_settings(model: Architecture, changes: dict[str, Any]) -> Architecture:
    if isinstance(model, Pruned):
        raise RecipeError(f"{model.name} is pruned, and keeps its settings.", fix=f"Leave {min(changes)} out.")
    if isinstance(model, Ensemble):
        raise RecipeError(f"{model.name} is trained, and keeps its settings.", fix=f"Leave {min(changes)} out.")
    if isinstance(model, Genotype):
        return model.with_settings(**changes)
    kind = type(model)
    for name in changes:
        if name not in kind.model_fields:
            others = [*kind.model_fields.keys() - {"name"}, "in_channels", "outputs", "norm"]
            raise RecipeError(f"{model.name} has no setting {name}.", fix=did_you_mean(name, others))
    try:
        return kind.model_validate({**model.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, message = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        raise RecipeError(f"{model.name}: {where} is {quoted(first['input'])}.", fix=f"{message}.") from None


def architecture_named(name: str) -> Architecture:
    """Returns a baseline as in its paper, the genotype of a name or path, or what a run of a pruned network trains.

    Raises:
        GenotypeError, RecipeError: there is none.
        RunError: what was cut away of a pruned network is damaged.
    """
    if name in models:
        return cast(Settings, models.choose(name))
    for file, read in ((STRUCTURE, read_pruned), (ENSEMBLE, read_ensemble)):
        if exists(Path(name) / file):
            from medarts.config import load  # not above: the recipe looks up the models

            return read(Path(name), load(Path(name) / "recipe.yaml", kept=True).train.model or load_genotype(name))
    if name in zoo() or "/" in name or "\\" in name or Path(name).suffix or Path(name).exists():
        return load_genotype(name)
    raise RecipeError(f"There is no network '{name}'.", fix=did_you_mean(name, (*models.names(), *zoo())))


def build_network(
    architecture: Architecture, *, in_channels: int, outputs: int, norm: "Norm | None" = None
) -> "Network":
    """Returns a network; see `create_model`."""
    options: dict[str, Any] = {"in_channels": in_channels, "outputs": outputs, "norm": norm}
    if isinstance(architecture, Pruned):
        network = build_network(without_weights(architecture.base), **options)
        architecture.cut(network, in_channels=in_channels, outputs=outputs)
        return network
    if isinstance(architecture, Ensemble):
        from medarts.network.ensemble import ensemble_of  # which needs PyTorch

        members = [build_network(without_weights(architecture.base), **options) for _ in range(architecture.members)]
        return ensemble_of(members, exclusive=architecture.exclusive)
    if isinstance(architecture, Genotype):
        return space_of(architecture).network(architecture, **options)
    model = models.get(architecture.name)
    if "norm" not in signature(model).parameters:
        if norm is not None:
            raise RecipeError(f"{architecture.name} has no choice of its norms.", fix="Leave norm (train.norm) out.")
        del options["norm"]
    return cast("Network", model(architecture, **options))


def network_of(recipe: "Recipe", architecture: Architecture) -> "Network":
    """Returns the network that a recipe trains; see `create_model`."""
    return build_network(
        architecture, in_channels=recipe.data.in_channels, outputs=recipe.data.outputs, norm=recipe.train.norm
    )


def task_of(architecture: Architecture) -> "Task":
    """Returns what a network is for."""
    if isinstance(architecture, Pruned | Ensemble):
        return task_of(architecture.base)
    if isinstance(architecture, Genotype):
        return space_of(architecture).task
    return cast("Task", models.entry(architecture.name).about["task"])


def published_outputs(architecture: Architecture) -> int:
    """Returns the outputs of the published network, such as the 14 findings of ChestX-ray14."""
    if isinstance(architecture, Pruned | Ensemble):
        return published_outputs(architecture.base)
    if isinstance(architecture, Genotype):
        return space_of(architecture).published_outputs(architecture)
    return int(models.entry(architecture.name).about["outputs"])


def published_size(architecture: Architecture) -> int:
    """Returns the height and width of the images of the published network, in pixels."""
    if isinstance(architecture, Pruned | Ensemble):
        return published_size(architecture.base)
    if isinstance(architecture, Genotype):
        return space_of(architecture).published_size(architecture)
    return int(models.entry(architecture.name).about["size"])


def scaled(architecture: A) -> tuple[A, ...]:
    """Returns a network with every width to which a budget can scale it, the narrowest first.

    A baseline has the widths of `medarts.spaces.WIDTHS` that its settings allow. What has no width, or is pruned,
    or begins with weights of a file, stays as it is.

    >>> [settings.width for settings in scaled(architecture_named("multiresunet"))][:4]
    [4, 5, 6, 7]
    """
    if isinstance(architecture, Genotype):
        return cast("tuple[A, ...]", space_of(architecture).scaled(architecture))
    field = None if isinstance(architecture, Pruned | Ensemble) else models.entry(architecture.name).about["width"]
    if field is None or initial_weights(architecture) is not None:
        return (architecture,)
    assert isinstance(architecture, Settings)
    found = []
    for width in WIDTHS:
        with suppress(ValidationError):  # below or above the bounds of the field
            found.append(type(architecture).model_validate({**architecture.model_dump(), field: width}))
    return tuple(found)


def initial_weights(architecture: Architecture) -> Path | None:
    """Returns the file of weights that a network starts from; None where it starts at random."""
    return getattr(architecture, "weights", None) if isinstance(architecture, Settings) else None


def without_weights(architecture: Architecture) -> Architecture:
    """Returns the architecture to fill with weights of its own, not with those it began with."""
    if isinstance(architecture, Pruned | Ensemble):
        return replace(architecture, base=cast(Genotype | Settings, without_weights(architecture.base)))
    if isinstance(architecture, Genotype) or initial_weights(architecture) is None:
        return architecture
    return architecture.model_copy(update={"weights": None})
