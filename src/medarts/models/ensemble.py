"""The networks of all folds as one: what it is made by, and the file that says so.

The file, `FILE` of a run or a package, is JSON:

    {"format": "medarts-ensemble", "version": 1, "members": 5, "exclusive": false}

What the members are, the genotype or the model of the recipe, stands beside it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medarts.config.explaining import first_mistake
from medarts.errors import RunError
from medarts.registry import Settings
from medarts.spaces.genotype import Genotype
from medarts.system.files import read_of_run

FILE = "ensemble.json"

_COPY_AGAIN = "Copy the run again."


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["medarts-ensemble"] = "medarts-ensemble"
    version: Literal[1] = 1
    members: Annotated[int, Field(ge=2, le=100)]
    exclusive: bool


@dataclass(frozen=True)
class Ensemble:
    """What an ensemble is made by.

    Attributes:
        base: what every member is.
        members: their number.
        exclusive: whether the outputs are exclusive classes, whose probabilities are a softmax; see
            `medarts.network.ensemble`.
    """

    base: Genotype | Settings
    members: int
    exclusive: bool

    @property
    def name(self) -> str:
        """The name of the members, and their number."""
        return f"{self.base.name}-{self.members}-folds"

    def to_json(self) -> str:
        """Returns the content of the file."""
        return json.dumps(_File(members=self.members, exclusive=self.exclusive).model_dump()) + "\n"


def ensemble_from_json(
    text: bytes | str, base: Genotype | Settings, *, origin: str, fix: str = _COPY_AGAIN
) -> Ensemble:
    """Reads the content of the file.

    Args:
        text: the content.
        base: what every member is.
        origin: names the file in errors.
        fix: what to do where it is damaged.

    Raises:
        RunError: it is damaged, or of a version that this medarts cannot read.
    """
    try:
        content = _File.model_validate_json(text)
    except ValidationError as error:
        raise RunError(f"{origin} is damaged: {first_mistake(error)}.", fix=fix) from None
    return Ensemble(base, content.members, content.exclusive)


def read_ensemble(folder: Path, base: Genotype | Settings) -> Ensemble:
    """Reads the file of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    path = folder / FILE
    return ensemble_from_json(read_of_run(path), base, origin=str(path))
