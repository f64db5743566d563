"""The division of a step: into updates, and of each update into this rank's micro-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmrl.batches.collate import Collated
from llmrl.batches.step import Step
from llmrl.batches.work import Work
from llmrl.prompts.seeds import derive_seed, shuffled
from llmrl.recipe.schema import Optimizer, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """The division of steps for one rank."""

    policy: Policy
    optimizer: Optimizer
    rank: int
    seed: int
    """The run's seed."""
    work: Work
    """The model's cost of rows."""
    device: torch.device

    def parts(self, groups: int, *, step: int) -> list[list[int]]:
        """The groups of each update: each group once an epoch, in parts drawn from (run, step, epoch)."""
        table = self.optimizer
        count = min(table.minibatches, max(1, groups))
        if count == 1:
            return [list(range(groups))] * table.epochs
        parts: list[list[int]] = []
        for epoch in range(table.epochs):
            seed = derive_seed(self.seed, "minibatches", step, epoch)
            order = sorted(range(groups), key=lambda group: shuffled(group, size=groups, seed=seed))
            parts += [sorted(order[part::count]) for part in range(count)]
        return parts

    def share(self, step: Step, groups: Sequence[int]) -> list[Collated]:
        """This rank's micro-batches of some groups; all ranks have equally many."""
        made = step.microbatches(
            groups,
            ranks=self.policy.ranks // self.policy.sequence_parallel,
            rank=self.rank // self.policy.sequence_parallel,
            tokens_per_microbatch=self.policy.tokens_per_microbatch,
            work=self.work,
        )
        return [rows.to(self.device) for rows in made]

    def whole(self, step: Step, groups: Sequence[int]) -> Collated:
        """All rows of some groups, including those of other ranks."""
        return step.collate(step.rows(groups)).to(self.device)
