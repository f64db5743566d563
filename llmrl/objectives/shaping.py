"""Shaping: what changes advantages once the policy's own scores of the whole step are known."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from llmrl.objectives.contract import Reads
from llmrl.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch

shaping: Registry[Shaping] = Registry("shaping")


class Shaping(Protocol):
    """A frozen dataclass whose fields are its options; called once per step, whatever the split of the work.

    Inherit from this class and declare only what differs from the defaults.
    """

    @property
    def reads(self) -> frozenset[Reads]:
        """Optional columns that it needs besides ``old``."""
        return frozenset()

    def __call__(self, batch: Batch, /) -> Tensor:
        """[B, T] new advantages for all rows of the step; exactly 0 outside ``batch.mask``.

        ``batch.old`` is the policy before the step's first update, ``batch.advantage`` what credit and
        the shapings before this one made.
        """
        ...
