"""The contract of an objective: what it declares, what it is given, and what it returns.

An objective is arithmetic on the tensors it is handed, so this folder imports torch for types only:
a recipe that names any objective is checked without loading torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from llmrl.recipe.schema import Choice
from llmrl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

Unit = Literal["tokens", "responses", "pairs"]
"""What a loss is averaged over: all trained tokens, or responses after averaging each over its tokens."""

Reads = Literal["entropy", "old", "reference"]
"""Columns that cost a forward pass or more; nothing computes one that nobody reads."""

objective: Registry[Objective] = Registry("objective")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Mean:
    """A metric averaged over the tokens (or rows) of the whole step, whatever the split."""

    value: Tensor
    """[B, T] or [B]."""
    where: Tensor
    """Bool, same shape: what counts."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Max:
    """A metric whose largest value over the whole step is reported."""

    value: Tensor
    """Any shape."""


Metric = Mean | Max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loss:
    """What an objective returns: unreduced, so that no split of the step can change a gradient."""

    value: Tensor
    """[B, T] with ``mean_over = "tokens"`` or ``"responses"``, [P] with ``"pairs"``."""
    metrics: Mapping[str, Metric] = field(default_factory=dict[str, Metric])


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """The other parts of the algorithm that an objective belongs to; a recipe may override each."""

    credit: Choice = Choice(name="group")
    keep: Choice = Choice(name="all")
    correction: Choice = Choice(name="truncated")
    demonstrations: bool = False
    """True: trains on the responses of the dataset; nothing is generated or judged."""


class Objective(Protocol):
    """A frozen dataclass whose fields are its options and whose call is the formula."""

    mean_over: ClassVar[Unit]
    bundle: ClassVar[Bundle]

    @property
    def reads(self) -> frozenset[Reads]:
        """Optional columns that this objective, with these options, needs."""
        ...

    def __call__(self, current: TokenScores, batch: Batch, /) -> Loss:
        """The loss of each token (or pair), a mean of which is minimized.

        Args:
            current: [B, T], carries the gradient; exactly 0 outside ``batch.mask``.
            batch: everything else; carries no gradient.
        """
        ...
