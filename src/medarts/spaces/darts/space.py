"""The search space as others see it: published values, supernets, networks, samples and changes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, ClassVar

import numpy as np

from medarts.config import StageSettings, SupernetSettings
from medarts.config.data import Task
from medarts.errors import RecipeError
from medarts.network import check_batch_norms
from medarts.network.layers import Norm
from medarts.spaces import WIDTHS, register_space
from medarts.spaces.base import AS_DERIVED, Candidates, SearchSpace
from medarts.spaces.darts.frame import check_size, last_size
from medarts.spaces.darts.genotypes import check
from medarts.spaces.darts.network import DartsNetwork
from medarts.spaces.darts.operations import KINDS, OPERATIONS
from medarts.spaces.darts.settings import SPACE, DartsSettings, NetworkSettings, least_layers
from medarts.spaces.darts.supernet import DartsSupernet
from medarts.spaces.genotype import EDGES_PER_NODE, RANDOM, Genotype, Setting
from medarts.spaces.pieces import Piece
from medarts.spaces.sampling import (
    CandidatesOf,
    Mutation,
    cells_with_nodes,
    cheaper_setting,
    edge_changes,
    in_order,
    nearest_choices,
    operation_changes,
    random_cells,
    random_like,
    random_settings,
    repeated,
    setting_words,
    without_none,
)


@register_space(SPACE, settings=DartsSettings, default=True)
class Darts(SearchSpace):
    """The search space darts with the settings of a recipe.

    Raises:
        RecipeError: the channels cannot be cut into ``partial_channels`` parts, or the derived network has too few
            layers.
    """

    task: ClassVar[Task] = "classification"
    # What DARTS on ChestX-ray14 used: images of 224 px cropped from 256 px, batches of 16 and 32, plateau schedule. The
    # number of training epochs is this project's.
    defaults: ClassVar[Mapping[str, Any]] = {
        "data": {
            "size": 224,
            # A crop of 224 from 256 pixels moves the image by up to 16, which is 7 % of 224.
            "augmentation": {"flip": "horizontal", "transpose": False, "brightness": 0.0, "shift": 0.07},
        },
        "search": {
            "stages": [{"depth": 12, "epochs": 50, "batch": 16}],
            "loss": "bce_logits",
            "lr": 0.025,
            "lr_min": 1e-4,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "arch_lr": 3e-4,
            "arch_betas": [0.5, 0.999],
            "arch_weight_decay": 1e-3,
            "arch_after": 0,
            "mixing": {"alpha": 0.0},
        },
        "train": {
            "epochs": 100,
            "batch": 32,
            "loss": "bce_logits",
            "optimizer": "sgd",
            "lr": 0.025,
            "lr_min": 1e-5,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "schedule": "plateau",
            "plateau_epochs": 5,
        },
    }
    item_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "search.stages": {"depth": 12, "epochs": 50, "batch": 16},
    }
    relaxes = True
    has_skips = True
    operations = OPERATIONS
    free: ClassVar[frozenset[str]] = frozenset({"skip_connect", "avg_pool_3x3", "max_pool_3x3"})
    cell_inputs: ClassVar[Mapping[str, tuple[str, str]]] = dict.fromkeys(
        KINDS, ("the cell before the last", "the last cell")
    )
    cell_meanings: ClassVar[Mapping[str, str]] = {
        "normal": "keeps the resolution",
        "reduce": "halves the resolution: edges from s0 and s1 have stride 2",
    }
    has_text_form: ClassVar[bool] = True
    settings: DartsSettings

    def __init__(
        self,
        settings: DartsSettings,
        *,
        in_channels: int,
        outputs: int,
        supernet: SupernetSettings = AS_DERIVED,
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, supernet=supernet)
        part, channels = supernet.partial_channels, settings.search_channel
        if channels % part:
            raise RecipeError(
                f"search.supernet.partial_channels {part} does not divide space.search_channel {channels}.",
                fix=f"Use a search_channel that {part} divides.",
            )
        _check_layers("space.layers", settings.layers, settings)

    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses a stage of too few cells or unknown sets, or whose norms would see single values.

        Raises:
            RecipeError: it is one.
        """
        _check_layers("search.stages depth", stage.depth, self.settings)
        for name in stage.keep:
            if name not in KINDS:
                raise RecipeError(
                    f"search.stages keep names the unknown set '{name}'.", fix=f"Use {' or '.join(KINDS)}."
                )
        check_size(self.settings.stem, size)
        if fewest == 1 and last_size(self.settings.stem, size) == 1:
            raise RecipeError(
                f"With data.size {size} the last cell sees one pixel, and a batch or a part of one has one image "
                f"(search.stages batch {stage.batch}, accumulate {stage.accumulate}; evaluation.batch): a batch norm "
                "of one value has no statistics.",
                fix="Use larger images, larger batches or fewer parts.",
            )

    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> DartsSupernet:
        """Returns a fresh supernet with as many cells as the stage has depth."""
        return DartsSupernet(
            self.settings,
            depth=stage.depth,
            candidates=candidates,
            in_channels=self.in_channels,
            outputs=self.outputs,
            supernet=self.supernet_settings,
        )

    def operation_pieces(self, stage: StageSettings, *, size: int, norm: Norm | None) -> Mapping[str, Counter[Piece]]:
        """Returns all pieces of an operation of a kind of cell and stride, of the network that is derived."""
        from medarts.spaces.darts.pieces import operation_pieces

        return operation_pieces(self.settings, size=size)

    @classmethod
    def settings_of(cls, genotype: Genotype) -> DartsSettings:
        """Returns the settings of a genotype as the section of a recipe; what the search alone uses has its default."""
        return DartsSettings(**asdict(check(genotype)), operations=dict(genotype.candidates))

    @classmethod
    def network(cls, genotype: Genotype, *, in_channels: int, outputs: int, norm: Norm | None = None) -> DartsNetwork:
        """Returns the network of a genotype; its norms are batch norms."""
        check_batch_norms(norm, genotype.name)
        return DartsNetwork(genotype, in_channels=in_channels, outputs=outputs)

    @classmethod
    def random_genotype(cls, like: Genotype, *, seed: int) -> Genotype:
        """Returns a genotype with the settings of another and its cells sampled uniformly.

        Every node of a cell reads two earlier states, each through one of the candidates.
        """
        cells = random_cells(
            KINDS,
            check(like).intermediate_nodes,
            candidates=_candidates(like.candidates),
            generator=np.random.default_rng(seed),
        )
        return random_like(like, cells, seed=seed)

    @classmethod
    def sample(cls, settings: DartsSettings, *, seed: int) -> Genotype:
        """Returns a genotype of random cells, layers, nodes, and with an auxiliary head or without."""
        of_network = NetworkSettings(
            stem=settings.stem,
            init_channel=settings.init_channel,
            drop_path_prob=settings.drop_path_prob,
            **random_settings(settings.choices, seed=seed),
        )
        cells = random_cells(
            KINDS,
            of_network.intermediate_nodes,
            candidates=_candidates(settings.operations),
            generator=np.random.default_rng(seed),
        )
        return Genotype(
            name=f"{RANDOM}-{seed}",
            space=SPACE,
            cells=cells,
            settings=of_network.to_mapping(),
            provenance={"source": RANDOM, "seed": seed},
            candidates=settings.operations,
        )

    @classmethod
    def changes(
        cls, genotype: Genotype, settings: DartsSettings, generator: np.random.Generator
    ) -> Mapping[str, Sequence[Mutation]]:
        """Returns genotypes with another operation, another state that an edge reads, or another macro setting."""
        candidates = _candidates(settings.operations)
        macro = [
            Mutation(
                setting_words(name, present, other),
                with_setting(genotype, name, other, candidates=candidates, generator=generator),
            )
            for name, present, other in nearest_choices(settings.choices, check(genotype).to_mapping())
        ]
        return {
            "operation": [*operation_changes(genotype, candidates)],
            "edge": [*edge_changes(genotype, candidates, generator)],
            "setting": macro,
        }

    @classmethod
    def reductions(cls, genotype: Genotype, settings: DartsSettings) -> Iterator[Mutation]:
        """Yields genotypes with fewer layers, then fewer nodes of the cells, then without auxiliary head."""
        candidates = _candidates(settings.operations)

        def reduce(genotype: Genotype) -> Mutation | None:
            return cheaper_setting(
                settings.choices,
                check(genotype).to_mapping(),
                lambda name, other: with_setting(
                    genotype, name, other, candidates=candidates, generator=np.random.default_rng(0)
                ),
            )

        return repeated(genotype, reduce)

    @classmethod
    def reachable(cls, genotype: Genotype) -> Genotype:
        """Returns a genotype with all settings, and the edges of a node in the order of their states."""
        return replace(
            genotype,
            settings=check(genotype).to_mapping(),
            cells={kind: tuple(map(in_order, cell)) for kind, cell in genotype.cells.items()},
        )

    @classmethod
    def pieces(
        cls, genotype: Genotype, *, in_channels: int, outputs: int, size: int, norm: Norm | None = None
    ) -> Counter[Piece]:
        """Returns stem, classifier, and of every cell its inputs, operations and sums."""
        from medarts.spaces.darts.pieces import pieces

        check_batch_norms(norm, genotype.name)
        return pieces(genotype, in_channels=in_channels, outputs=outputs, size=size)

    @classmethod
    def scaled(cls, genotype: Genotype) -> tuple[Genotype, ...]:
        """Returns a genotype at every C of the ladder."""
        return tuple(genotype.with_settings(init_channel=channels) for channels in WIDTHS)

    @classmethod
    def published_outputs(cls, genotype: Genotype) -> int:
        """Returns the 14 findings of ChestX-ray14, or the 10 classes of CIFAR."""
        return 10 if genotype.settings.get("stem") == "cifar" else 14

    @classmethod
    def published_size(cls, genotype: Genotype) -> int:
        """Returns the size of ChestX-ray14 as trained on, or of CIFAR."""
        return 32 if genotype.settings.get("stem") == "cifar" else 224

    @classmethod
    def from_text(cls, text: str, *, name: str, origin: str) -> Genotype:
        """Reads the one line in which DARTS code prints a genotype."""
        from medarts.spaces.darts.text import from_text

        return from_text(text, name=name, origin=origin)

    @classmethod
    def to_text(cls, genotype: Genotype) -> str | None:
        """Returns a genotype as the line that DARTS code prints; None where a node has not two edges."""
        from medarts.spaces.darts.text import to_text

        edges = {len(node) for cell in genotype.cells.values() for node in cell}
        return to_text(genotype) if edges == {EDGES_PER_NODE} else None


def with_setting(
    genotype: Genotype,
    name: str,
    value: Setting,
    *,
    candidates: CandidatesOf,
    generator: np.random.Generator,
) -> Genotype:
    """Returns a genotype with another value of a macro setting, and the cells that it then has.

    Args:
        genotype: which has to fit the space.
        name: of the setting.
        value: of it.
        candidates: operations of the edges of nodes that are added.
        generator: of the random choice of these edges.
    """
    changed = replace(genotype, settings={**check(genotype).to_mapping(), name: value})
    if name != "intermediate_nodes":
        return changed
    cells = cells_with_nodes(genotype.cells, int(value), candidates=candidates, generator=generator)
    return replace(changed, cells=cells)


def _candidates(operations: Mapping[str, tuple[str, ...]]) -> CandidatesOf:
    """Returns what can be used on the edges of a kind of cell, the same from all states.

    Args:
        operations: kind of cell -> its candidates, for those that have others than the published.
    """
    return lambda kind, state: without_none(operations.get(kind, OPERATIONS[kind].published))


def _check_layers(field: str, layers: int, settings: DartsSettings) -> None:
    least = least_layers(settings.stem)
    if layers < least:
        raise RecipeError(
            f"{field} is {layers}, too few cells for the reductions behind the {settings.stem} stem.",
            fix=f"Use {least} or more.",
        )
