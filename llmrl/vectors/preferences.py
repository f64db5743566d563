"""Vectors of preferences: losses over pairs, and policy gradients against an opponent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from llmrl.objectives.nash import NashMD
from llmrl.rollouts.engines.opponent import geometric_mixture, move_average
from llmrl.testing.estimates import World
from llmrl.vectors.claim import Answer
from llmrl.vectors.columns import Made, answer, mask_of, mean_over, on_tokens, other, update_of
from llmrl.vectors.vector import Unknown, Vector

KINDS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "sigmoid": ("dpo", {}),
    "sigmoid_norm": ("dpo", {"score": "mean"}),
    "hinge": ("hinge", {}),
    "ipo_sum": ("ipo", {"score": "sum"}),
    "ipo_avg": ("ipo", {"score": "mean"}),
    "cdpo": ("cdpo", {}),
    "robust": ("rdpo", {}),
}
"""Objective and options for each name of a loss of the margin."""

CHARGES = {"paper_reward_to_go": "reward_to_go", "sequence": "sequence", "trl_token": "token"}
"""Nash-MD's option ``kl`` for each name in the vectors."""


def dpo(vector: Vector) -> Answer:
    """Compare any loss of the margin between two log-ratios."""
    kind = vector.setting("kind")
    if kind not in KINDS:
        raise Unknown(f"a loss of pairs called {kind}")
    name, options = KINDS[kind]
    if name in ("cdpo", "rdpo"):
        options = {**options, "flipped": vector.setting("label_smoothing")}
    made = Made.of(name, beta=vector.setting("beta"), **options)
    update = update_of(vector, made.objective, pairs=pairs_of(vector))
    value = made.objective(update.current, update.batch).value
    return answer(vector, made, update, *other(vector, "per_pair_loss", value))


def refuel(vector: Vector) -> Answer:
    return _regression(vector, "refuel")


def rebel(vector: Vector) -> Answer:
    return _regression(vector, "rebel")


def xpo(vector: Vector) -> Answer:
    """Compare XPO: the first rows are the policy's, the others the reference's, in the same order."""
    made = Made.of("xpo", beta=vector.setting("beta"), optimism=vector.setting("alpha"))
    first = vector.tensor("model_is_chosen").bool()
    own = torch.arange(first.numel())
    theirs = own + first.numel()
    pairs = torch.stack([own.where(first, theirs), theirs.where(first, own)], dim=-1)
    opponent = torch.arange(2 * first.numel()) >= first.numel()
    return answer(vector, made, update_of(vector, made.objective, pairs=pairs, opponent=opponent))


def nash_md(vector: Vector) -> Answer:
    """Compare Nash-MD, whose advantage is the preference less its control variate, as credit makes it."""
    mode = vector.setting("kl_mode")
    if mode not in CHARGES:
        raise Unknown(f"a KL of Nash-MD called {mode}")
    made = Made.of("nash_md", kl=CHARGES[mode], kl_weight=vector.setting("tau"), **mean_over(vector))
    advantage = vector.tensor("preference_prob") - vector.setting("control_variate")
    given = on_tokens(advantage, mask_of(vector))
    return answer(vector, made, update_of(vector, made.objective, advantage=given))


def nash_exactness(vector: Vector) -> Answer:
    """Compare, over every response, which forms of the KL have the gradient of the KL on average."""
    world = World.of(vector.tensor("theta"), vector.tensor("log_mu"), vector.setting("N"))
    nothing = torch.zeros(world.responses.shape[0], dtype=torch.float64)
    exact = world.exact_gradient(world.log_ratio)
    claims = [
        *other(vector, "exact_kl", (world.chances * world.log_ratio).sum().detach()),
        *other(vector, "grad_norm_exact", exact.square().sum().sqrt()),
    ]
    for name, kl in CHARGES.items():
        found = world.expected_gradient(NashMD(kl=kl, kl_weight=1.0), nothing)  # type: ignore[arg-type]
        cosine = torch.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
        claims += other(vector, f"{name}_max_abs_err", (found - exact).abs().max())
        claims += other(vector, f"{name}_cosine", cosine)
    return Answer(by="nash_md(kl=reward_to_go, sequence, token), all responses enumerated", claims=claims)


def nash_mixture(vector: Vector) -> Answer:
    mixed = geometric_mixture(
        vector.tensor("model_logits"), vector.tensor("ref_logits"), weight=vector.setting("mixture_coef")
    )
    claims = other(vector, "mixture_logprobs", mixed.log_softmax(-1))
    return Answer(by="rollouts.opponent.geometric_mixture", claims=claims)


def nash_average(vector: Vector) -> Answer:
    average = vector.tensor("theta_bar")
    move_average(average, vector.tensor("theta"), decay=vector.setting("beta"))
    return Answer(by="rollouts.opponent.move_average", claims=other(vector, "theta_bar_next", average))


def pairs_of(vector: Vector) -> Tensor:
    """[P, 2] rows with the same id, the chosen one first if the vector marks it."""
    ids = vector.tensor("pair_ids")
    chosen = vector.tensor("is_chosen") if "is_chosen" in vector else torch.zeros_like(ids)
    order = torch.argsort(chosen, descending=True, stable=True)
    return torch.stack([order[ids[order] == pair] for pair in sorted({int(one) for one in ids} - {-1})])


def _regression(vector: Vector, name: str) -> Answer:
    weight = vector.config.get("kl_coef")
    made = Made.of(name, eta=vector.setting("eta"), **({} if weight is None else {"kl_weight": weight}))
    update = update_of(vector, made.objective, pairs=pairs_of(vector))
    return answer(vector, made, update)
