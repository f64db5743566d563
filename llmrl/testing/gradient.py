"""Results of an objective on an update: its mean loss, gradient and metrics, for any split of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmrl.batches.batch import TokenScores
from llmrl.objectives.contract import Loss, Mean, Objective
from llmrl.policy.reduce import Tally, reduce_loss
from llmrl.testing.update import Update

Rows = Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """One update of one objective."""

    loss: Tensor
    """Scalar mean over the whole update."""
    logp: Tensor
    """[B, T] gradient of the loss; 0 where the loss does not depend on it."""
    entropy: Tensor | None
    """[B, T] gradient of the loss; None where the objective does not read entropies."""
    metrics: Mapping[str, float]


class Alone:
    """The ranks of a step that has only one rank."""

    def total(self, values: Tensor) -> Tensor:
        return values

    def largest(self, values: Tensor) -> Tensor:
        return values


def outcome(objective: Objective, update: Update, parts: Sequence[Rows] | None = None) -> Outcome:
    """The loss of ``update``, its gradient with respect to ``current``, and its metrics.

    Args:
        objective: called once for each part.
        update: all rows.
        parts: rows of each micro-batch; by default all rows are in one, as wide as they are.
    """
    logp = update.current.logp.detach().clone().requires_grad_()
    entropy = update.current.entropy
    entropy = None if entropy is None else entropy.detach().clone().requires_grad_()
    tally = Tally()
    shares = [logp[:0].sum()]
    for part, current in _pieces(update, TokenScores(logp=logp, entropy=entropy), parts):
        loss = objective(current, part.batch)
        shares.append(share(objective, loss, part))
        count(loss, tally)
    total = torch.stack(shares).sum()
    leaves = [logp] if entropy is None else [logp, entropy]
    gradients = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return Outcome(
        loss=total.detach(),
        logp=gradients[0],
        entropy=None if entropy is None else gradients[1],
        metrics=tally.over(Alone()),
    )


def share(objective: Objective, loss: Loss, part: Update) -> Tensor:
    """The share of a part in the mean loss of its update."""
    return reduce_loss(loss.value, part.batch.mask, part.totals, objective.mean_over)


def count(loss: Loss, tally: Tally) -> None:
    """Add the metrics of one call to those of the update."""
    for name, metric in loss.metrics.items():
        add = tally.mean if isinstance(metric, Mean) else tally.largest
        add(name, metric.value, metric.where)


def _pieces(
    update: Update, leaves: TokenScores, parts: Sequence[Rows] | None
) -> list[tuple[Update, TokenScores]]:
    if parts is None:
        return [(update, leaves)]
    pieces: list[tuple[Update, TokenScores]] = []
    for rows in parts:
        part, chosen = update.part(rows), torch.tensor(rows, dtype=torch.int64)
        entropy = None if leaves.entropy is None else leaves.entropy[chosen, : part.width]
        pieces.append((part, TokenScores(logp=leaves.logp[chosen, : part.width], entropy=entropy)))
    return pieces
