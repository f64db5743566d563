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
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from llmrl.errors import PluginError, RecipeError, did_you_mean, shown

PluginClass = TypeVar("PluginClass", bound=type)

ENTRY_POINTS = "llmrl.plugins"


class Registry:
    """The classes of one kind (objectives, rewards, ...) by the name that a recipe uses."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type] = {}

    def __call__(self, name: str) -> Callable[[PluginClass], PluginClass]:
        """Decorator: register a frozen dataclass under ``name``; its fields are its options."""

        def register(cls: PluginClass) -> PluginClass:
            if not dataclasses.is_dataclass(cls):
                raise PluginError(
                    f"{self.kind} '{name}': {cls.__qualname__} must be a dataclass, its fields are the options."
                )
            taken = self._classes.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (
                cls.__module__,
                cls.__qualname__,
            ):
                raise PluginError(
                    f"{self.kind} '{name}' of {cls.__module__} is already taken by {taken.__module__}; "
                    f"register it under another name."
                )
            self._classes[name] = cls
            return cls

        return register

    @property
    def names(self) -> tuple[str, ...]:
        """Every registered name, sorted."""
        return tuple(sorted(self._classes))

    def get(self, name: str, *, key: str) -> type:
        """The class called ``name``; ``key`` is the recipe key that named it.

        Raises:
            RecipeError: nothing is registered under that name.
        """
        if name not in self._classes:
            raise RecipeError(f"{key}: no {self.kind} named {shown(name)}.{did_you_mean(name, self.names)}")
        return self._classes[name]

    def build(self, name: str, options: Mapping[str, object], *, key: str) -> Any:
        """The instance that a recipe's ``name`` and ``options`` describe, with every option checked.

        Raises:
            RecipeError: unknown name, unknown option, wrong type, or a value the class itself refuses.
        """
        cls = self.get(name, key=f"{key}.name")
        known = [f.name for f in dataclasses.fields(cls)]
        for option in options:
            if option not in known:
                raise RecipeError(f"{key}.options: no key named '{option}'.{did_you_mean(option, known)}")
        try:
            return TypeAdapter(cls).validate_python(dict(options))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join([f"{key}.options", *(str(part) for part in first["loc"])])
            raise RecipeError(
                f"{where}: {first['msg'].removeprefix('Value error, ')}, got {shown(first['input'])}."
            ) from None


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
        except Exception as error:  # noqa: BLE001  any error of a user's module is the user's to see
            detail = traceback.format_exc()
            raise PluginError(
                f"plugins: '{module}' cannot be imported: {type(error).__name__}: {error}. Is its folder on PYTHONPATH?\n{detail}"
            ) from error
