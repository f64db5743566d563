"""Checks that no order, packing or split of the rows over micro-batches and ranks can change a gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from llmrl.batches.batch import TokenScores
from llmrl.objectives.contract import Objective
from llmrl.testing.finding import Fault, LeftOut, differs, worst
from llmrl.testing.gradient import Outcome, Rows, outcome, share
from llmrl.testing.tiny import blocks, tiny_update
from llmrl.testing.update import Update

RANKS = 3
FEATURES = 4
VOCABULARY = 5


def same_in_any_order(objective: Objective, seed: int) -> None:
    """The order of the rows does not matter."""
    update = tiny_update(objective, seed)
    shuffled = torch.randperm(update.rows, generator=torch.Generator().manual_seed(seed))
    expected = outcome(objective, update)
    found = outcome(objective, update, [[int(row) for row in shuffled]])
    if differs(found.loss, expected.loss) or differs(found.logp, expected.logp):
        raise Fault(
            f"the gradient depends on the order of the rows: shuffled, {worst(found.logp, expected.logp)}. "
            f"Compare rows by `batch.group` and `batch.pairs`, never by their place."
        )


def same_in_micro_batches(objective: Objective, seed: int) -> None:
    """The shares of micro-batches of unequal size add up to the gradient of the whole update."""
    update, units = _in_parts(objective, seed)
    cut = max(1, len(units) // 4)
    parts = [_joined(units[:cut]), _joined(units[cut : 2 * cut]), _joined(units[2 * cut :])]
    _compare(objective, update, parts, f"split into {len(parts)} micro-batches")


def same_on_ranks(objective: Objective, seed: int) -> None:
    """The shares of ranks add up, also where a rank has nothing to train on."""
    update, units = _in_parts(objective, seed)
    bare = [unit for unit in units if not update.batch.mask[unit].any()]
    busy = [unit for unit in units if unit not in bare]
    parts = [_joined(busy[rank::RANKS]) for rank in range(RANKS)]
    parts = [part for part in [*parts, _joined(bare)] if part]
    _compare(objective, update, parts, f"dealt to {len(parts)} ranks")


def same_when_packed(objective: Objective, seed: int) -> None:
    """Each response in a call of its own, as wide as itself: how packing without padding may cut them."""
    update, units = _in_parts(objective, seed)
    _compare(objective, update, units, "in as many calls as possible, each as wide as its longest row")


def same_in_two_passes(objective: Objective, seed: int) -> None:
    """``sum(w * logp)`` with w from one look at the whole update has the gradient of the loss itself.

    This is how ``scope = "step"`` is run, and it must give the same for every objective.
    """
    update = tiny_update(objective, seed)
    policy = Policy(update, seed)
    direct = policy.gradient_of(objective, update)
    weights = outcome(objective, replace(update, current=policy.scores(detached=True)))
    through = policy.gradient_with(weights)
    if differs(through, direct, rtol=1e-8):
        raise Fault(
            f"two passes give another gradient than one: {worst(through, direct)}. The loss may depend on "
            f"the policy through current.logp and current.entropy only, and is the same when asked again."
        )


class Policy:
    """A linear policy over random features of each token, so that scores have parameters behind them."""

    def __init__(self, update: Update, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        shape = update.batch.mask.shape
        self._theta = torch.randn(FEATURES, VOCABULARY, generator=draw, dtype=torch.float64)
        self._theta.requires_grad_()
        self._features = torch.randn(*shape, FEATURES, generator=draw, dtype=torch.float64)
        self._tokens = torch.randint(0, VOCABULARY, shape, generator=draw)
        self._mask, self._entropy = update.batch.mask, update.current.entropy is not None

    def scores(self, *, detached: bool = False) -> TokenScores:
        """Scores of its tokens; exactly 0 outside the mask."""
        logits = (self._features @ (self._theta.detach() if detached else self._theta)).log_softmax(-1)
        logp = logits.gather(-1, self._tokens[..., None])[..., 0].where(self._mask, 0.0)
        entropy = -(logits.exp() * logits).sum(-1).where(self._mask, 0.0)
        return TokenScores(logp=logp, entropy=entropy if self._entropy else None)

    def gradient_of(self, objective: Objective, update: Update) -> torch.Tensor:
        """[FEATURES, VOCABULARY] gradient in one pass over all rows."""
        seen = replace(update, current=self.scores())
        total = share(objective, objective(seen.current, seen.batch), seen)
        return self._gradient(total)

    def gradient_with(self, weights: Outcome) -> torch.Tensor:
        """[FEATURES, VOCABULARY] gradient in the second of two passes."""
        scores = self.scores()
        total = (weights.logp * scores.logp).sum()
        if weights.entropy is not None and scores.entropy is not None:
            total = total + (weights.entropy * scores.entropy).sum()
        return self._gradient(total)

    def _gradient(self, total: torch.Tensor) -> torch.Tensor:
        if not total.requires_grad:
            return torch.zeros_like(self._theta)
        return torch.autograd.grad(total, self._theta, allow_unused=True, materialize_grads=True)[0]


def _in_parts(objective: Objective, seed: int) -> tuple[Update, list[list[int]]]:
    if objective.scope == "step":
        raise LeftOut('with scope = "step" it is called once, on all rows, whatever the split.')
    update = tiny_update(objective, seed)
    return update, blocks(update)


def _compare(objective: Objective, update: Update, parts: Sequence[Rows], how: str) -> None:
    expected, found = outcome(objective, update), outcome(objective, update, parts)
    if differs(found.loss, expected.loss) or differs(found.logp, expected.logp):
        raise Fault(
            f"the split of the update changes its gradient: {how}, {worst(found.logp, expected.logp)}. "
            f"Return unreduced losses and let `mean_over` divide them; a loss that needs statistics of all "
            f'rows has scope "step".'
        )
    _refuse_split_metrics(expected, found, how)


def _refuse_split_metrics(expected: Outcome, found: Outcome, how: str) -> None:
    for name, value in expected.metrics.items():
        if not abs(found.metrics[name] - value) <= 1e-9 * (1 + abs(value)):
            raise Fault(
                f"the split of the update changes metric '{name}': {how}, {found.metrics[name]:.6g} instead "
                f"of {value:.6g}. Give Mean or Max the unreduced values and `where` they count."
            )


def _joined(units: Sequence[Sequence[int]]) -> list[int]:
    return [row for unit in units for row in unit]
