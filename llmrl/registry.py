"""Plugins: the one registry shape, and the import of the modules that a recipe names.

A plugin is a module that is imported by name in every process; nothing is ever shipped as an object.
Importing the module registers what it defines:

    from llmrl.objectives import objective

    @objective("mine")
    @dataclass(frozen=True, slots=True, kw_only=True)
    class Mine: ...
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from llmrl.errors import NestedRefusal, PluginError, RecipeError, did_you_mean, shown
from llmrl.wording import first_refusal

Plugin = TypeVar("Plugin")
PluginClass = TypeVar("PluginClass", bound=type)

ENTRY_POINTS = "llmrl.plugins"


class Registry(Generic[Plugin]):
    """The classes of one kind (objectives, rewards, ...) by the name that a recipe uses."""

    def __init__(
        self, kind: str, *, named_by: str = "name", base: type | None = None, protocol: type | None = None
    ) -> None:
        """An empty registry.

        Args:
            kind: what messages call a plugin of this registry.
            named_by: the key that holds a plugin's name in its table of the recipe, next to ``options``.
            base: what every class must inherit from, as it has the defaults.
            protocol: what every class must have the members of, where there are no defaults.
        """
        self.kind = kind
        self._base = base
        self._protocol = protocol
        self._named_by = named_by
        self._classes: dict[str, type[Any]] = {}

    def __call__(self, name: str) -> Callable[[PluginClass], PluginClass]:
        """Decorator: register a frozen dataclass under ``name``; its fields are its options.

        Raises:
            PluginError: the class is no dataclass or not what its kind must be, or another one has that name.
        """

        def register(cls: PluginClass) -> PluginClass:
            self._classes[name] = self._admitted(name, cls)
            return cls

        return register

    def _admitted(self, name: str, cls: type[Any]) -> type[Any]:
        if fault := self._fault(cls):
            raise PluginError(f"{self.kind} '{name}': {cls.__qualname__} must {fault}.")
        taken = self._classes.get(name, cls)
        # A module that is imported anew, as a notebook does, makes its classes anew.
        if (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
            raise PluginError(
                f"{self.kind} '{name}' of {cls.__module__} is already taken by {taken.__module__}; "
                f"register it under another name."
            )
        return cls

    def _fault(self, cls: type[Any]) -> str:
        """What the class must still be or have; empty if it may be registered."""
        if not dataclasses.is_dataclass(cls):
            return "be a dataclass, its fields are the options"
        if self._base is not None and self._base not in cls.__mro__:
            return f"inherit from {_dotted(self._base)}"
        if self._protocol is not None and (lacking := _lacking(cls, self._protocol)):
            return f"have {', '.join(lacking)}, as {_dotted(self._protocol)} says"
        return ""

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._classes))

    def get(self, name: str, *, key: str) -> type[Any]:
        """The class called ``name``; ``key`` is the table of the recipe that named it, empty where none did.

        Raises:
            RecipeError: nothing is registered under that name.
        """
        if name not in self._classes:
            known = did_you_mean(name, self.names)
            raise RecipeError(f"{_below(key, self._named_by)}: no {self.kind} named {shown(name)}.{known}")
        return self._classes[name]

    def build(self, name: str, options: Mapping[str, Any], *, key: str) -> Plugin:
        """The instance that a table of the recipe describes, with every option checked.

        Raises:
            RecipeError: unknown name, unknown or missing option, wrong type, or a value the class refuses.
        """
        cls = self.get(name, key=key)
        table = _below(key, "options")
        known = [field.name for field in dataclasses.fields(cls) if field.init]
        for option in options:
            if option not in known:
                raise RecipeError(f"{table}: no key named '{option}'.{did_you_mean(option, known)}")
        try:
            # From JSON, strict mode takes an array for a tuple, but neither text nor true for a number.
            return TypeAdapter[Any](cls).validate_json(json.dumps(dict(options)), strict=True)
        except ValidationError as error:
            raise RecipeError(f"{table}{self._refusal(error, options, name)}") from None

    def build_nested(self, name: str, options: Mapping[str, Any], *, table: str = "") -> Plugin:
        """The instance that a plugin makes in its ``__post_init__`` from options of its own.

        Args:
            table: which of the outer options holds the name and the options, as ``tools.search``; empty where
                they are two of the outer options themselves.
        Raises:
            NestedRefusal: as ``build`` refuses; the outer ``build`` puts the key of its options in front.
        """
        try:
            return self.build(name, options, key=table)
        except RecipeError as refused:
            raise NestedRefusal(str(refused)) from None

    def _refusal(self, error: ValidationError, options: Mapping[str, Any], name: str) -> str:
        first = error.errors()[0]
        inside = first.get("ctx", {}).get("error")
        if isinstance(inside, NestedRefusal):
            return f".{inside}"
        where, sentence = first_refusal(error, options)
        if first["type"] == "missing":
            where, sentence = first["loc"], f"this key is missing; {self.kind} '{name}' needs it."
        return f"{''.join(f'.{part}' for part in where)}: {sentence}"


def _below(key: str, name: str) -> str:
    """The key of ``name`` in the table ``key``; where that is empty, ``name`` alone."""
    return f"{key}.{name}" if key else name


def _dotted(cls: type) -> str:
    return f"{cls.__module__}.{cls.__name__}"


def _lacking(cls: type[Any], protocol: type) -> list[str]:
    """Members of the protocol that the dataclass has not, with the types that the protocol gives them."""
    held = {*dir(cls), *(field.name for field in dataclasses.fields(cls))}
    attributes = {name: f"{name}: {kind}" for name, kind in protocol.__annotations__.items()}
    methods = {name: name for name in vars(protocol) if name == "__call__" or not name.startswith("_")}
    return [f"'{written}'" for name, written in (attributes | methods).items() if name not in held]


def load_plugins(modules: Iterable[str]) -> None:
    """Import installed plugins (entry-point group ``llmrl.plugins``) and the modules that a recipe names.

    Raises:
        PluginError: a module cannot be imported; the message holds its own traceback.
    """
    for module in [*(point.value for point in metadata.entry_points(group=ENTRY_POINTS)), *modules]:
        try:
            importlib.import_module(module)
        except PluginError:
            raise
        except Exception as error:  # whatever a user's module raises is the user's to see
            raise PluginError(
                f"plugins: '{module}' cannot be imported: {type(error).__name__}: {error}. "
                f"Is its folder on PYTHONPATH?\n{traceback.format_exc()}"
            ) from error
