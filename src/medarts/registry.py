"""Registries: what a name in a recipe or on the command line stands for, with the settings that belong to it.

A member is one file that registers itself; nothing lists the members. The files of medarts and those of installed
packages (entry points) are imported when a registry is first asked for a name. A script registers its own at any time:

    >>> class NoiseSettings(Settings):
    ...     strength: float = 0.1
    >>> noises = Registry("noise")
    >>> @noises.register("gaussian", settings=NoiseSettings)
    ... def gaussian(settings: NoiseSettings) -> float:
    ...     return settings.strength
    >>> noises.names()
    ('gaussian',)
    >>> noises.choose({"name": "gaussian", "strength": 0.5})
    NoiseSettings(name='gaussian', strength=0.5)
"""

import functools
import importlib
import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError, create_model
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from medarts.errors import OF_TRAINING, MedartsError, RecipeError, did_you_mean, not_installed, shortened
from medarts.system.memory import is_out_of_memory
from medarts.system.process import note_extension

UNKNOWN, UNNAMED = "unknown_choice", "unnamed_choice"
"""Types of the errors of a section that names no member, or none that there is."""

M = TypeVar("M")
"""A member: a class, or a function that makes what the name stands for."""
N = TypeVar("N")


class Section(BaseModel):
    """A part of a recipe: immutable, unknown keys refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    def is_idle(self, name: str) -> bool:
        """Whether a field decides nothing, as the other fields are; then it takes no part in fingerprints."""
        return False


class Settings(Section):
    """The settings of a member of a registry; its fields are the keys that a recipe may have beside the name.

    Attributes:
        name: of the member; set by the registry.
    """

    name: str = ""


@dataclass(frozen=True, slots=True)
class Entry(Generic[M]):
    """What is registered under a name.

    Attributes:
        name: the name.
        member: what it stands for.
        settings: the class of its settings.
        about: what else the registry must know of it, such as the task it is for.
    """

    name: str
    member: M
    settings: type[Section]
    about: Mapping[str, Any] = field(default_factory=dict)


class Registry(Generic[M]):
    """Members by name.

    Args:
        noun: what a member is called in errors, such as "loss".
        package: module, package of modules, or several, whose members are built in; imported when first needed.
        group: entry points of installed packages that register more; such an entry point names a module, which may
            register members of other registries too.
        key: of the name in a section of a recipe.
        base: the settings of members that have none of their own.
    """

    def __init__(
        self,
        noun: str,
        *,
        package: str | Sequence[str] = (),
        group: str | None = None,
        key: str = "name",
        base: type[Section] = Settings,
    ) -> None:
        self.noun = noun
        self.key = key
        self._packages = (package,) if isinstance(package, str) else tuple(package)
        self._group = group
        self._base = base
        self._entries: dict[str, Entry[M]] = {}
        self._loaded = self._loading = False
        _REGISTRIES[noun] = self

    def register(self, name: str, *, settings: type[Section] | None = None, **about: Any) -> Callable[[N], N]:
        """Returns a decorator that registers a class or function under a name.

        The same definition may be registered again, as when a cell of a notebook runs twice.

        Args:
            name: in recipes and on the command line.
            settings: class of its settings, with a default for every field that can have one.
            about: what the registry must know of it besides.

        Raises:
            ValueError: another member has the name, such as one that is built in.
        """

        def add(member: N) -> N:
            if not _origin(member)[0].startswith("medarts."):
                self._load_built_in()  # first, as they keep their names
            known = self._entries.get(name)
            if known is not None and _origin(known.member) != _origin(member):
                raise ValueError(f"there is a {self.noun} '{name}' already, {'.'.join(_origin(known.member))}")
            entry: Entry[Any] = Entry(name, member, self._named(settings or self._base, name), about)
            self._entries[name] = entry
            note_extension(_origin(member)[0])
            return member

        return add

    def remove(self, name: str) -> None:
        """Forgets a member, such as one that a notebook tried out."""
        self._entries.pop(name, None)

    def names(self, **about: Any) -> tuple[str, ...]:
        """Returns the names in the order of registration.

        Args:
            about: only those registered with these values, such as task="segmentation".
        """
        self._load()
        wanted = about.items()
        return tuple(name for name, entry in self._entries.items() if wanted <= entry.about.items())

    def entry(self, name: str, *, where: str = "") -> Entry[M]:
        """Returns what is registered under a name.

        Args:
            name: the name.
            where: field or option that gave it, for the error.

        Raises:
            RecipeError: nothing is.
        """
        self._load()
        if name not in self._entries:
            raise RecipeError(
                f"{f'{where}: t' if where else 'T'}here is no {self.noun} '{name}'.",
                fix=did_you_mean(name, self._entries),
            )
        return self._entries[name]

    def get(self, name: str, *, where: str = "") -> M:
        """Returns the member of a name; see `entry`."""
        return self.entry(name, where=where).member

    def __contains__(self, name: object) -> bool:
        self._load()
        return isinstance(name, str) and name in self._entries

    def choose(self, content: Any) -> Any:
        """Returns the settings that a section of a recipe gives, checked by the class of the member that it names.

        Args:
            content: mapping with the name and what is set of the member, a name alone, or settings. Those of a class
                that was registered without a name get that of its member.

        Raises:
            ValidationError, PydanticCustomError: no member is named, or the settings are wrong.
        """
        if isinstance(content, Section):
            return self._with_name(content)
        given = {self.key: content} if isinstance(content, str) else content
        if not isinstance(given, Mapping):
            return given  # the type of the field refuses it
        name = given.get(self.key)
        if not isinstance(name, str):
            raise PydanticCustomError(UNNAMED, "{noun} without a name", {"noun": self.noun, "key": self.key})
        if name not in self:
            context = {"given": name, "key": self.key, "names": ", ".join(self._entries)}
            raise PydanticCustomError(UNKNOWN, "there is no such {noun}", {"noun": self.noun, **context})
        try:
            return self._entries[name].settings.model_validate(given)
        except ValidationError as error:
            raise _within(name, error) from None

    def _with_name(self, settings: Section) -> Section:
        """Returns settings with the name of the one member that was registered with their class, if they have none."""
        if getattr(settings, self.key, ""):
            return settings
        self._load()
        fitting = [entry.settings for entry in self._entries.values() if issubclass(entry.settings, type(settings))]
        if len(fitting) != 1:
            return settings
        (named,) = fitting
        return named(**{**dict(settings), self.key: named.model_fields[self.key].default})

    def _named(self, settings: type[Section], name: str) -> type[Section]:
        """Returns the settings with the name as the only value of its key."""
        known = settings.model_fields.get(self.key)
        if known is not None and known.default == name:
            return settings
        fields: dict[str, Any] = {self.key: (Literal[name], name)}
        made = create_model(settings.__name__, __base__=settings, __module__=settings.__module__, **fields)
        made.__doc__ = settings.__doc__

        def reduced(section: Any) -> tuple[Any, ...]:
            return _chosen, (self.noun, dict(section))

        # No module has such a class under its name, by which another process would look for it.
        made.__reduce__ = reduced  # type: ignore[assignment, method-assign]  # of this class alone
        return made

    def _load(self) -> None:
        self._load_built_in()
        if not any(registry._loading for registry in _REGISTRIES.values()):
            _load_entry_points()

    def _load_built_in(self) -> None:
        if self._loaded or self._loading or not self._packages:
            return
        self._loading = True  # a member may look up others while it is imported
        try:
            for package in map(importlib.import_module, self._packages):
                for module in pkgutil.iter_modules(getattr(package, "__path__", [])):
                    importlib.import_module(f"{package.__name__}.{module.name}")
        except ModuleNotFoundError as error:
            if error.name not in OF_TRAINING:
                raise
            raise not_installed(error.name) from None
        finally:
            self._loading = False
        self._loaded = True  # not after an error, which the next look-up meets again


def _load_entry_points() -> None:
    """Imports what installed packages offer, of all groups: such a module may register members of any kind."""
    groups = {registry._group: registry.noun for registry in _REGISTRIES.values() if registry._group}
    for group in [group for group in groups if group not in _LOADED_GROUPS]:
        _LOADED_GROUPS.add(group)
        for point in entry_points(group=group):
            try:
                point.load()
            except Exception as error:  # one broken package must not take everything else with it
                warnings.warn(
                    f"{point.value} cannot be imported ({error!r}); its {groups[group]} is missing.", stacklevel=3
                )


_LOADED_GROUPS: set[str] = set()
"""Groups of entry points that were imported."""

_REGISTRIES: dict[str, Registry[Any]] = {}
"""All by their nouns."""


def _chosen(noun: str, content: Mapping[str, Any]) -> Any:
    return _REGISTRIES[noun].choose(content)


class Choice:
    """Marks a field of a recipe whose section is chosen from a registry: ``Annotated[Settings, Choice(losses)]``.

    Written back, such a section has all fields of the settings that were chosen, not of ``Settings`` alone.
    """

    def __init__(self, registry: Registry[Any]) -> None:
        self.registry = registry

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        serialization = core_schema.wrap_serializer_function_ser_schema(_whole, schema=core_schema.any_schema())
        return core_schema.no_info_before_validator_function(
            self.registry.choose, handler(source), serialization=serialization
        )


def bound(function: Callable[..., N], **offered: Any) -> Callable[..., N]:
    """Returns a function with those of the offered arguments that it has a parameter for.

    >>> def scaled(x: float, *, factor: float) -> float:
    ...     return x * factor
    >>> bound(scaled, factor=2.0, seed=0)(1.5)
    3.0
    """
    known = inspect.signature(function).parameters
    return functools.partial(function, **{name: value for name, value in offered.items() if name in known})


@contextmanager
def calling(noun: str, name: str) -> Iterator[None]:
    """Names a member in whatever goes wrong inside it: it may be a user's, who sees this error alone.

    Raises:
        MedartsError: the member failed; -v, or the cause of the error, shows where.
    """
    try:
        yield
    except MedartsError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise MedartsError(
            f"The {noun} '{name}' failed ({shortened(reason)}).", fix="Correct it and run again."
        ) from error


def _whole(value: Any, handler: Any) -> Any:
    return handler(value)


def _within(name: str, error: ValidationError) -> ValidationError:
    """Returns the mistakes of a section with the chosen name in front of their places, as in a tagged union."""
    details: list[InitErrorDetails] = []
    for item in error.errors(include_url=False):
        kind: Any = item["type"]
        context = item.get("ctx", {})
        if kind in (UNKNOWN, UNNAMED):
            kind = PydanticCustomError(kind, "{noun}", context)
        details.append({"type": kind, "loc": (name, *item["loc"]), "input": item["input"], "ctx": context})
    return ValidationError.from_exception_data(error.title, details)


def _origin(member: Any) -> tuple[str, str]:
    return getattr(member, "__module__", ""), getattr(member, "__qualname__", repr(member))


def _built_in(noun: str, packages: str, name: str, **options: Any) -> Registry[Any]:
    package = [f"medarts.{each}" for each in packages.split()]
    return Registry(noun, package=package, group=f"medarts.{name}", **options)


spaces = _built_in("search space", "spaces", "spaces")
models = _built_in("model", "models", "models")
losses = _built_in("loss", "losses", "losses")
metrics = _built_in("metric", "metrics", "metrics")
sources = _built_in("kind of data source", "data.sources", "sources", key="kind")
gradients = _built_in("gradient", "nas.gradients", "gradients")
relaxations = _built_in("relaxation", "spaces.relaxations", "relaxations")
regularizers = _built_in("regularizer", "nas.regularizers", "regularizers")
selections = _built_in("selection", "nas.selection", "selections")
criteria = _built_in("criterion", "pruning.criteria pruning.depth", "criteria")
