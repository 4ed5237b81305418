"""A pruned network: a genotype or a baseline of which parts and channels were cut away, and the file that says which.

The file, `FILE` of a run or a package, is JSON:

    {"format": "medarts-structure", "version": 1, "name": "unet-l1-50",
     "structure": {"layers": {"encoder.0.0.conv": {"out": 5}, ...}},
     "history": [{"method": {"name": "l1"}, "keep": {"flops": 0.5}, "steps": 1, "epochs": 20, "finetune_lr": 0.1}]}

What was pruned, the genotype or the model of the recipe, stands beside it.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from medarts.config.explaining import first_mistake
from medarts.errors import RunError
from medarts.registry import Settings
from medarts.spaces.genotype import Genotype
from medarts.system.files import read_of_run
from medarts.system.names import NAME

if TYPE_CHECKING:  # both need PyTorch, which prediction with an exported network does without
    from medarts.network import Network
    from medarts.network.structure import Structure

FILE = "structure.json"

_FORMAT, _VERSION = "medarts-structure", 1
_COPY_AGAIN = "Copy the run again."


@dataclass(frozen=True)
class Pruned:
    """What a pruned network is made by.

    Attributes:
        name: what people call it, such as unet-l1-50.
        base: what was pruned.
        structure: what was cut away.
        history: what was asked for when it was pruned, first to last: method, target, and what decides the trainings.
            Prunings of other seeds that were asked for the same are the same.
    """

    name: str
    base: Genotype | Settings
    structure: "Structure"
    history: tuple[Mapping[str, Any], ...] = ()

    def cut(self, network: "Network", *, in_channels: int, outputs: int) -> None:
        """Cuts the network that ``base`` builds, in place.

        Raises:
            RunError: the structure does not fit it.
        """
        from medarts.network.structure import check_cut

        try:
            self.structure.apply(network)
            check_cut(network, in_channels=in_channels, outputs=outputs)
        except RunError as error:
            raise RunError(
                f"The structure of {self.name} does not fit {self.base.name}: {error.problem}", fix=error.fix
            ) from None

    def to_json(self) -> str:
        """Returns the content of the file, a layer a line."""
        structure = self.structure.model_dump(mode="json", exclude_defaults=True, exclude={"layers"})
        layers = _object({path: json.dumps(sizes) for path, sizes in self.structure.layers.items()}, depth=2)
        parts = {
            "format": json.dumps(_FORMAT),
            "version": json.dumps(_VERSION),
            "name": json.dumps(self.name),
            "structure": _object(
                {**{key: json.dumps(value) for key, value in structure.items()}, "layers": layers}, depth=1
            ),
            "history": json.dumps([dict(record) for record in self.history]),
        }
        return _object(parts, depth=0) + "\n"


def _object(parts: Mapping[str, str], *, depth: int) -> str:
    """Returns a JSON object whose values are JSON already, a key a line."""
    lines = ",".join(f"\n{' ' * (depth + 1)}{json.dumps(key)}: {value}" for key, value in parts.items())
    return f"{{{lines}\n{' ' * depth}}}" if parts else "{}"


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["medarts-structure"]
    version: Literal[1]
    name: Annotated[str, Field(pattern=f"^(?:{NAME})$", max_length=200)]
    structure: "Structure"
    history: tuple[dict[str, JsonValue], ...] = ()


def pruned_from_json(text: bytes | str, base: Genotype | Settings, *, origin: str, fix: str = _COPY_AGAIN) -> Pruned:
    """Reads the content of the file.

    Args:
        text: the content.
        base: what was pruned.
        origin: names the file in errors.
        fix: what to do where it is damaged.

    Raises:
        RunError: it is damaged, or of a version that this medarts cannot read.
    """
    from medarts.network.structure import Structure

    _File.model_rebuild(_types_namespace={"Structure": Structure})
    try:
        content = _File.model_validate_json(text)
    except ValidationError as error:
        raise RunError(f"{origin} is damaged: {first_mistake(error)}.", fix=fix) from None
    return Pruned(content.name, base, content.structure, content.history)


def read_pruned(folder: Path, base: Genotype | Settings) -> Pruned:
    """Reads the file of a run.

    Raises:
        RunError: it is missing or damaged.
    """
    path = folder / FILE
    return pruned_from_json(read_of_run(path), base, origin=str(path))
