"""The search space as others see it: published values, supernets, networks, samples and changes."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from medarts.config import StageSettings, SupernetSettings
from medarts.config.data import Task
from medarts.errors import RecipeError, did_you_mean
from medarts.network.layers import Norm
from medarts.spaces import WIDTHS, register_space
from medarts.spaces.base import AS_DERIVED, Candidates, SearchSpace
from medarts.spaces.genotype import RANDOM, Cell, Genotype
from medarts.spaces.lattice import Lattice, Path
from medarts.spaces.nas_wdan.genotypes import (
    candidates_of,
    check,
    path_changes,
    path_words,
    paths_of,
    run_edges,
    with_setting,
)
from medarts.spaces.nas_wdan.lattice import (
    STEM,
    Node,
    all_paths,
    check_lattice_size,
    divisor_of,
    head_name,
    head_nodes,
    lattice_inputs,
    random_paths,
    to_kept,
    without_cells,
)
from medarts.spaces.nas_wdan.network import NasWdanNetwork
from medarts.spaces.nas_wdan.operations import OPERATIONS, TRANSITIONS
from medarts.spaces.nas_wdan.settings import DROPPED, SPACE, UNSET, LatticeSettings, NasWdanSettings
from medarts.spaces.nas_wdan.supernet import NasWdanSupernet
from medarts.spaces.pieces import Piece
from medarts.spaces.sampling import (
    Mutation,
    cheaper_setting,
    edge_changes,
    nearest_choices,
    operation_changes,
    random_cells,
    random_like,
    random_settings,
    repeated,
    setting_words,
)


@register_space(SPACE, settings=NasWdanSettings, default=True)
class NasWdan(SearchSpace):
    """The search space nas-wdan with the settings of a recipe.

    Raises:
        RecipeError: the channels cannot be cut into ``partial_channels`` parts.
    """

    task: ClassVar[Task] = "segmentation"
    # Published (MixSearch, arXiv 2102.13280, experiments). Not published, and so not here: derive (published is all),
    # the augmentation, gradient clipping.
    defaults: ClassVar[Mapping[str, Any]] = {
        "search": {
            "stages": [
                {"depth": 4, "epochs": 80, "batch": 24, "keep": {"down": 4, "normal": 4, "up": 2}},
                {"depth": 5, "epochs": 80, "batch": 12},
            ],
            "loss": "bce_logits",
            "lr": 0.025,
            "lr_min": 1e-5,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "arch_lr": 2e-4,
            "arch_betas": [0.5, 0.999],
            "arch_weight_decay": 1e-3,
            "arch_after": 10,
            "mixing": {"alpha": 0.5},
        },
        "train": {
            "epochs": 1600,
            "batch": 8,
            "loss": "bce_dice",
            "optimizer": "sgd",
            "lr": 4e-3,
            "lr_min": 1e-5,
            "momentum": 0.9,
            "weight_decay": 3e-4,
            "schedule": "cosine",
        },
    }
    item_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "search.stages": {"depth": 4, "epochs": 80, "batch": 12},
    }
    relaxes = True
    has_skips = True
    has_paths = True
    unset = UNSET
    operations = OPERATIONS
    free: ClassVar[frozenset[str]] = frozenset({"identity", "avg_pool", "max_pool"})
    cell_inputs: ClassVar[Mapping[str, tuple[str, str]]] = {
        "down": ("node (t−2, l)", "node (t−1, l−1)"),
        "normal": ("node (t−4, l)", "node (t−2, l)"),
        "up": ("node (t−2, l)", "node (t−1, l+1)"),
    }
    cell_meanings: ClassVar[Mapping[str, str]] = {
        "down": "halves the resolution: edges from s1 are down operations",
        "normal": "keeps the resolution",
        "up": "doubles the resolution: edges from s1 are up operations",
    }
    settings: NasWdanSettings

    def __init__(
        self,
        settings: NasWdanSettings,
        *,
        in_channels: int,
        outputs: int,
        supernet: SupernetSettings = AS_DERIVED,
    ) -> None:
        super().__init__(settings, in_channels=in_channels, outputs=outputs, supernet=supernet)
        part, channels = supernet.partial_channels, settings.init_channel
        if channels % part or channels // part % settings.shuffle_groups:
            raise RecipeError(
                f"search.supernet.partial_channels {part} cuts space.init_channel {channels} into parts that are not "
                f"whole multiples of space.shuffle_groups {settings.shuffle_groups}.",
                fix=f"Use an init_channel that {part * settings.shuffle_groups} divides.",
            )

    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses lattices below depth 3, unknown sets in ``keep``, and sizes that the lattice cannot halve."""
        if stage.depth < 3:
            raise RecipeError(
                f"A stage of search.stages has depth {stage.depth}.", fix="A lattice has a depth from 3 up."
            )
        for name in stage.keep:
            if name not in TRANSITIONS:
                raise RecipeError(
                    f"keep of search.stages names the unknown set '{name}'.", fix=did_you_mean(name, TRANSITIONS)
                )
        check_lattice_size(size, stage.depth, stem_stride=self.settings.stem_stride)

    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> NasWdanSupernet:
        """Returns a fresh supernet of the depth of ``stage``."""
        return NasWdanSupernet(
            self._lattice(stage),
            operations=self.settings.operations,
            candidates=candidates,
            in_channels=self.in_channels,
            outputs=self.outputs,
            supernet=self.supernet_settings,
        )

    def _lattice(self, stage: StageSettings) -> LatticeSettings:
        return LatticeSettings(
            depth=stage.depth,
            init_channel=self.settings.init_channel,
            double_down_channel=self.settings.double_down_channel,
            intermediate_nodes=self.settings.intermediate_nodes,
            shuffle_groups=self.settings.shuffle_groups,
            deep_supervision=self.settings.deep_supervision,
            dropout_prob=self.settings.dropout_prob,
            stem_stride=self.settings.stem_stride,
            stem_channels=self.settings.stem_channels,
            full_size_head=self.settings.full_size_head,
        )

    def operation_pieces(self, stage: StageSettings, *, size: int, norm: Norm | None) -> Mapping[str, Counter[Piece]]:
        """Returns the piece of every operation of a set in the cells of a level."""
        from medarts.spaces.nas_wdan.pieces import operation_pieces

        return operation_pieces(self._lattice(stage), self.settings.operations, size=size, norm=norm or "group")

    @classmethod
    def settings_of(cls, genotype: Genotype) -> NasWdanSettings:
        """Returns the settings of a genotype as the section of a recipe."""
        settings = check(genotype)
        given = {name: getattr(settings, name) for name in NasWdanSettings.model_fields if hasattr(settings, name)}
        return NasWdanSettings(**given, operations=dict(genotype.candidates))

    @classmethod
    def network(cls, genotype: Genotype, *, in_channels: int, outputs: int, norm: Norm | None = None) -> NasWdanNetwork:
        """Returns the network of a genotype; its norms are group norms by default."""
        return NasWdanNetwork(genotype, in_channels=in_channels, outputs=outputs, norm=norm or "group")

    @classmethod
    def random_genotype(cls, like: Genotype, *, seed: int) -> Genotype:
        """Returns a genotype with the settings of another, its cells and paths sampled uniformly.

        Every node of a cell reads two earlier states, each through one of the candidates that can be used there. Every
        node of the lattice keeps as many cells as the other genotype keeps at most at one, or all where it has fewer;
        so every node that is read has one.
        """
        settings, generator = check(like), np.random.default_rng(seed)
        cells = random_cells(
            TRANSITIONS, settings.intermediate_nodes, candidates=candidates_of(like.candidates), generator=generator
        )
        most = max(len(entry.transitions) for entry in like.paths)
        paths = random_paths(settings.depth, partial(min, most), generator)
        return random_like(like, cells, seed=seed, paths=to_kept(paths))

    @classmethod
    def sample(cls, settings: NasWdanSettings, *, seed: int) -> Genotype:
        """Returns a genotype of random cells, paths, depth, nodes, growth of C and heads.

        Every node of the lattice keeps one or more of its cells; each number has equal chances.
        """
        lattice = LatticeSettings(
            init_channel=settings.init_channel,
            shuffle_groups=settings.shuffle_groups,
            dropout_prob=settings.dropout_prob,
            **random_settings(settings.choices, seed=seed),
        )
        generator = np.random.default_rng(seed)
        cells = random_cells(
            TRANSITIONS,
            lattice.intermediate_nodes,
            candidates=candidates_of(settings.operations),
            generator=generator,
        )
        paths = random_paths(lattice.depth, lambda most: int(generator.integers(1, most + 1)), generator)
        return Genotype(
            name=f"{RANDOM}-{seed}",
            space=SPACE,
            cells=cells,
            settings=lattice.to_mapping(),
            paths=to_kept(paths),
            provenance={"source": RANDOM, "seed": seed},
            candidates=settings.operations,
        )

    @classmethod
    def changes(
        cls, genotype: Genotype, settings: NasWdanSettings, generator: np.random.Generator
    ) -> Mapping[str, Sequence[Mutation]]:
        """Returns genotypes with another operation, state that an edge reads, path of the lattice, or macro setting."""
        candidates, lattice = candidates_of(settings.operations), check(genotype)
        macro = [
            Mutation(
                setting_words(name, present, other),
                with_setting(genotype, name, other, candidates=candidates, generator=generator),
            )
            for name, present, other in nearest_choices(settings.choices, asdict(lattice))
        ]
        return {
            "operation": [*operation_changes(genotype, candidates)],
            "edge": [*edge_changes(genotype, candidates, generator)],
            "path": [*path_changes(genotype, lattice)],
            "setting": macro,
        }

    @classmethod
    def reductions(cls, genotype: Genotype, settings: NasWdanSettings) -> Iterator[Mutation]:
        """Yields genotypes with fewer and fewer paths and, where every node has one left, with a cheaper macro setting.

        First go the normal paths, those into the last nodes first, then those from the level below, then those from
        above. Settings follow in the order of ``space.choices``.
        """
        candidates = candidates_of(settings.operations)

        def reduce(genotype: Genotype) -> Mutation | None:
            lattice, paths = check(genotype), paths_of(genotype)
            for kind in DROPPED:
                nodes = [node for node, kinds in paths.items() if kind in kinds and len(kinds) > 1]
                if nodes:
                    node = max(nodes)
                    left = {**paths, node: tuple(each for each in paths[node] if each != kind)}
                    return Mutation(path_words(kind, node, "removed"), replace(genotype, paths=to_kept(left)))
            return cheaper_setting(
                settings.choices,
                asdict(lattice),
                lambda name, other: with_setting(
                    genotype, name, other, candidates=candidates, generator=np.random.default_rng(0)
                ),
                larger=("stem_stride",),
            )

        return repeated(genotype, reduce)

    def check_choices(self, size: int, *, field: str) -> None:
        """Refuses depths of lattices that cannot halve the images so often.

        Raises:
            RecipeError: ``size`` is not a multiple of what one of them divides images by.
        """
        choices = self.settings.choices
        for depth in choices.depth:
            divisor = divisor_of(depth, stem_stride=max(choices.stem_stride))
            if size % divisor:
                raise RecipeError(
                    f"space.choices.depth has {depth}, but images of {field} {size} cannot be halved "
                    f"{divisor.bit_length() - 1} times.",
                    fix=f"Leave {depth} out, or use a size that {divisor} divides.",
                )

    @classmethod
    def reachable(cls, genotype: Genotype) -> Genotype:
        """Returns a genotype with all settings, the paths that reach a head, and the edges that their cells run."""
        settings, paths = check(genotype), paths_of(genotype)
        cells: dict[str, Cell] = {}
        for kind in TRANSITIONS:
            used = [node for node, transitions in paths.items() if kind in transitions]
            first = (lattice_inputs(node, kind)[0] for node in used)
            # Operations that are held for an absent s0 count as parameters of the network.
            reads_s0 = settings.absent_edges or any(node in paths or node == STEM for node in first)
            if used:
                cells[kind] = run_edges(genotype.cells[kind], reads_s0=reads_s0)
        return replace(genotype, settings=settings.to_mapping(), cells=cells, paths=to_kept(paths))

    @classmethod
    def pieces(
        cls, genotype: Genotype, *, in_channels: int, outputs: int, size: int, norm: Norm | None = None
    ) -> Counter[Piece]:
        """Returns stem, head, and of every cell that leads to it its inputs, operations and sums."""
        from medarts.spaces.nas_wdan.pieces import pieces

        return pieces(genotype, in_channels=in_channels, outputs=outputs, size=size, norm=norm or "group")

    @classmethod
    def scaled(cls, genotype: Genotype) -> tuple[Genotype, ...]:
        """Returns a genotype at every C of the ladder that shuffle_groups divides."""
        groups = check(genotype).shuffle_groups
        return tuple(genotype.with_settings(init_channel=channels) for channels in WIDTHS if channels % groups == 0)

    @classmethod
    def lattice_of(
        cls, genotype: Genotype, *, without: Sequence[str] = (), heads: Sequence[str] | None = None
    ) -> Lattice:
        """Returns the lattice of a genotype, for drawings."""
        settings = check(genotype)
        depth = settings.depth
        ends = head_nodes(depth, deep_supervision=settings.deep_supervision)
        last = ends[-1]
        kept: Mapping[Node, Sequence[str]]
        kept = {Node(entry.layer, entry.level): entry.transitions for entry in genotype.paths}
        if without or heads is not None:
            ends = tuple(node for node in ends if heads is None or head_name(node) in heads)
            kept = without_cells(paths_of(genotype), without, ends)
        paths = [
            Path(lattice_inputs(node, kind)[1], node, kind, kept=kind in kept.get(node, ()))
            for node, kinds in all_paths(depth).items()
            for kind in kinds
        ]
        full_size = last if settings.full_size_head and last in ends else None
        return Lattice(tuple(paths), ends, stem_stride=settings.stem_stride, full_size=full_size)
