"""Plugins by name: what may be registered, and how strictly a recipe's options are read."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

import pytest

from llmrl.errors import NestedRefusal, PluginError, RecipeError
from llmrl.prompts.tasks import task
from llmrl.registry import Registry, load_plugins
from llmrl.rewards import reward
from llmrl.roles.role import role
from llmrl.rollouts.engines import engine


class Shape(Protocol):
    """What these registries hold."""

    @property
    def area(self) -> float: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    name: str
    width: float = 1.0
    height: int = 1
    unit: Literal["m", "mm"] = "m"
    corners: tuple[int, ...] = ()
    colour: int | str = "red"

    def __post_init__(self) -> None:
        if not self.width > 0:
            raise ValueError(f"width must be above 0, got {self.width}")
        if self.height == 13:
            raise ValueError("height must not be 13")

    @property
    def area(self) -> float:
        return self.width * self.height


@pytest.fixture
def shape() -> Registry[Shape]:
    registry: Registry[Shape] = Registry("shape")
    registry("box")(Box)
    return registry


def test_options_become_the_fields_of_the_class(shape: Registry[Shape]) -> None:
    options = {"name": "a", "width": 2, "height": 3, "corners": [1, 2], "colour": 7}

    built = shape.build("box", options, key="shape")

    assert built == Box(name="a", width=2.0, height=3, corners=(1, 2), colour=7)
    assert built.area == 6.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "shapes.0.options.name: this key is missing; shape 'box' needs it."),
        ({"widht": 2}, "shapes.0.options: no key named 'widht'. Did you mean 'width'? Known: "),
        ({"name": 1}, "shapes.0.options.name: expected a string, got 1."),
        ({"name": "a", "width": "0.3"}, "shapes.0.options.width: expected a number, got '0.3'."),
        ({"name": "a", "width": True}, "shapes.0.options.width: expected a number, got true."),
        ({"name": "a", "height": 1.0}, "shapes.0.options.height: expected an integer, got 1.0."),
        ({"name": "a", "corners": [1, "b"]}, "shapes.0.options.corners.1: expected an integer, got 'b'."),
        ({"name": "a", "corners": 1}, "shapes.0.options.corners: expected an array, got 1."),
        (
            {"name": "a", "unit": "mmm"},
            "shapes.0.options.unit: expected one of 'm' or 'mm', got 'mmm'. Did you mean 'mm'?",
        ),
    ],
)
def test_a_wrong_option_is_refused_by_its_key(
    shape: Registry[Shape], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        shape.build("box", options, key="shapes.0")

    assert str(refused.value).startswith(sentence)


def test_a_value_that_fits_no_branch_of_a_union_is_told_all_of_them(shape: Registry[Shape]) -> None:
    with pytest.raises(RecipeError) as refused:
        shape.build("box", {"name": "a", "colour": 1.5}, key="shape")

    assert str(refused.value) == "shape.options.colour: expected an integer or a string, got 1.5."


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"name": "a", "width": -2.0}, "shape.options: width must be above 0, got -2.0."),
        ({"name": "a", "width": math.nan}, "shape.options: width must be above 0, got nan."),
        (
            {"name": "a", "height": 13},
            'shape.options: height must not be 13, got {"name": "a", "height": 13}.',
        ),
    ],
)
def test_what_the_class_itself_refuses_says_once_what_it_got(
    shape: Registry[Shape], options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        shape.build("box", options, key="shape")

    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("inner", "sentence"),
    [
        ({"name": "bxo"}, "shapes.0.options.inner.name: no shape named 'bxo'. Did you mean 'box'? Known: "),
        (
            {"name": "box", "options": {"name": "a", "widht": 2}},
            "shapes.0.options.inner.options: no key named 'widht'. Did you mean 'width'? Known: ",
        ),
        (
            {"name": "box", "options": {"name": 1}},
            "shapes.0.options.inner.options.name: expected a string, got 1.",
        ),
        (
            {"name": "frame", "options": {"inner": {"name": "box", "options": {"name": "a", "width": -2.0}}}},
            "shapes.0.options.inner.options.inner.options: width must be above 0, got -2.0.",
        ),
    ],
)
def test_what_a_plugin_builds_from_its_options_is_refused_below_its_own_key(
    shape: Registry[Shape], inner: dict[str, Any], sentence: str
) -> None:
    shape("frame")(framing(shape))

    with pytest.raises(RecipeError) as refused:
        shape.build("frame", {"inner": inner}, key="shapes.0")

    assert str(refused.value).startswith(sentence)


def test_a_plugin_that_is_made_without_a_recipe_refuses_below_no_key(shape: Registry[Shape]) -> None:
    frame = framing(shape)

    with pytest.raises(NestedRefusal, match=r"^inner\.name: no shape named 'bxo'\."):
        frame(inner={"name": "bxo"})


@pytest.mark.parametrize(("named_by", "key"), [("name", "shape.name"), ("kind", "shape.kind")])
def test_an_unknown_name_is_refused_by_the_key_that_named_it(named_by: str, key: str) -> None:
    registry: Registry[Shape] = Registry("shape", named_by=named_by)
    registry("box")(Box)

    with pytest.raises(RecipeError) as refused:
        registry.build("bxo", {}, key="shape")

    assert str(refused.value) == f"{key}: no shape named 'bxo'. Did you mean 'box'? Known: box."


def test_a_name_is_taken_once(shape: Registry[Shape]) -> None:
    @dataclass(frozen=True)
    class Other:
        area: float = 0.0

    shape("box")(Box)  # the same class again is no other

    with pytest.raises(PluginError, match=r"^shape 'box' of .* is already taken by .*; register it under"):
        shape("box")(Other)
    assert shape.names == ("box",)


def test_only_a_dataclass_has_options(shape: Registry[Shape]) -> None:
    class Plain:
        area = 0.0

    with pytest.raises(PluginError, match=r"Plain must be a dataclass, its fields are the options\.$"):
        shape("plain")(Plain)


def test_a_plugin_that_fails_shows_its_own_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_shapes.py").write_text("SIDES = 1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    with pytest.raises(PluginError) as refused:
        load_plugins(["failing_shapes"])

    first, *trace = str(refused.value).splitlines()
    assert first == (
        "plugins: 'failing_shapes' cannot be imported: ZeroDivisionError: division by zero. "
        "Is its folder on PYTHONPATH?"
    )
    assert "    SIDES = 1 / 0" in trace
    assert "failing_shapes" not in sys.modules


def test_a_class_that_does_not_inherit_what_has_the_defaults_is_refused() -> None:
    registry = Registry[Base]("kind", base=Base)

    @registry("good")
    @dataclass(frozen=True)
    class Good(Base):
        pass

    with pytest.raises(PluginError, match=r"kind 'bad': .*Bad must inherit from .*\.Base"):

        @registry("bad")
        @dataclass(frozen=True)
        class Bad:
            pass

    assert registry.names == ("good",)


def test_a_class_that_lacks_what_its_kind_has_is_told_each_member_and_where_it_is_described() -> None:
    registry = Registry[Solid]("solid", protocol=Solid)

    @registry("ball")
    @dataclass(frozen=True)
    class Ball:
        area: float  # a field without a default is no attribute of the class

        hollow: ClassVar[bool] = False

        def __call__(self) -> float:
            return self.area

    with pytest.raises(PluginError) as refused:

        @registry("bad")
        @dataclass(frozen=True)
        class Bad:
            area: float = 0.0

    assert str(refused.value).startswith("solid 'bad': ")
    assert str(refused.value).endswith(
        f"Bad must have 'hollow: ClassVar[bool]', '__call__', as {__name__}.Solid says."
    )
    assert registry.names == ("ball",)


@pytest.mark.parametrize(
    ("kind", "lacking"),
    [
        (reward, "'reads_answer: ClassVar[bool]', '__call__', as llmrl.rewards.reward.Reward says."),
        (task, "'characters', 'size', 'make', as llmrl.prompts.tasks.Task says."),
        (engine, "'start', as llmrl.rollouts.engines.engine.EngineKind says."),
        (role, "'start', as llmrl.roles.role.RoleKind says."),
    ],
)
def test_an_empty_class_is_told_what_its_kind_has(kind: Registry[Any], lacking: str) -> None:
    @dataclass(frozen=True)
    class Empty:
        pass

    with pytest.raises(PluginError) as refused:
        kind("empty")(Empty)

    assert str(refused.value).endswith(f"Empty must have {lacking}")
    assert "empty" not in kind.names


def framing(shapes: Registry[Shape]) -> type[Any]:
    """The class of a shape that is made of another one."""

    @dataclass(frozen=True, kw_only=True)
    class Frame:
        inner: dict[str, Any]
        _built: Shape = field(init=False)

        def __post_init__(self) -> None:
            options = self.inner.get("options", {})
            object.__setattr__(
                self, "_built", shapes.build_nested(self.inner["name"], options, table="inner")
            )

        @property
        def area(self) -> float:
            return self._built.area

    return Frame


class Solid(Protocol):
    """What has no defaults."""

    hollow: ClassVar[bool]

    @property
    def area(self) -> float: ...

    def __call__(self) -> float: ...


class Base:
    """What has the defaults."""
