"""A study: which networks are trained on which data sets and with which seeds, to be compared with each other.

One YAML file serves benchmarks and questions of generalisation. It holds a recipe, whose sources are all data sets of
the study, the networks, and the groups of data sets that these are trained on.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from medarts.config.explaining import explain
from medarts.config.reading import apply_overrides, expand, parse, read_mapping
from medarts.config.section import MOST_NETWORKS, Channels, Name, Section, Seed, Text, Whole, as_before
from medarts.config.sections import Recipe
from medarts.config.yaml_text import write_yaml
from medarts.errors import RecipeError, did_you_mean, shortened
from medarts.registry import Choice, Settings, models
from medarts.system.files import exists
from medarts.system.names import name_of

Names = Annotated[
    tuple[Text, ...],
    BeforeValidator(lambda given: given if isinstance(given, list | tuple) else (given,)),
    Field(min_length=1, max_length=MOST_NETWORKS),
]
"""One name or more; a single one needs no brackets."""

Changes = Annotated[tuple[str, ...], Field(max_length=100)]

KINDS = ("model", "genotype", "searched_on", "random")
"""Where a network can come from; an entry gives one of them."""

FIXED = ("seed", "data", "evaluation", "space", "train.model", "budget")
"""Parts of a recipe that a group cannot change: the study and its networks say what they are, and images and their
scores are the same for all groups."""

OWN = (
    *("train.optimizer", "train.lr", "train.lr_min", "train.momentum", "train.weight_decay", "train.schedule"),
    *("train.warmup_epochs", "train.plateau_epochs", "train.grad_clip", "train.ema", "compute.precision"),
)
"""Fields of a recipe that a network can have for itself: how its weights are optimized. What it is trained on and for
how long is the same for all networks, or they could not be compared."""

SIZING = ("budget", "train.norm")
"""Parts of a recipe with a budget that are the same for all searches and trainings: what sizes of networks follow
from."""

MOST_TRAININGS = 10_000

FREE = ("data.sampling", "data.augmentation")
"""Parts of them that it can."""


class NetworkEntry(Section):
    """A network of a study, or several: random ones, or those of searches with several seeds.

    Attributes:
        name: in tables and folders. Default: that of the model or the genotype, ``searched-`` and the data sets, or
            ``random``.
        model: a baseline; its name alone takes its defaults.
        genotype: a genotype of the zoo, a file, or a run; a path is relative to the file of the study and comes first.
        searched_on: data sets on which the study searches a genotype itself.
        search_seeds: a search for each of these seeds; the networks are called NAME-1, NAME-2, ... and are also
            compared as one method. Default: one search, with the seed of the recipe.
        random: number of sampled genotypes, called NAME-1, NAME-2, ... Where the recipe has a budget, they are sampled
            from its space, with its choices, and scaled to the budget; otherwise they are like another network.
        like: that network, for random: its settings, and within 5 % its number of parameters.
        init_channel: another C of the genotype.
        parameters: C is chosen so that the trainable parameters are nearest to this number, or to those of the network
            of this name.
        changes: changes of the recipe for the search, as key.path=value.
        train: changes of the recipe for the trainings of this network, such as train.lr=0.002, where it needs its own:
            optimizer, lr, lr_min, momentum, weight_decay, schedule, warmup_epochs, plateau_epochs, grad_clip and ema of
            train, and compute.precision.
        method: networks of one method are also compared as one, for genotypes whose searches are not part of the study.
    """

    name: Name
    model: Annotated[Settings, Choice(models)] | None = None
    genotype: Text | None = None
    searched_on: Names | None = None
    search_seeds: Annotated[tuple[Seed, ...], Field(min_length=2, max_length=100)] | None = None
    random: Annotated[Whole, Field(ge=1, le=100)] | None = None
    like: Text | None = None
    init_channel: Channels | None = None
    parameters: Annotated[Whole, Field(ge=1, le=10**10)] | str | None = None
    changes: Changes = ()
    train: Changes = ()
    method: Name | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its networks."""
        if not self.is_several:
            return (self.name,)
        number = self.random if self.random is not None else len(self.search_seeds or ())
        return tuple(f"{self.name}-{place}" for place in range(1, number + 1))

    @property
    def is_several(self) -> bool:
        """Whether it stands for several networks, which have names of their own."""
        return self.random is not None or self.search_seeds is not None

    @property
    def is_genotype(self) -> bool:
        """Whether its networks are genotypes with a size of their own."""
        return self.genotype is not None or self.searched_on is not None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "name" in content:
            return content
        name = usual_name(content)
        return content if name is None else content | {"name": name}

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"{' and '.join(given)} are given" if given else "none is given"
            raise ValueError(f"a network has exactly one of {', '.join(KINDS)}; {found}")
        if self.like is not None and self.random is None:
            raise ValueError("random and like go together: {random: 3, like: NAME}")
        for field in ("changes", "search_seeds"):
            if getattr(self, field) and self.searched_on is None:
                raise ValueError(f"{field} are for a network that is searched_on data sets")
        if self.search_seeds is not None:
            if (double := _double(self.search_seeds)) is not None:
                raise ValueError(f"search_seeds names {double} twice")
            if any(_key_of(change) == "seed" for change in self.changes):
                raise ValueError("changes and search_seeds both give the seed; keep one of them")
        for change in self.train:
            if not _within(_key_of(change), OWN):
                raise ValueError(
                    f"train cannot change {_key_of(change)}: networks are compared by one training, of which each can "
                    f"have its own {', '.join(name.removeprefix('train.') for name in OWN)}, as train.lr=0.002"
                )
        if not self.is_genotype and (self.init_channel is not None or self.parameters is not None):
            own = "its own width" if self.model is not None else "those of the network that it is like"
            raise ValueError(f"init_channel and parameters are for genotypes; {given[0]} has {own}")
        if self.init_channel is not None and self.parameters is not None:
            raise ValueError("init_channel and parameters exclude each other; keep one of them")
        if self.method is not None and self.is_several:
            raise ValueError(f"method is for single networks; those of '{self.name}' are one method already")
        return self


class GroupEntry(Section):
    """Data sets that networks are trained on, joined to one.

    Attributes:
        name: in tables and folders. Default: the names of the data sets, joined by ``-``.
        data: the data sets, by the names of the recipe's sources.
        seeds: a training for each.
        networks: the networks that are trained on them, by name. Default: all.
        changes: changes of the recipe for these trainings, as key.path=value; none of the images or their scores.
    """

    name: Name
    data: Names
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1, max_length=100)] = (0,)
    networks: Names | None = None
    changes: Changes = ()

    @model_validator(mode="before")
    @classmethod
    def _named(cls, content: Any) -> Any:
        if not isinstance(content, dict) or "name" in content:
            return content
        joined = _joined(content.get("data"))
        return content if joined is None else content | {"name": joined}

    @model_validator(mode="after")
    def _has_no_doubles(self) -> Self:
        for field in ("data", "seeds", "networks"):
            double = _double(getattr(self, field) or ())
            if double is not None:
                raise ValueError(f"{field} names {double} twice")
        for change in self.changes:
            key = _key_of(change)
            if _within(key, FIXED) and not _within(key, FREE):
                raise ValueError(
                    f"changes cannot set {key}: networks, seeds and data sets have keys of their own, and images and "
                    f"their scores are the same for all groups; of data it can be {' and '.join(FREE)}"
                )
        return self


class Study(Section):
    """Networks, and what they are trained on.

    Attributes:
        note: a remark for people, shown on pages.
        recipe: data, search and training; its sources are all data sets of the study. In the file also the path of a
            recipe, relative to the file.
        networks: the networks.
        trained_on: the groups of data sets.
        external: data sets that are only ever tested on.
        reference: name of the network with which the others are compared; of a method, or of several networks that an
            entry stands for, their mean.
    """

    _file: Path | None = PrivateAttr(default=None)

    note: Text = ""
    recipe: Recipe
    networks: Annotated[tuple[NetworkEntry, ...], Field(min_length=1, max_length=MOST_NETWORKS)]
    trained_on: Annotated[tuple[GroupEntry, ...], Field(min_length=1, max_length=100)]
    external: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    reference: Text | None = None

    @property
    def file(self) -> str:
        """The file that it was read from, for errors."""
        return "The study" if self._file is None else str(self._file)

    def read_from(self, path: Path) -> Self:
        """Returns the same study with the file that it was read from."""
        study = self.model_copy()
        study._file = path
        return study

    def place_of(self, entry: NetworkEntry | GroupEntry) -> str:
        """Returns where an entry is in the file, such as networks.2."""
        if isinstance(entry, GroupEntry):
            return f"trained_on.{self.trained_on.index(entry)}"
        return f"networks.{self.networks.index(entry)}"

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all networks, in their order."""
        return tuple(name for entry in self.networks for name in entry.names)

    @property
    def methods(self) -> dict[str, tuple[str, ...]]:
        """The networks of each method that entries name."""
        found: dict[str, tuple[str, ...]] = {}
        for entry in self.networks:
            if entry.method is not None:
                found[entry.method] = (*found.get(entry.method, ()), entry.name)
        return found

    @property
    def domains(self) -> tuple[str, ...]:
        """The names of all data sets, in the order of the recipe."""
        return tuple(source.domain for source in self.recipe.data.sources)

    def entry_of(self, name: str) -> NetworkEntry:
        """Returns the entry that a network belongs to, or that is called so itself.

        Raises:
            KeyError: there is none.
        """
        for entry in self.networks:
            if name == entry.name or name in entry.names:
                return entry
        raise KeyError(name)

    def networks_of(self, group: GroupEntry) -> tuple[str, ...]:
        """Returns the names of the networks that are trained on a group, in the order of the study."""
        if group.networks is None:
            return self.names
        return tuple(
            name
            for entry in self.networks
            for name in entry.names
            if {name, entry.name, entry.method} & set(group.networks)
        )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        _check_trainings(self)
        _check_names(self)
        _check_sources(self)
        _check_data_sets(self)
        _check_sizes(self)
        _check_budget(self)
        for number, group in enumerate(self.trained_on):
            for name in group.networks or ():
                _require(name, self._all_names(), f"trained_on.{number}.networks", noun="network")
        if self.reference is not None:
            _require(self.reference, self._all_names(), "reference", noun="network")
        return self

    def _all_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys([*self.names, *(entry.name for entry in self.networks), *self.methods]))


def usual_name(content: dict[str, Any]) -> str | None:
    """Returns what a network is called where its entry does not say; None where that is not known."""
    model, genotype = content.get("model"), content.get("genotype")
    if isinstance(model, dict):
        model = model.get("name")
    if isinstance(model, str):
        return model
    if isinstance(genotype, str):
        path = Path(genotype)
        if path.suffix in _FILES:
            path = path.parent if path.stem == "genotype" else path.with_suffix("")
        return name_of(path)
    if "searched_on" in content:
        joined = _joined(content["searched_on"])
        return None if joined is None else name_of(Path(f"searched-{joined}"))
    return "random" if "random" in content else None


_FILES = (".json", ".txt")
"""Suffixes of genotypes in files; a folder may have a dot in its name."""


def _key_of(change: str) -> str:
    return change.partition("=")[0]


def _within(key: str, parts: Iterable[str]) -> bool:
    return any(f"{key}.".startswith(f"{part}.") for part in parts)


def _joined(names: Any) -> str | None:
    if isinstance(names, str | int):
        return str(names)
    if not isinstance(names, list | tuple) or not names:
        return None
    return name_of(Path("-".join(map(shortened, names))))


def _double(values: Iterable[Any]) -> Any:
    return next((value for value, count in Counter(values).items() if count > 1), None)


def _check_trainings(study: Study) -> None:
    trainings = sum(len(study.networks_of(group)) * len(group.seeds) for group in study.trained_on)
    if trainings > MOST_TRAININGS:
        raise ValueError(
            f"networks, trained_on and seeds make {trainings:,} trainings; {MOST_TRAININGS:,} are the most of one study"
        )


def _check_names(study: Study) -> None:
    called = [name for entry in study.networks for name in {*entry.names, entry.name}]
    for number, entry in enumerate(study.networks):
        if entry.method in called:
            raise ValueError(f"networks.{number}.method: '{entry.method}' is the name of a network; take another one")
        if entry.method is not None and len(study.methods[entry.method]) < 2:
            raise ValueError(f"networks.{number}.method: no other network has the method '{entry.method}'")
    for field, names in (("networks", called), ("trained_on", [group.name for group in study.trained_on])):
        double = _double(names)
        if double is not None:
            raise ValueError(f"{field}: two are called '{double}'; give each its own 'name'")


def _check_sources(study: Study) -> None:
    """Refuses the same images under two names, of which one could be trained on and the other be called unseen."""
    names: dict[tuple[str, ...], str] = {}
    for number, source in enumerate(study.recipe.data.sources):
        other = names.setdefault(source.identity, source.domain)
        if other != source.domain:
            raise ValueError(
                f"recipe.data.sources.{number}: '{source.domain}' and '{other}' are the same images, {source.path}; "
                "keep one of them"
            )


def _check_data_sets(study: Study) -> None:
    """Refuses data sets that are not there, external ones that are learned from, and models for another task."""
    for domain in study.external:
        _require(domain, study.domains, "external", noun="data set")
    learned = [(f"trained_on.{number}.data", group.data) for number, group in enumerate(study.trained_on)]
    searched = [(f"networks.{number}.searched_on", entry.searched_on) for number, entry in enumerate(study.networks)]
    for where, domains in (*learned, *searched):
        for domain in domains or ():
            _require(domain, study.domains, where, noun="data set")
            if domain in study.external:
                raise ValueError(f"{where}: '{domain}' is external, so it is only ever tested on")
    task = study.recipe.data.task
    shown = {"classification": "findings", "segmentation": "masks"}
    for number, entry in enumerate(study.networks):
        if entry.model is not None and (wanted := models.entry(entry.model.name).about["task"]) != task:
            raise ValueError(
                f"networks.{number}.model: {entry.model.name} is for images with {shown[wanted]}, "
                f"but the recipe has {shown[task]}"
            )


def _check_sizes(study: Study) -> None:
    """Refuses networks that take their size from one that has none of its own; so there are no circles."""
    entries = {entry.name: entry for entry in study.networks}
    for number, entry in enumerate(study.networks):
        if entry.like is not None:
            _require(entry.like, entries, f"networks.{number}.like", noun="network")
            if not entries[entry.like].is_genotype or entries[entry.like].is_several:
                raise ValueError(
                    f"networks.{number}.like: '{entry.like}' is not a single genotype to sample others like"
                )
        if isinstance(entry.parameters, str):
            _require(entry.parameters, entries, f"networks.{number}.parameters", noun="network")
            other = entries[entry.parameters]
            if other.is_several or isinstance(other.parameters, str):
                raise ValueError(
                    f"networks.{number}.parameters: '{entry.parameters}' takes its own size from another network"
                )


def _check_budget(study: Study) -> None:
    """Refuses sizes and changes beside a budget, by which all networks get their size, and random ones without any."""
    has_budget = bool(study.recipe.budget.limited)
    for number, entry in enumerate(study.networks):
        given = [name for name in ("like", "init_channel", "parameters") if getattr(entry, name) is not None]
        if has_budget and given:
            raise ValueError(
                f"networks.{number}: {given[0]} and recipe.budget exclude each other, as the budget gives all networks "
                "their size; leave one of them out"
            )
        if not has_budget and entry.random is not None and entry.like is None:
            raise ValueError(
                f"networks.{number}: random and like go together where recipe.budget limits nothing: "
                "{random: 3, like: NAME}"
            )
    changed = [(f"trained_on.{number}", group.changes) for number, group in enumerate(study.trained_on)]
    changed += [(f"networks.{number}", entry.changes) for number, entry in enumerate(study.networks)]
    for where, changes in changed if has_budget else ():
        for key in map(_key_of, changes):
            if _within(key, SIZING) or any(_within(field, [key]) for field in SIZING):
                raise ValueError(
                    f"{where}: changes cannot set {key}, as recipe.budget gives all networks their size, with the "
                    "norms of recipe.train.norm; change these for all"
                )


def _require(name: str, known: Iterable[str], where: str, *, noun: str) -> None:
    choices = list(known)
    if name not in choices:
        raise ValueError(f"{where}: there is no {noun} '{name}'. {did_you_mean(name, choices)}")


def is_study(path: Path) -> bool:
    """Whether a YAML file is a study and not a recipe.

    Raises:
        RecipeError: it is missing, or no YAML.
    """
    return "networks" in read_mapping(path, noun="recipe")


def load_study(path: Path, overrides: Iterable[str] = (), *, kept: bool = False) -> Study:
    """Reads a study from a YAML file.

    Args:
        kept: whether it is that of a folder of a study, see ``medarts.config.load``.
        overrides: changes as ``key.path=value``, such as ``recipe.train.epochs=2``, the value in YAML.

    Raises:
        RecipeError: the file or its recipe is missing or no YAML, or a key or value is wrong.
    """
    of_recipe, others = _sorted_out(overrides)
    content = read_mapping(path, noun="study")
    if "recipe" not in content and content.keys() & (Recipe.model_fields.keys() - Study.model_fields.keys()):
        raise RecipeError(
            f"{path} is a recipe, not a study.",
            fix="Write a study that names it (recipe, networks, trained_on); see recipes/benchmark-cpu.yaml.",
        )
    content = apply_overrides(content, others)
    origin = f"{path}: recipe"
    if isinstance(content.get("recipe"), str):
        origin = expand(content["recipe"], origin, folder=path.parent)
        content["recipe"] = read_mapping(Path(origin), noun="recipe")
    if isinstance(content.get("recipe"), dict):
        given = as_before(content["recipe"], Recipe) if kept else content["recipe"]
        content["recipe"] = parse(apply_overrides(given, of_recipe), origin=origin)
    if isinstance(content.get("networks"), list):
        content["networks"] = [
            _with_paths(entry, f"{path}: networks.{number}", folder=path.parent) if isinstance(entry, dict) else entry
            for number, entry in enumerate(content["networks"])
        ]
    try:
        study = Study.model_validate(content)
    except ValidationError as error:
        raise RecipeError(f"{path}: {explain(error, Study, noun='study')}", fix="") from None
    try:
        _try_recipes(study)
    except RecipeError as error:
        raise RecipeError(f"{path}: {error.problem}", fix=error.fix) from None
    return study.read_from(path)


def study_to_yaml(study: Study) -> str:
    """Returns the whole study as YAML, its recipe with all defaults, for ``load_study`` to read from anywhere."""
    content = {
        "note": study.note,
        "recipe": study.recipe.model_dump(mode="json"),
        "networks": [entry.model_dump(mode="json", exclude_none=True) for entry in study.networks],
        "trained_on": [group.model_dump(mode="json", exclude_none=True) for group in study.trained_on],
        "external": list(study.external),
        "reference": study.reference,
    }
    return write_yaml(content)


def group_recipe(study: Study, group: GroupEntry, *, seed: int) -> Recipe:
    """Returns the recipe of the trainings on a group with a seed; the network is not part of it."""
    where = f"trained_on.{study.trained_on.index(group)}.changes"
    return _changed(study.recipe, group.data, group.changes, where=where, values={"seed": seed})


def search_recipe(study: Study, name: str) -> Recipe:
    """Returns the recipe of the search of a network that is ``searched_on`` data sets.

    Costs are those of an image of the study's size, whatever the size of the images of the search.
    """
    entry = study.entry_of(name)
    where = f"networks.{study.networks.index(entry)}.changes"
    values = {} if entry.search_seeds is None else {"seed": entry.search_seeds[entry.names.index(name)]}
    recipe = _changed(study.recipe, entry.searched_on or (), entry.changes, where=where, values=values)
    if recipe.search.method != "supernet":
        trained = study.recipe.train.norm
        others = [norm for norm in recipe.search.select.norms or (recipe.train.norm,) if norm != trained]
        if others:
            raise RecipeError(
                f"{where}: candidates would have norms of kind {others[0]} (search.select.norms, train.norm), but "
                f"the study trains all networks with {trained} (recipe.train.norm).",
                fix="Leave both out of the changes, and give recipe.train.norm.",
            )
    if recipe.data.size != study.recipe.data.size and study.recipe.budget.limited:
        recipe = recipe.model_copy(update={"budget": recipe.budget.at(study.recipe.data.size)})
    return recipe


def training_recipe(study: Study, recipe: Recipe, name: str) -> Recipe:
    """Returns the recipe of a group, see `group_recipe`, with what a network has for itself."""
    entry = study.entry_of(name)
    if not entry.train:
        return recipe
    where = f"networks.{study.networks.index(entry)}.train"
    return parse(_with_changes(recipe, entry.train, where=where), origin=where)


def _changed(
    recipe: Recipe, domains: tuple[str, ...], changes: tuple[str, ...], *, where: str, values: dict[str, Any]
) -> Recipe:
    content = _with_changes(recipe, changes, where=where) | values
    sources = [source.model_dump(mode="json") for source in recipe.data.sources if source.domain in domains]
    content["data"] = content["data"] | {"sources": sources}
    return parse(content, origin=where)


def _with_changes(recipe: Recipe, changes: tuple[str, ...], *, where: str) -> dict[str, Any]:
    try:
        return apply_overrides(recipe.model_dump(mode="json"), changes)
    except RecipeError as error:
        raise RecipeError(f"{where}: {error.problem}", fix=error.fix) from None


def _try_recipes(study: Study) -> None:
    for group in study.trained_on:
        recipe = group_recipe(study, group, seed=group.seeds[0])
        for name in study.networks_of(group):
            training_recipe(study, recipe, name)
    for entry in study.networks:
        if entry.searched_on is not None:
            search_recipe(study, entry.names[0])


def _sorted_out(overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Returns the changes of the recipe, and those of the rest of a study."""
    of_recipe, others = [], []
    for change in overrides:
        key = change.partition("=")[0]
        if key.startswith("recipe."):
            of_recipe.append(change.removeprefix("recipe."))
        elif key.partition(".")[0] in Recipe.model_fields.keys() - Study.model_fields.keys():
            raise RecipeError(f"'{change}' changes the recipe of the study.", fix=f"Write recipe.{change}.")
        else:
            others.append(change)
    return of_recipe, others


def _with_paths(entry: dict[str, Any], where: str, *, folder: Path) -> dict[str, Any]:
    """Returns an entry with absolute paths; a genotype that is not a file beside the study may be one of the zoo."""
    model, genotype = entry.get("model"), entry.get("genotype")
    if isinstance(genotype, int) and not isinstance(genotype, bool):
        genotype = str(genotype)
    if isinstance(model, dict) and isinstance(model.get("weights"), str):
        entry = entry | {
            "model": model | {"weights": expand(model["weights"], f"{where}.model.weights", folder=folder)}
        }
    if isinstance(genotype, str):
        path = expand(genotype, f"{where}.genotype", folder=folder)
        if exists(Path(path)):
            entry = entry | {"name": entry.get("name", usual_name(entry)), "genotype": path}
    return entry
