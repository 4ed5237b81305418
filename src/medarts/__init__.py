"""medarts designs compact neural networks for medical images by differentiable architecture search.

    searched = medarts.search("my-recipe.yaml")
    trained = medarts.train(searched)
    print(medarts.evaluate(trained).summary)
    probabilities = medarts.load(trained).predict(image)

The verbs of the command line are functions here. ``create_model``, ``list_models`` and ``load_genotype`` give networks
and genotypes without a run, ``from_arrays`` and ``from_dataset`` take images in memory, and ``register_*`` add spaces,
operations, models, losses, metrics, data sources, relaxations, regularizers, selections and criteria of pruning of your
own.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medarts.api import (
        benchmark,
        compare,
        cost,
        doctor,
        evaluate,
        export,
        generalize,
        init,
        noise,
        pack,
        plan,
        plan_study,
        predict,
        prune,
        report,
        resume,
        search,
        show,
        train,
    )
    from medarts.data.arrays import from_arrays, from_dataset
    from medarts.data.sources import register_source
    from medarts.deploy.model import load
    from medarts.errors import MedartsError
    from medarts.losses import register_loss
    from medarts.metrics import register_metric
    from medarts.models import create_model, list_models, register_model
    from medarts.nas.regularizers import register_regularizer
    from medarts.nas.selection import register_selection
    from medarts.pruning.criteria import register_criterion
    from medarts.registry import Settings
    from medarts.spaces import load_genotype, register_operation, register_space
    from medarts.spaces.relaxations import register_relaxation

_ROOMS = {
    "medarts.api": (
        "benchmark", "compare", "cost", "doctor", "evaluate", "export", "generalize", "init", "noise", "pack", "plan",
        "plan_study", "predict", "prune", "report", "resume", "search", "show", "train",
    ),
    "medarts.data.arrays": ("from_arrays", "from_dataset"),
    "medarts.data.sources": ("register_source",),
    "medarts.deploy.model": ("load",),
    "medarts.errors": ("MedartsError",),
    "medarts.losses": ("register_loss",),
    "medarts.metrics": ("register_metric",),
    "medarts.models": ("create_model", "list_models", "register_model"),
    "medarts.nas.regularizers": ("register_regularizer",),
    "medarts.nas.selection": ("register_selection",),
    "medarts.pruning.criteria": ("register_criterion",),
    "medarts.registry": ("Settings",),
    "medarts.spaces": ("load_genotype", "register_operation", "register_space"),
    "medarts.spaces.relaxations": ("register_relaxation",),
}  # fmt: skip
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}

__all__ = [
    "MedartsError", "Settings", "__version__", "benchmark", "compare", "cost", "create_model", "doctor", "evaluate",
    "export", "from_arrays", "from_dataset", "generalize", "init", "list_models", "load", "load_genotype", "noise",
    "pack", "plan", "plan_study", "predict", "prune", "register_criterion", "register_loss", "register_metric",
    "register_model", "register_operation", "register_regularizer", "register_relaxation", "register_selection",
    "register_source", "register_space", "report", "resume", "search", "show", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Imports a public name when it is first used: torch alone takes a second."""
    if name not in _HOMES:
        raise AttributeError(f"module 'medarts' has no attribute {name!r}")
    try:
        value = getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        from medarts.errors import OF_TRAINING, not_installed

        if error.name not in OF_TRAINING:
            raise
        raise not_installed(error.name) from None
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
