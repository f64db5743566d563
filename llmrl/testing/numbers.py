"""Checks of the numbers: extremes stay finite, low precision stays close, and no credit means no gradient."""

from __future__ import annotations

from dataclasses import replace

import torch

from llmrl.batches.batch import TokenScores
from llmrl.objectives.contract import Objective
from llmrl.testing.finding import Fault, LeftOut, differs, worst
from llmrl.testing.gradient import Outcome, outcome
from llmrl.testing.tiny import tiny_update
from llmrl.testing.update import Update

FAR = 1e3
"""Nats between policies that have nothing in common."""

ALIKE = 0.8
"""Least cosine of a gradient of bfloat16 columns, where thresholds decide differently for some tokens."""


def finite_at_extremes(objective: Objective, seed: int) -> None:
    """In float32, with 1000 nats between policies and entropies of 0, everything stays finite."""
    found = outcome(objective, _extreme(tiny_update(objective, seed), seed).cast(torch.float32))
    gradients = [found.logp] if found.entropy is None else [found.logp, found.entropy]
    numbers = {"the loss": found.loss, "the gradient": torch.cat(gradients)}
    for name, value in numbers.items():
        if not value.isfinite().all():
            raise Fault(
                f"{name} is not finite where policies are {FAR:g} nats apart, in float32: clamp differences "
                f"of logps, to +-20 say, before `exp`, and keep divisors away from 0."
            )


def close_in_float32(objective: Objective, seed: int) -> None:
    """float32 columns, which training has, give the gradient of the same numbers in float64."""
    update = tiny_update(objective, seed).cast(torch.float32)
    expected, found = outcome(objective, update.cast(torch.float64)), outcome(objective, update)
    if differs(found.logp.double(), expected.logp, rtol=1e-3):
        raise Fault(
            f"float32 is too coarse for it: {worst(found.logp.double(), expected.logp)}, which float64 gives."
        )


def close_in_bfloat16(objective: Objective, seed: int) -> None:
    """bfloat16 columns give a gradient in the same direction."""
    update = tiny_update(objective, seed).cast(torch.bfloat16)
    expected, found = outcome(objective, update.cast(torch.float64)).logp, outcome(objective, update).logp
    cosine = torch.cosine_similarity(found.double().flatten(), expected.flatten(), dim=0)
    if expected.any() and not cosine > ALIKE:
        raise Fault(
            f"with bfloat16 columns the gradient points elsewhere: its cosine with float64's is {cosine:.3f}."
        )


def still_without_credit(objective: Objective, seed: int) -> None:
    """Nothing to learn and nowhere drifted: the gradient is exactly 0.

    With no advantage and no reward, and with current, old, sampled and reference all the same, every
    penalty is at its minimum.
    """
    update = tiny_update(objective, seed)
    settled = _settled(update)
    if not differs(outcome(objective, _without_credit(update)).logp, outcome(objective, update).logp):
        raise LeftOut("its gradient depends on neither advantage nor reward.")
    gradient = outcome(objective, _without_credit(settled)).logp
    if (gradient != 0).any():
        raise Fault(
            f"with no advantage, no reward and a policy equal to old and reference it still trains: "
            f"{worst(gradient, gradient * 0)}. A term that is neither credit nor a penalty is left (the "
            f"plain log-ratio k1 as a penalty has gradient 1 everywhere)."
        )


def plain_metrics(objective: Objective, seed: int) -> None:
    """Metrics are finite where they count, carry no gradient, and have one value per place."""
    update = tiny_update(objective, seed)
    leaf = replace(update.current, logp=update.current.logp.clone().requires_grad_())
    for name, metric in objective(leaf, update.batch).metrics.items():
        if metric.value.shape != metric.where.shape:
            raise Fault(
                f"metric '{name}': value {list(metric.value.shape)} and where {list(metric.where.shape)} "
                f"differ in shape."
            )
        if metric.value.requires_grad:
            raise Fault(f"metric '{name}' carries a gradient, which keeps the graph alive; detach it.")
        if not metric.value[metric.where].isfinite().all():
            raise Fault(f"metric '{name}' is not finite at a place where it counts.")


def same_when_asked_again(objective: Objective, seed: int) -> None:
    """The same input has the same outcome, to the last bit, whatever the global random state is."""
    update = tiny_update(objective, seed)
    first, second = _seeded(objective, update, 1), _seeded(objective, update, 2)
    if not (torch.equal(first.loss, second.loss) and torch.equal(first.logp, second.logp)):
        raise Fault(
            "asked twice, it gives two gradients. Randomness comes from `batch.noise` (name it in `reads`), "
            "which is the same on every rank, in every split and after a resume."
        )


def _seeded(objective: Objective, update: Update, seed: int) -> Outcome:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return outcome(objective, update)


def _extreme(update: Update, seed: int) -> Update:
    """An update with every score either -1 or -1001 nats, every entropy 0 or 1."""
    draw, mask = torch.Generator().manual_seed(seed), update.batch.mask

    def scores(like: TokenScores) -> TokenScores:
        far = torch.rand(mask.shape, generator=draw, dtype=torch.float64) < 0.5
        flat = torch.rand(mask.shape, generator=draw, dtype=torch.float64) < 0.5
        return TokenScores(
            logp=(-1 - FAR * far).where(mask, 0.0),
            entropy=None if like.entropy is None else flat.double().where(mask, 0.0),
        )

    batch = replace(
        update.batch,
        sampled=scores(update.batch.sampled),
        old=scores(update.batch.old),
        reference=None if update.batch.reference is None else scores(update.batch.reference),
    )
    return replace(update, current=scores(update.current), batch=batch)


def _settled(update: Update) -> Update:
    """The update with a policy that has not moved from any other."""
    old = update.batch.old
    same = TokenScores(logp=old.logp)
    reference = None if update.batch.reference is None else same
    batch = replace(update.batch, sampled=same, reference=reference)
    return replace(update, current=old, batch=batch)


def _without_credit(update: Update) -> Update:
    batch = replace(update.batch, reward=torch.zeros_like(update.batch.reward))
    return replace(update, batch=batch).with_advantage(torch.zeros_like(batch.advantage))
