"""Keep: which judged groups are worth a place in the step, and for how long others are sought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from llmrl.experience.credit import part_of
from llmrl.registry import Registry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import RolloutGroup

Exhausted = Literal["stop", "train"]


class Keep(Protocol):
    """A frozen dataclass whose fields are its options.

    Inherit from this class; declare ``refills`` and ``when_exhausted`` only to make options of them.
    """

    refills: int = 10
    """Groups that a step may refuse, as a multiple of ``prompts.per_step``."""
    when_exhausted: Exhausted = "stop"
    """Action when too many are refused: end the run with the most frequent reason, or train on the groups
    that the step has; a step without any ends the run in either case."""

    @property
    def rewards(self) -> frozenset[str]:
        """Names of rewards that its options mention; the recipe must have them."""
        return frozenset()

    def __call__(self, group: RolloutGroup, judgements: Sequence[Judgement], /) -> str | None:
        """The reason not to train on the group, in a few words that are counted; None to train on it."""
        ...


keep: Registry[Keep] = Registry("keep", base=Keep)


@keep("all")
@dataclass(frozen=True, slots=True, kw_only=True)
class KeepAll(Keep):
    """Every group that has at least one judged response."""

    def __call__(self, _group: RolloutGroup, judgements: Sequence[Judgement]) -> str | None:
        return None if any(j.reward is not None for j in judgements) else "nothing judged"


@keep("varied")
@dataclass(frozen=True, slots=True, kw_only=True)
class KeepVaried(Keep):
    """Groups whose rewards differ; the others have no gradient under group credit (DAPO's dynamic sampling).

    A group of one response, in which nothing can vary, is kept. Source: Yu et al. 2025, arXiv:2503.14476,
    equation 11.
    """

    by: str | None = None
    """Name of the reward that must differ, or ``first`` for the recipe's first one, so that a penalty for
    length lets no group pass; by default the total must."""
    refills: int = 10
    """Groups that a step may refuse, as a multiple of ``prompts.per_step``."""
    when_exhausted: Exhausted = "stop"
    """Action when too many are refused: end the run, or train on the groups that the step has."""

    def __post_init__(self) -> None:
        if self.refills < 1:
            raise ValueError(f"refills must be at least 1, got {self.refills}")

    @property
    def rewards(self) -> frozenset[str]:
        return frozenset() if self.by in (None, "first") else frozenset({self.by})

    def __call__(self, group: RolloutGroup, judgements: Sequence[Judgement]) -> str | None:
        values = {self._value(j) for j in judgements} - {None}
        if not values:
            return "nothing judged"
        return None if len(values) > 1 or len(group.rollouts) == 1 else "rewards equal"

    def _value(self, judgement: Judgement) -> float | None:
        if self.by is None or judgement.reward is None:
            return judgement.reward
        if self.by == "first" and "first" not in judgement.parts:
            return next(iter(judgement.parts.values()), None)
        return part_of(judgement, self.by, key="keep.options.by")
