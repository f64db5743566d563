"""One step of one rank: its updates, the objective on each, one reduction, one optimizer step.

An objective of scope ``token`` runs on each micro-batch, on scores that carry the gradient (one pass). An
objective of scope ``step`` runs once on the scores of all rows of the update, which every rank gets to know;
autograd then says how the loss changes with each score, and the scores are computed a second time,
micro-batch by micro-batch, with that weight (two passes). Both give the same gradient of the same formula.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmrl.batches.batch import TokenScores, Totals
from llmrl.batches.collate import Collated
from llmrl.batches.corrected import Corrected, corrected
from llmrl.objectives.algorithm import Algorithm
from llmrl.objectives.contract import Loss, Max, Mean, Scope
from llmrl.policy.reduce import Tally, reduce_loss
from llmrl.policy.zero import Zero

Forward = Callable[[Collated], TokenScores]
"""Computes the [M] scores of a micro-batch's targets."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Update:
    """The rows that one optimizer update trains on."""

    microbatches: Sequence[Collated]
    """This rank's share; every rank has equally many."""
    whole: Collated | None
    """All rows of all ranks, where the objective looks at all of them at once."""
    totals: Totals


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Known:
    """Results known before the step's first update: flat columns, [N] over its trained tokens."""

    old: TokenScores | None = None
    """The ``old`` scores; None if a single update takes its current scores, without gradient, for them."""
    reference: TokenScores | None = None
    advantage: Tensor | None = None
    """The step's credit after all shapings."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learner:
    """The policy, and all that trains it."""

    zero: Zero
    algorithm: Algorithm
    scope: Scope
    """The objective's scope; ``step`` is right for every objective, and costs a forward pass."""
    forward: Forward
    reference: Forward | None
    """The frozen model; None where nothing reads it."""
    sharers: int = 1
    """Ranks that share each micro-batch; all of them have all of its scores, and its loss."""

    def needs_old(self, updates: int) -> bool:
        """Whether the step is scored before its first update."""
        return self.scope == "step" or self.algorithm.needs_old(updates)

    def scan(self, microbatches: Sequence[Collated], *, tokens: int, old: bool) -> Known:
        """Score rows of a step before its first update.

        Args:
            microbatches: this rank's share of the rows, each once.
            tokens: N, trained tokens of the step over all ranks; those of other rows get 0.
            old: whether the policy's own scores are wanted.
        """
        reference = self._scan(self.reference, microbatches, tokens) if self.reference else None
        return Known(old=self._scan(self.forward, microbatches, tokens) if old else None, reference=reference)

    def shaped(self, everything: Collated, known: Known) -> Known:
        """Add the advantages of all rows after every shaping, the same on every rank."""
        assert known.old is not None  # promised by needs_old
        reference = None if known.reference is None else everything.taken(known.reference)
        batch = everything.batch(old=everything.taken(known.old), reference=reference)
        for shape in self.algorithm.shaping:
            batch = replace(batch, advantage=shape(batch))
        flat = batch.advantage.new_zeros(everything.trained_tokens)
        flat[everything.at] = batch.advantage.flatten()[everything.slots]
        return replace(known, advantage=flat)

    def step(self, updates: Sequence[Update], known: Known, *, tokens: int, lr: float) -> dict[str, float]:
        """Make all updates of a step.

        Every rank calls this alike. Each micro-batch's share of the loss has the denominators of the whole
        update, so the shares of all micro-batches on all ranks add up. If the loss or a gradient is not
        finite, weights and optimizer states stay as they are.

        Returns:
            The step's metrics, reduced over all updates, micro-batches and ranks; ``policy/skipped`` is the
            number of updates that were not made.
        """
        tally, norms, skipped = Tally(), list[float](), 0
        for number, update in enumerate(updates):
            if self.scope == "token":
                finite = self._one_pass(update, known, tally)
            else:
                current = known.old if number == 0 else self._scan(self.forward, update.microbatches, tokens)
                assert current is not None  # promised by needs_old
                finite = self._two_passes(update, current, known, tally)
            skip = not self.zero.all_agree(finite)
            norms.append(self.zero.step(lr=lr, skip=skip))
            skipped += skip or not math.isfinite(norms[-1])
        metrics = tally.over(self.zero)
        metrics["policy/loss"] /= len(updates)
        own = {"policy/grad_norm": sum(norms) / len(norms), "policy/lr": lr, "policy/skipped": float(skipped)}
        return metrics | own

    def _one_pass(self, update: Update, known: Known, tally: Tally) -> bool:
        finite = True
        for rows in update.microbatches:
            scores = self.forward(rows)
            share = self._share(rows, rows.scores(scores.logp, scores.entropy), update.totals, known, tally)
            tally.add("policy/loss", share / self.sharers)
            finite = finite and math.isfinite(share.item())
            self.zero.backward(share)
        return finite

    def _two_passes(self, update: Update, current: TokenScores, known: Known, tally: Tally) -> bool:
        assert update.whole is not None  # promised by the maker of the update
        flat = [current.logp.detach().requires_grad_()]
        if current.entropy is not None:
            flat.append(current.entropy.detach().requires_grad_())
        scores = update.whole.taken(TokenScores(logp=flat[0], entropy=flat[1] if flat[1:] else None))
        share = self._share(update.whole, scores, update.totals, known, tally)
        # Every rank has counted all of the loss.
        tally.add("policy/loss", share / self.zero.ranks)
        pulls = torch.autograd.grad(share, flat, allow_unused=True)
        for rows in update.microbatches:
            again = self.forward(rows)
            self.zero.backward(_pulled(rows, (again.logp, again.entropy), pulls))
        return math.isfinite(share.item())

    def _share(
        self, rows: Collated, current: TokenScores, totals: Totals, known: Known, tally: Tally
    ) -> Tensor:
        """The share of some rows in the update's loss; their metrics are added to ``tally``."""
        compared = self._compared(rows, current, known)
        batch = compared.batch
        loss = self.algorithm.objective(current, batch)
        own = batch.mask & ~batch.opponent[:, None]
        _count(tally, loss, current, own)
        if self.algorithm.online:
            _compare(tally, own, log_ratio=compared.log_ratio, weight=compared.weight)
        return reduce_loss(loss.value, batch.mask, totals, self.algorithm.objective.mean_over)

    def _compared(self, rows: Collated, current: TokenScores, known: Known) -> Corrected:
        """The batch as the objective sees it, with the difference of engine and trainer in its advantages."""
        old = _detached(current) if known.old is None else rows.taken(known.old)
        reference = None if known.reference is None else rows.taken(known.reference)
        batch = rows.batch(old=old, reference=reference)
        if known.advantage is not None:
            batch = replace(batch, advantage=rows.spread(known.advantage[rows.at]))
        return corrected(batch, self.algorithm.correction)

    @torch.no_grad()
    def _scan(self, forward: Forward, microbatches: Sequence[Collated], tokens: int) -> TokenScores:
        """[N] scores of all trained tokens of the step, of which each rank knows those of its rows."""
        scored = [(rows.at, forward(rows)) for rows in microbatches]
        flat = scored[0][1].logp.new_zeros(2, tokens)
        for at, scores in scored:
            flat[0, at] = scores.logp
            if scores.entropy is not None:
                flat[1, at] = scores.entropy
        flat = self.zero.total(flat) / self.sharers
        return TokenScores(logp=flat[0], entropy=None if scored[0][1].entropy is None else flat[1])


def _pulled(rows: Collated, columns: Sequence[Tensor | None], pulls: Sequence[Tensor | None]) -> Tensor:
    """A scalar with the gradient of the loss: each score times the derivative of the loss by it."""
    terms = [
        (pull[rows.at] * column).sum()
        for column, pull in zip(columns, pulls, strict=False)
        if pull is not None and column is not None
    ]
    first = columns[0]
    assert first is not None
    return sum(terms, start=first.sum() * 0.0)


def _detached(scores: TokenScores) -> TokenScores:
    return TokenScores(
        logp=scores.logp.detach(), entropy=None if scores.entropy is None else scores.entropy.detach()
    )


def _count(tally: Tally, loss: Loss, current: TokenScores, own: Tensor) -> None:
    if current.entropy is not None:
        tally.mean("policy/entropy", current.entropy, own)
    for name, metric in loss.metrics.items():
        match metric:
            case Mean(value=value, where=where):
                tally.mean(f"objective/{name}", value, where)
            case Max(value=value, where=where):
                tally.largest(f"objective/{name}", value, where)


def _compare(tally: Tally, own: Tensor, *, log_ratio: Tensor, weight: Tensor) -> None:
    """Measure how far the engine that sampled is from the policy that trains, on the policy's own tokens."""
    tally.mean("policy/kl_sampled", -log_ratio, own)
    tally.mean("correction/mean", weight, own)
    tally.largest("correction/largest", weight, own)
    tally.mean("correction/masked_rate", (weight == 0).float(), own)
