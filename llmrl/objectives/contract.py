"""The contract of an objective: what it declares, what it is given, and what it returns.

An objective is arithmetic on the tensors it is handed, so this folder imports torch for types only:
a recipe that names any objective is checked without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

from llmrl.recipe.schema import NOBODY, Choice, Opponent, Reward
from llmrl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

Unit = Literal["tokens", "responses", "budget", "pairs"]
"""Unit over which a loss is averaged.

``tokens``: all trained tokens. ``responses``: responses, after a mean over the tokens of each. ``budget``:
responses, after a sum over the tokens of each over ``rollouts.max_tokens``. ``pairs``: preference pairs.
"""

MeanOver = Unit | int
"""A unit; or a constant that divides the sum over a response's tokens before the mean over responses."""

Reads = Literal["entropy", "old", "reference", "noise"]
"""Columns that cost something, and are computed only if read."""

Scope = Literal["token", "step"]
"""Scope of an objective; ``step``: the loss of a row depends on others, so all rows are seen at once."""

TrainsOn = Literal["rollouts", "demonstrations", "pairs"]
"""Sampled responses; or the dataset's demonstrations, or its pairs of a chosen and a rejected response."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mean:
    """A metric averaged over the tokens (or rows, or pairs) of the whole step, whatever the split."""

    value: Tensor
    """[B, T], [B] or [P] values."""
    where: Tensor
    """Bool of the same shape, True where a value counts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Max:
    """A metric whose largest value over the whole step is reported."""

    value: Tensor
    """[B, T], [B] or [P] values."""
    where: Tensor
    """Bool of the same shape, True where a value counts."""


Metric = Mean | Max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """The result of an objective: unreduced, so that no split of the step can change a gradient."""

    value: Tensor
    """[B, T] per token, [B] per response (not with ``mean_over = "tokens"``), or [P] with ``"pairs"``."""
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The other parts of the algorithm that an objective belongs to; a recipe may override each."""

    trains_on: TrainsOn = "rollouts"
    credit: Choice = Choice(name="group")
    """Way from rewards to advantages."""
    keep: Choice = Choice(name="all")
    """Choice of the groups that are worth a place in the step."""
    pairing: Choice = Choice(name="none")
    """Choice of the responses of a group that are compared."""
    shaping: tuple[Choice, ...] = ()
    """Changes to advantages once the policy's own scores of the step are known, in order."""
    correction: Choice = Choice(name="truncated")
    """Weight for the difference between engine and trainer."""
    opponent: Opponent = NOBODY
    """The opponent that answers the same prompts for comparison."""
    branches: int = 1
    """Conversations that share all turns before one; as ``rollouts.branches``."""
    rewards: Mapping[str, Reward] = field(default_factory=dict[str, Reward])
    """Rewards that belong to the method, added to the recipe's."""


class Objective(Protocol):
    """A frozen dataclass whose fields are its options and whose call is the formula.

    Inherit from this class; besides ``mean_over``, declare only what differs from the defaults.
    """

    mean_over: MeanOver
    """Reduction of losses to one number, an option like any other; ``policy.reduce`` applies it with the
    counts of the whole update."""

    bundle: ClassVar[Bundle] = Bundle()
    """The other parts of the algorithm."""

    @property
    def scope(self) -> Scope:
        """Scope: ``token`` if a row's loss needs no other row of the update but those of its own pairs."""
        return "token"

    @property
    def reads(self) -> frozenset[Reads]:
        """Optional columns that this objective, with these options, needs."""
        return frozenset()

    def __call__(self, current: TokenScores, batch: Batch, /) -> Loss:
        """The loss of each token (or response, or pair), a mean of which is minimized.

        Args:
            current: [B, T], carries the gradient; exactly 0 outside ``batch.mask``.
            batch: everything else; carries no gradient.
        """
        ...


objective: Registry[Objective] = Registry("objective", base=Objective)


@runtime_checkable
class Estimates(Protocol):
    """An objective that states what its gradient estimates, so that exact enumeration can prove it."""

    def worth(self, reward: Tensor, log_ratio: Tensor) -> Tensor | None:
        """[B] worth of whole responses: up to scale, the loss's gradient is that of minus its expectation.

        None if it estimates nothing known with these options.

        Args:
            reward: [B] rewards that credit made advantages from.
            log_ratio: [B] log-ratio of policy to reference, in nats.
        """
        ...
