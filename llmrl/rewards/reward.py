"""The contract of a reward: options in, a sample in, and a score, an abstention or an error out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, TypeGuard, runtime_checkable

from llmrl.recipe.schema import Reward as RewardTable
from llmrl.registry import Registry
from llmrl.rewards.judgement import Sample


@dataclass(frozen=True, slots=True)
class Score:
    """A score with a note, for people who read samples."""

    value: float | None
    """Value of the score; None abstains: the response cannot be judged, and is not learned from."""
    note: str = ""
    """Text that was read from the response, or the reason why it abstains."""


class Reward(Protocol):
    """A frozen dataclass whose fields are its options, called in a process that can be killed.

    Anything but a finite number, a bool, None or a :class:`Score` is an error, and so is an exception:
    it is counted, trains nothing, and never becomes a zero.
    """

    reads_answer: ClassVar[bool]
    """Whether it needs the gold answer, which must then score 1 as a response."""

    def __call__(self, sample: Sample) -> float | None | Score:
        """Score one response; None abstains."""
        ...


class Awaited(Protocol):
    """A reward whose call is ``async def``: while it waits, its process judges other responses.

    It is cancelled at the deadline; one that cannot be cancelled is killed with its process.
    """

    reads_answer: ClassVar[bool]

    async def __call__(self, sample: Sample) -> float | None | Score:
        """Score one response; None abstains."""
        ...


reward: Registry[Reward] = Registry("reward", named_by="kind", protocol=Reward)


@runtime_checkable
class Comparing(Protocol):
    """A reward that compares a response with its rivals: its score is the mean preference over them.

    Rivals are the opponent's responses, or where there is no opponent all others of the group.
    """

    reads_rivals: ClassVar[Literal[True]]


@runtime_checkable
class Changing(Protocol):
    """A reward that may score the same sample differently the next time, so that no score may be kept."""

    changes: ClassVar[Literal[True]]


@runtime_checkable
class Formal(Protocol):
    """A reward that requires a form around the answer, which a bare gold answer does not have."""

    def bare(self) -> Reward:
        """The same reward without that form; it grades the gold answers against themselves."""
        ...


@runtime_checkable
class Heavy(Protocol):
    """A reward that imports or loads something large."""

    def warm_up(self) -> None:
        """Load it before the first deadline starts to run."""
        ...


@runtime_checkable
class Derived(Protocol):
    """A reward made of another's scores: it changes with that one, loads what that one loads, and has no gold
    answer on rows where that one has none."""

    @property
    def derived_from(self) -> Reward:
        """The other reward."""
        ...


def layers_of(reward: Reward) -> Iterator[Reward]:
    """A reward, and those that it is derived from."""
    yield reward
    if isinstance(reward, Derived):
        yield from layers_of(reward.derived_from)


def is_awaited(reward: Reward | Awaited) -> TypeGuard[Awaited]:
    """Whether its call is ``async def``."""
    return inspect.iscoroutinefunction(type(reward).__call__)


def build_rewards(tables: Mapping[str, RewardTable]) -> dict[str, Reward]:
    """The rewards of a recipe by name, every option checked.

    Raises:
        RecipeError: unknown kind, unknown option, or a value that the reward refuses.
    """
    return {
        name: reward.build(table.kind, table.options, key=f"rewards.{name}") for name, table in tables.items()
    }


def gold_of(sample: Sample) -> str:
    """The gold answer of a sample.

    Raises:
        ValueError: the row has none.
    """
    if sample.answer is None or not sample.answer.strip():
        raise ValueError("the row has no gold answer")
    return sample.answer
