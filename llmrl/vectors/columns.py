"""A vector's columns as an update for an objective, like the trainer's, and the claims about the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores
from llmrl.errors import shown
from llmrl.objectives.contract import MeanOver, Objective, objective
from llmrl.testing.gradient import Outcome, outcome
from llmrl.testing.update import Update, totals_of
from llmrl.vectors.claim import Answer, Claim
from llmrl.vectors.vector import Unknown, Vector, as_tensor

REDUCTIONS: Mapping[str, MeanOver] = {
    "token-mean": "tokens",
    "seq-mean-token-mean": "responses",
    "mean over rows": "responses",
    "seq-mean-token-sum": 1,
}
"""``mean_over`` for each name of a reduction."""


def mean_over(vector: Vector, mode: str | None = None) -> dict[str, MeanOver]:
    """The option ``mean_over`` that a vector asks for; empty if it leaves that to the method.

    Raises:
        Unknown: a reduction by another name.
    """
    mode = mode or vector.config.get("loss_agg_mode") or vector.config.get("reduction")
    constant = vector.config.get("dr_constant") or vector.config.get("L_max")
    if mode == "seq-mean-token-sum-norm":
        return {"mean_over": int(constant or mask_of(vector).shape[1])}
    if mode is None:
        return {"mean_over": int(constant)} if constant else {}
    if mode not in REDUCTIONS:
        raise Unknown(f"a reduction called {shown(mode)}")
    return {"mean_over": REDUCTIONS[mode]}


def clips(vector: Vector) -> dict[str, float]:
    """The clip bounds, and the dual clip where the vector has one."""
    names = {"clip_low": "clip_low", "clip_high": "clip_high", "dual_clip": "clip_ratio_c"}
    found = {option: vector.config.get(name) for option, name in names.items()}
    found["dual_clip"] = found["dual_clip"] or vector.config.get("dual_clip")
    return {option: float(value) for option, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An objective with the options of a vector."""

    objective: Objective
    named: str
    """Name and options, as a recipe would write them."""

    @classmethod
    def of(cls, name: str, **options: Any) -> Made:
        """The objective of this name and these options."""
        text = ", ".join(f"{key}={value}" for key, value in options.items())
        return cls(objective=objective.build(name, options, key="objective"), named=f"{name}({text})")


def mask_of(vector: Vector) -> Tensor:
    """[B, T] bool mask of a vector."""
    return vector.tensor("turn_mask" if "turn_mask" in vector else "mask").bool()


def column(vector: Vector, name: str) -> Tensor:
    """[B, T] column of a vector, and 0 outside the mask, as the collator promises."""
    return vector.tensor(name).where(mask_of(vector), 0.0)


def update_of(vector: Vector, reader: Objective, **changes: Any) -> Update:
    """The update of a vector, with the optional columns that the objective reads.

    Args:
        vector: has at least ``logprobs`` and a mask.
        reader: the objective.
        changes: columns of the batch that the vector does not contain as they are.
    """
    mask = mask_of(vector)
    current = scores(vector, "logprobs", "entropies")
    old = scores(vector, "old_logprobs", "old_entropies", otherwise=current)
    given: dict[str, Any] = {
        "mask": mask,
        "advantage": advantage_of(vector),
        "reward": rewards_of(vector),
        "group": torch.zeros(mask.shape[0], dtype=torch.int64),
        "turn": turns_of(vector),
        "pairs": torch.zeros(0, 2, dtype=torch.int64),
        "opponent": torch.zeros(mask.shape[0], dtype=torch.bool),
        "sampled": scores(vector, "rollout_logprobs", otherwise=old),
        "old": old,
        "reference": scores(vector, "ref_logprobs") if "reference" in reader.reads else None,
        "noise": torch.zeros(mask.shape, dtype=torch.float64) if "noise" in reader.reads else None,
    }
    batch = Batch(**given | changes)
    return Update(current=current, batch=batch, totals=totals_of(batch, budget=mask.shape[1]))


def scores(
    vector: Vector, logp: str, entropy: str | None = None, *, otherwise: TokenScores | None = None
) -> TokenScores:
    """Two columns of a vector; ``otherwise`` if it lacks the first."""
    if otherwise is not None and logp not in vector:
        return otherwise
    present = entropy is not None and entropy in vector
    return TokenScores(logp=column(vector, logp), entropy=column(vector, str(entropy)) if present else None)


def advantage_of(vector: Vector) -> Tensor:
    """[B, T] advantages; one number per response stands for all of its tokens."""
    mask = mask_of(vector)
    if "advantages" not in vector:
        return torch.zeros(mask.shape, dtype=torch.float64)
    return on_tokens(vector.tensor("advantages"), mask)


def on_tokens(advantage: Tensor, mask: Tensor) -> Tensor:
    """Expand [B] or [B, T] to [B, T], with 0 outside the mask."""
    wide = advantage if advantage.ndim == 2 else advantage[:, None].expand(mask.shape)
    return wide.where(mask, 0.0)


def rewards_of(vector: Vector) -> Tensor:
    """[B] rewards of a vector."""
    for name in ("rewards", "scores"):
        if name in vector:
            return vector.tensor(name)
    return torch.zeros(mask_of(vector).shape[0], dtype=torch.float64)


def turns_of(vector: Vector) -> Tensor:
    """[B, T] int64 turns of a vector."""
    mask = mask_of(vector)
    if "turn_ids" not in vector:
        return torch.zeros(mask.shape, dtype=torch.int64)
    return column(vector, "turn_ids").to(torch.int64)


def claims_of(
    vector: Vector, found: Outcome, update: Update, *, loss: str = "loss", gradient: str = "grad_logprobs"
) -> list[Claim]:
    """Claims about the loss, its gradient, and a gradient of 0 on padding."""
    outside = found.logp.where(~update.batch.mask, 0.0)
    claims = [
        Claim(quantity=loss, kind="loss", ours=found.loss, theirs=as_tensor(vector.outputs[loss])),
        Claim(
            quantity=gradient, kind="gradient", ours=found.logp, theirs=as_tensor(vector.outputs[gradient])
        ),
        Claim(
            quantity="gradient outside the mask",
            kind="gradient",
            ours=outside,
            theirs=torch.zeros_like(outside),
            exact=True,
        ),
    ]
    if found.entropy is not None and vector.outputs.get("grad_entropies") is not None:
        wanted = as_tensor(vector.outputs["grad_entropies"])
        claims.append(Claim(quantity="grad_entropies", kind="gradient", ours=found.entropy, theirs=wanted))
    return claims


def other(vector: Vector, quantity: str, ours: Tensor) -> list[Claim]:
    """A claim about another output, if the vector has it."""
    if quantity not in vector.outputs:
        return []
    theirs = as_tensor(vector.outputs[quantity])
    return [Claim(quantity=quantity, kind="other", ours=ours.double(), theirs=theirs)]


def answer(vector: Vector, made: Made, update: Update, *more: Claim, by: str = "") -> Answer:
    """The claims about an objective's result on an update, and any others found on the way."""
    found = outcome(made.objective, update)
    return Answer(by=f"{by}{made.named}", claims=[*claims_of(vector, found, update), *more])
