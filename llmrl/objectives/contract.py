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
"""What a loss is averaged over.

``tokens``: all trained tokens. ``responses``: responses, after a mean over the tokens of each. ``budget``:
responses, after a sum over the tokens of each over ``rollouts.max_tokens``. ``pairs``: preference pairs.
"""

MeanOver = Unit | int
"""A unit; or a constant, which divides the sum over a response's tokens before the mean over responses."""

Reads = Literal["entropy", "old", "reference", "noise"]
"""Columns that cost something; nothing computes one that nobody reads."""

Scope = Literal["token", "step"]
"""``step``: the loss of a row depends on other rows of the update, so all are looked at together."""

TrainsOn = Literal["rollouts", "demonstrations", "pairs"]
"""Sampled responses; or the dataset's demonstrations, or its pairs of a chosen and a rejected response."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mean:
    """A metric averaged over the tokens (or rows, or pairs) of the whole step, whatever the split."""

    value: Tensor
    """[B, T], [B] or [P]."""
    where: Tensor
    """Bool, same shape: what counts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Max:
    """A metric whose largest value over the whole step is reported."""

    value: Tensor
    """[B, T], [B] or [P]."""
    where: Tensor
    """Bool, same shape: what counts."""


Metric = Mean | Max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """What an objective returns: unreduced, so that no split of the step can change a gradient."""

    value: Tensor
    """[B, T] per token, [B] per response (not with ``mean_over = "tokens"``), or [P] with ``"pairs"``."""
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The other parts of the algorithm that an objective belongs to; a recipe may override each."""

    trains_on: TrainsOn = "rollouts"
    credit: Choice = Choice(name="group")
    """From rewards to advantages."""
    keep: Choice = Choice(name="all")
    """Which groups are worth a place in the step."""
    pairing: Choice = Choice(name="none")
    """Which responses of a group are compared with each other."""
    shaping: tuple[Choice, ...] = ()
    """What changes advantages once the policy's own scores of the step are known, one after the other."""
    correction: Choice = Choice(name="truncated")
    """Weight for the difference between engine and trainer."""
    opponent: Opponent = NOBODY
    """Whoever answers the same prompts for comparison."""
    branches: int = 1
    """Conversations that share all turns before one; as ``rollouts.branches``."""
    rewards: Mapping[str, Reward] = field(default_factory=dict[str, Reward])
    """Rewards that belong to the method, added to the recipe's."""


class Objective(Protocol):
    """A frozen dataclass whose fields are its options and whose call is the formula.

    Inherit from this class; besides ``mean_over``, declare only what differs from the defaults.
    """

    mean_over: MeanOver
    """How the losses become one number, an option like any other; ``policy.reduce`` does it, with the counts
    of the whole update."""

    bundle: ClassVar[Bundle] = Bundle()
    """The other parts of the algorithm."""

    @property
    def scope(self) -> Scope:
        """``token`` if the loss of a row needs no other row of the update but those of its own pairs."""
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
    """An objective that says what its gradient estimates, so that exact enumeration can prove it."""

    def worth(self, reward: Tensor, log_ratio: Tensor) -> Tensor | None:
        """[B] worth of whole responses: the loss's gradient is that of minus its expectation, but for scale.

        None if it estimates nothing known with these options.

        Args:
            reward: [B], what credit made advantages from.
            log_ratio: [B] nats of policy over reference.
        """
        ...
