"""The typed recipe: what to do, on which data, with which values."""

from medarts.recipe.reading import apply_overrides, fingerprint, load, parse, to_yaml
from medarts.recipe.sections import (
    AugmentationSettings,
    BatchSettings,
    ComputeSettings,
    DataSettings,
    DeriveSettings,
    EvaluationSettings,
    LossName,
    MixingSettings,
    Recipe,
    SearchSettings,
    SourceSettings,
    StageSettings,
    SupernetSettings,
    TrainSettings,
    WeaveSettings,
)

__all__ = [
    "AugmentationSettings",
    "BatchSettings",
    "ComputeSettings",
    "DataSettings",
    "DeriveSettings",
    "EvaluationSettings",
    "LossName",
    "MixingSettings",
    "Recipe",
    "SearchSettings",
    "SourceSettings",
    "StageSettings",
    "SupernetSettings",
    "TrainSettings",
    "WeaveSettings",
    "apply_overrides",
    "fingerprint",
    "load",
    "parse",
    "to_yaml",
]
