"""What search spaces have in common: what a space is and a supernet, and the operations of both.

A search space is three things: a supernet, a rule that derives a genotype from it, and a network built from a
genotype. One file holds all three and registers itself:

    @register_space("my-space", settings=MySettings)
    class MySpace(SearchSpace): ...
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from medarts.config import DeriveSettings, StageSettings, SupernetSettings
from medarts.config.data import Task
from medarts.config.section import Section
from medarts.errors import MedartsError, RecipeError, did_you_mean
from medarts.network import Network
from medarts.network.layers import Norm
from medarts.registry import calling
from medarts.spaces.decisions import NOTHING, Decision, Restriction
from medarts.spaces.genotype import EDGES_PER_NODE, NEIGHBOUR, NONE, Genotype, Setting
from medarts.spaces.lattice import Lattice
from medarts.spaces.pieces import Piece
from medarts.spaces.relaxations import Draw, Relaxation, Softmax, relaxed
from medarts.spaces.sampling import Mutation
from medarts.system.process import note_extension
from medarts.system.randomness import seed_of

Candidates = Mapping[str, tuple[tuple[str, ...], ...]]
"""Operation set -> for each of its edges, the names of the operations still in the search."""

Edges = tuple[tuple[int, int], ...]
"""(node, state) of every edge of a cell."""

AS_DERIVED = SupernetSettings()
"""All channels go through the operations, as in the derived network."""

_TRIED_SIZE = 16
"""Pixels; large enough for dilated kernels, small enough to take no time."""

Builder = TypeVar("Builder")


class Operations(Mapping[str, Builder], Generic[Builder]):
    """The operations of a set: name -> what builds the module of an edge.

    Operations registered by users can be used in genotypes. A search has the published candidates, whatever else
    is registered, until its recipe names others (``space.operations``).

    Args:
        builders: the published operations.
        none: whether the candidates begin with ``none``, which gives nothing.
    """

    def __init__(self, builders: Mapping[str, Builder], *, none: bool = False) -> None:
        self._builders = dict(builders)
        self.published: tuple[str, ...] = (*([NONE] if none else []), *builders)

    def __getitem__(self, name: str) -> Builder:
        return self._builders[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._builders)

    def __len__(self) -> int:
        return len(self._builders)

    def add(self, name: str, builder: Builder) -> None:
        """Adds an operation. The same definition may be added again, as when a cell of a notebook runs twice.

        Raises:
            ValueError: there is another of that name.
        """
        known = self._builders.get(name, builder)
        if name == NONE or _origin(known) != _origin(builder):
            raise ValueError(f"there is an operation '{name}' already; choose another name")
        self._builders[name] = builder
        note_extension(_origin(builder)[0])


def make_operation(operations: Operations[Any], name: str, *given: Any, channels: int, scale: float) -> nn.Module:
    """Builds an operation of a set, and tries one that a user registered on a small image.

    Args:
        operations: the set.
        name: of the operation.
        given: what its builder takes.
        channels: of what it takes and gives.
        scale: height and width of what it gives, as a multiple of what it takes.

    Raises:
        MedartsError: the user's builder fails, or gives something else than the edge needs.
    """
    if name in operations.published:
        return cast(nn.Module, operations[name](*given))
    with calling("operation", name):
        module = operations[name](*given)
    if not isinstance(module, nn.Module):
        raise MedartsError(f"The operation '{name}' built a {type(module).__name__}.", fix="Return a torch.nn.Module.")
    with calling("operation", name), torch.no_grad():
        size, was_training = _TRIED_SIZE, module.training
        found = tuple(module.eval()(torch.zeros(1, channels, size, size)).shape)
        module.train(was_training)
    wanted = (1, channels, round(scale * size), round(scale * size))
    if found != wanted:
        raise MedartsError(
            f"The operation '{name}' gives {found} for images (1, {channels}, {size}, {size}), not {wanted}.",
            fix="Keep the channels, and the size that its set is for.",
        )
    return module


def _origin(builder: Any) -> tuple[str, str]:
    return getattr(builder, "__module__", ""), getattr(builder, "__qualname__", repr(builder))


def check_candidates(sets: Mapping[str, Operations[Any]], chosen: Mapping[str, tuple[str, ...]]) -> None:
    """Refuses candidates of a search that are not registered.

    Args:
        sets: the operations of a space.
        chosen: set -> names of its candidates.

    Raises:
        ValueError: a set or an operation does not exist, appears twice, or is ``none`` alone.
    """
    for kind, names in chosen.items():
        if kind not in sets:
            raise ValueError(f"operations names the unknown set '{kind}'. {did_you_mean(kind, sets)}")
        valid = {*sets[kind], *sets[kind].published}
        for name in names:
            if name not in valid:
                raise ValueError(f"operations.{kind} names the unknown '{name}'. {did_you_mean(name, valid)}")
        if len(set(names)) < len(names) or not set(names) - {NONE}:
            raise ValueError(f"operations.{kind} must name at least one operation beside none, and each once")


class Limit(NamedTuple):
    """The most of some operations that a cell may have."""

    names: frozenset[str]
    most: int


class Supernet(nn.Module, ABC):
    """A continuous network: weights, and architecture parameters that weigh its operations and paths.

    Attributes:
        relaxation: how the architecture parameters become weights of its mixture.
        auxiliary_skip: b; every edge carries b times its state beside its operations (DARTS-), with 0 it does not.
        restriction: what ``forward`` and ``derive`` leave out; see ``decisions``.
        costs: what operations cost, by the keys of ``SearchSpace.operation_pieces``.
        limited: names of operations, and the largest share of them among those of every cell that ``derive`` keeps;
            None allows any.
    """

    costs: Mapping[str, float] = MappingProxyType({})
    relaxation: Relaxation = Softmax()
    auxiliary_skip: float = 0.0
    restriction: Restriction = NOTHING
    limited: tuple[frozenset[str], float] | None = None
    _draw: Draw | None = None

    @contextmanager
    def drawing(self, draw: Draw) -> Iterator[None]:
        """Makes ``forward`` use the mixture of a training step inside; outside it uses that of validation."""
        self._draw = draw
        try:
            yield
        finally:
            self._draw = None

    def relaxed(self, logits: Sequence[Tensor], *, skips: Sequence[Tensor] = ()) -> list[Tensor]:
        """Returns the weights by which ``forward`` mixes now, of all sets of logits in their order.

        Args:
            logits: sets of edges x candidates, or those of one node's cells.
            skips: of the first sets, edges x candidates, where a candidate is a skip.
        """
        return relaxed(self.relaxation, logits, self._draw, skips=skips)

    def path_logits(self) -> list[Tensor]:
        """Returns the logits of the paths into every node that has a choice; none in spaces without paths."""
        return []

    def expected_cost(self) -> Tensor:
        """Returns what the operations of a derived network are expected to cost, by ``costs``; differentiable.

        Every node of a cell has as many edges as deriving keeps, each node of a lattice one path, and each of these is
        one of the candidates by their preferences.
        """
        raise NotImplementedError

    def forward(self, x_bchw: Tensor, *, all_heads: bool = False) -> Tensor | list[Tensor]:
        """Returns the logits of the last head, or of every head that counts in the loss, as ``Network`` does."""
        logits = self.forward_heads(x_bchw)
        return logits if all_heads else logits[-1]

    @abstractmethod
    def forward_heads(self, x_bchw: Tensor) -> list[Tensor]:
        """Returns the logits of every head that counts in the loss, first to last."""

    @property
    def output_biases(self) -> tuple[nn.Parameter, ...]:
        """What every head adds to its logits, see ``Network.output_biases``."""
        return ()

    @abstractmethod
    def architecture(self) -> list[nn.Parameter]:
        """Returns the architecture parameters (alphas, betas)."""

    def weights(self) -> list[nn.Parameter]:
        """Returns all other parameters."""
        architecture = {id(parameter) for parameter in self.architecture()}
        return [parameter for parameter in self.parameters() if id(parameter) not in architecture]

    @abstractmethod
    def strongest(self, keep: Mapping[str, int]) -> Candidates:
        """Returns the candidates that stay when every edge of a set keeps N of its operations.

        Args:
            keep: set -> N; sets not named keep all.
        """

    def limits(self, edges: "Edges", *, skip: str, skips: int | None) -> list[Limit]:
        """Returns the limits of a cell with these edges, for ``derive_cell``.

        Args:
            edges: (node, state) of every edge.
            skip: name of the skip.
            skips: the most skips of a cell, see ``DeriveSettings``.
        """
        found = [] if skips is None else [Limit(frozenset({skip}), skips)]
        if self.limited is not None:
            names, share = self.limited
            kept = sum(min(EDGES_PER_NODE, number) for number in Counter(node for node, _ in edges).values())
            found.append(Limit(names, int(share * kept)))
        return found

    @abstractmethod
    def derive(self, settings: DeriveSettings, *, name: str, provenance: Mapping[str, Any]) -> Genotype:
        """Returns the genotype that the architecture parameters describe now."""

    def decisions(self, settings: DeriveSettings) -> list[Decision]:
        """Returns everything that a genotype decides: operations, then edges, then paths.

        A supernet that has them takes what is left out from ``restriction``.

        Raises:
            RecipeError: this supernet knows none, which by default is so.
        """
        raise RecipeError(
            f"derive.select {settings.select.name} decides one thing after the other, which a {type(self).__name__} "
            "does not offer.",
            fix="Use derive.select=magnitude.",
        )

    @abstractmethod
    def discretise(self, genotype: Genotype | None) -> None:
        """Makes ``forward`` use the operations and paths of ``genotype`` alone, with the weights as they are.

        None returns to the continuous network. The loss of score between the two is the discretisation gap.
        """

    @abstractmethod
    def snapshot(self) -> dict[str, Any]:
        """Returns how the architecture prefers now, as it is written to ``architecture.jsonl``."""


class SearchSpace(ABC):
    """A search space: makes the supernets of a search, and knows everything of its genotypes.

    Args:
        settings: section ``space`` of a recipe.
        in_channels: channels of the images.
        outputs: channels of the logits.
        supernet: what a supernet does and the derived network does not.

    Attributes:
        name: of the space; set by its registration.
        task: what its networks are for.
        defaults: published values of the sections of a recipe, for what a recipe of this space does not set. Of lists,
            such as search.stages, an item of the recipe starts from ``defaults`` of that key, see ``item_defaults``.
        item_defaults: published values of the items of lists, by their dotted key.
        relaxes: whether its supernets weigh by ``Supernet.relaxed``, so that a recipe can choose the relaxation.
        has_skips: whether its supernets know their skips: they carry ``Supernet.auxiliary_skip``, tell
            ``Supernet.relaxed`` where skips are, and ``derive`` limits them.
        has_paths: whether its supernets have ``path_logits``.
        unset: values of the settings that a genotype need not name: those of all networks before there was the setting.
        operations: the sets of its operations, to which ``register_operation`` adds.
        free: names of its identity, skips and pooling, of which a collapsed genotype consists.
        cell_inputs: kind of cell -> what its first and second input are, for drawings.
        cell_meanings: kind of cell -> what it does, for drawings.
        has_text_form: whether genotypes have a form as text beside JSON: ``from_text`` and ``to_text``.
    """

    name: ClassVar[str]
    task: ClassVar[Task]
    defaults: ClassVar[Mapping[str, Any]] = {}
    item_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    relaxes: ClassVar[bool] = False
    has_skips: ClassVar[bool] = False
    has_paths: ClassVar[bool] = False
    unset: ClassVar[Mapping[str, Setting]] = {}
    operations: ClassVar[Mapping[str, Operations[Any]]] = {}
    free: ClassVar[frozenset[str]] = frozenset()
    cell_inputs: ClassVar[Mapping[str, tuple[str, str]]] = {}
    cell_meanings: ClassVar[Mapping[str, str]] = {}
    has_text_form: ClassVar[bool] = False

    def __init__(
        self, settings: Any, *, in_channels: int, outputs: int, supernet: SupernetSettings = AS_DERIVED
    ) -> None:
        self.settings = settings
        self.supernet_settings = supernet
        self.in_channels = in_channels
        self.outputs = outputs

    @abstractmethod
    def check(self, stage: StageSettings, size: int, *, fewest: int) -> None:
        """Refuses a stage whose supernet cannot be built, or cannot take the images.

        Args:
            stage: the stage.
            size: height and width of the images.
            fewest: images of the smallest batch, or part of one, that the supernet will see.

        Raises:
            RecipeError: a value does not fit the space, or the size the supernet.
        """

    @abstractmethod
    def supernet(self, stage: StageSettings, candidates: Candidates | None) -> Supernet:
        """Returns a fresh supernet for a stage.

        Args:
            stage: the stage.
            candidates: what the stage before it kept; None starts with all candidates of the recipe.
        """

    @classmethod
    @abstractmethod
    def settings_of(cls, genotype: Genotype) -> Section:
        """Returns the settings of a genotype as the section ``space`` of a recipe, having checked that it fits.

        Raises:
            GenotypeError: a setting, an operation, a state or a path does not exist in the space.
        """

    @classmethod
    @abstractmethod
    def network(cls, genotype: Genotype, *, in_channels: int, outputs: int, norm: Norm | None = None) -> Network:
        """Returns the network of a genotype with fresh weights.

        Args:
            genotype: of this space.
            in_channels: channels of the images.
            outputs: channels of the logits.
            norm: kind of all norms. Default: that of the paper.

        Raises:
            GenotypeError: the genotype does not fit the space.
            RecipeError: the network has no such norms.
        """

    @classmethod
    @abstractmethod
    def random_genotype(cls, like: Genotype, *, seed: int) -> Genotype:
        """Returns a genotype with the settings of another, its cells and paths sampled uniformly.

        The same seed gives the same genotype.

        Raises:
            GenotypeError: ``like`` does not fit the space.
        """

    @classmethod
    @abstractmethod
    def sample(cls, settings: Any, *, seed: int) -> Genotype:
        """Returns a random genotype: cells, paths, and of the macro settings one of their choices each.

        C is that of the settings; the operations are among their candidates. The same seed gives the same genotype.

        Args:
            settings: section ``space`` of a recipe.
            seed: of the random choice; the provenance has it, with the source "random".
        """

    @classmethod
    @abstractmethod
    def changes(
        cls, genotype: Genotype, settings: Any, generator: np.random.Generator
    ) -> Mapping[str, Sequence[Mutation]]:
        """Returns by kind of change all genotypes that differ from another in one thing; some may be the same network.

        Args:
            genotype: the other.
            settings: section ``space`` of a recipe: candidates of operations, choices of macro settings.
            generator: of what a change adds, such as the edges of another node.

        Raises:
            GenotypeError: the genotype does not fit the space.
        """

    @classmethod
    def neighbour(cls, genotype: Genotype, settings: Any, *, seed: int) -> Genotype:
        """Returns a genotype with one thing changed, so that its network is another.

        The kind of the change is drawn uniformly among those that are possible, then the change among those of its
        kind. A genotype and a seed always give the same neighbour. The provenance says which network was changed
        (``of``, ``of_fingerprint``) and how (``change``).

        Args:
            genotype: what is changed.
            settings: section ``space`` of a recipe.
            seed: of the random choice.

        Raises:
            GenotypeError: the genotype does not fit the space.
            RecipeError: the settings leave nothing to change.

        >>> from medarts.spaces.genotype import load_genotype
        >>> from medarts.spaces.darts.space import Darts
        >>> from medarts.spaces.darts.settings import DartsSettings
        >>> Darts.neighbour(load_genotype("darts_v2"), DartsSettings(), seed=0).provenance["change"]
        'normal cell, node 3: dil_conv_3x3 from node 0 -> dil_conv_3x3 from node 1'
        """
        own = cls.fingerprint(genotype)
        generator = np.random.default_rng(seed_of(seed, "neighbour", own))
        kinds = cls.changes(genotype, settings, generator)
        for kind in generator.permutation(list(kinds)):
            for place in generator.permutation(len(kinds[kind])):
                words, changed = kinds[kind][int(place)]
                found = cls.fingerprint(changed)
                if found != own:  # not so where it changed a cell or a path that no head reads
                    provenance: dict[str, str | int | float] = {
                        "source": NEIGHBOUR, "seed": seed, "of": genotype.name, "of_fingerprint": own, "change": words,
                    }  # fmt: skip
                    return replace(changed, name=f"neighbour-{found[:8]}", provenance=provenance)
        raise RecipeError(
            f"The section space leaves nothing to change in genotype '{genotype.name}'.",
            fix="Name more candidates in space.operations, or more values in space.choices.",
        )

    def check_choices(self, size: int, *, field: str) -> None:  # noqa: B027  # networks of most spaces take all sizes
        """Refuses choices of macro settings of which a network cannot take images of a size.

        Args:
            size: height and width of the images.
            field: what in the recipe gives the size.

        Raises:
            RecipeError: one is.
        """

    @classmethod
    def reachable(cls, genotype: Genotype) -> Genotype:
        """Returns what counts of a genotype, in a form that is equal for equal networks. By default, all as it is.

        Settings are complete, edges in one order, and what no head reads is left out, so it need not be a genotype that
        can be built. Name, provenance and candidates do not count.

        Raises:
            GenotypeError: the genotype does not fit the space.
        """
        return genotype

    @classmethod
    def fingerprint(cls, genotype: Genotype) -> str:
        """Returns 16 hexadecimal digits that are equal for genotypes of the same network, C included.

        Raises:
            GenotypeError: the genotype does not fit the space.
        """
        form = cls.reachable(genotype)
        # 1 and 1.0 are the same value of a setting that is a number.
        settings = {name: float(value) if type(value) is int else value for name, value in form.settings.items()}
        paths = [(kept.layer, kept.level, kept.transitions) for kept in form.paths]
        text = json.dumps([form.space, settings, form.cells, paths], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def scaled(cls, genotype: Genotype) -> tuple[Genotype, ...]:
        """Returns a genotype with every width to which a budget can scale it, the narrowest first.

        A space without such a setting gives the genotype alone.
        """
        return (genotype,)

    @classmethod
    def reductions(cls, genotype: Genotype, settings: Any) -> Iterator[Mutation]:
        """Yields ever smaller genotypes, for a budget that no width meets; each has one thing less than that before it.

        By default there are none.

        Args:
            genotype: what is reduced.
            settings: section ``space`` of a recipe; macro settings stay among its choices.

        Raises:
            GenotypeError: the genotype does not fit the space.
        """
        yield from ()

    @classmethod
    def pieces(
        cls, genotype: Genotype, *, in_channels: int, outputs: int, size: int, norm: Norm | None = None
    ) -> Counter[Piece] | None:
        """Returns what the latency of a network is the sum of, with its last head alone, and how often each occurs.

        None where the space does not say. The arguments are those of ``network``, and the height and width of the
        images.

        Raises:
            GenotypeError: the genotype does not fit the space.
        """
        return None

    def operation_pieces(self, stage: StageSettings, *, size: int, norm: Norm | None) -> Mapping[str, Counter[Piece]]:
        """Returns the pieces that a derived network has of an operation where its supernet chooses it, by a key.

        Without C being scaled. Those that cost nothing are left out. Empty where supernets have no ``expected_cost``.

        Args:
            stage: of the search.
            size: height and width of the images.
            norm: kind of all norms. Default: that of the paper.
        """
        return {}

    @classmethod
    def published_outputs(cls, genotype: Genotype) -> int:
        """Returns the outputs of the published network, with which costs are measured by default."""
        return 1

    @classmethod
    def published_size(cls, genotype: Genotype) -> int:
        """Returns the height and width of the images of the published network."""
        return 256

    @classmethod
    def lattice_of(
        cls, genotype: Genotype, *, without: Sequence[str] = (), heads: Sequence[str] | None = None
    ) -> Lattice | None:
        """Returns the lattice of a genotype, for drawings; None where the space has none.

        Args:
            genotype: of the space.
            without: parts that were taken away from its network; see `Network.take_away`.
            heads: names of the heads that it kept. Default: all.
        """
        return None

    @classmethod
    def from_text(cls, text: str, *, name: str, origin: str) -> Genotype:
        """Reads a genotype from its form as text, for spaces that have one."""
        raise NotImplementedError

    @classmethod
    def to_text(cls, genotype: Genotype) -> str | None:
        """Returns a genotype in its form as text; None where there is none."""
        return None


# Cells
