"""Vectors of policy gradients: the options that each name and config stand for."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from llmrl.batches.corrected import corrected
from llmrl.experience.correction import Bypass, Correction, Level, Masked, Truncated
from llmrl.objectives.contract import Mean
from llmrl.objectives.empg import EntropyModulation
from llmrl.testing.gradient import outcome, share
from llmrl.testing.update import Update
from llmrl.vectors.claim import Answer, Claim
from llmrl.vectors.columns import (
    Made,
    answer,
    claims_of,
    clips,
    mask_of,
    mean_over,
    other,
    update_of,
)
from llmrl.vectors.vector import Unknown, Vector, as_tensor


def clipped(vector: Vector, name: str, **options: Any) -> Answer:
    """Compare GRPO's formula under one of its names."""
    config = vector.config
    if config.get("kl"):
        options |= {"kl_weight": config["kl_coef"], "kl": config["kl"]}
    made = Made.of(name, **clips(vector), **mean_over(vector), **options)
    update = update_of(vector, made.objective)
    return answer(vector, made, update, *_details(vector, made, update))


def grpo(vector: Vector) -> Answer:
    return clipped(vector, "grpo")


def dapo(vector: Vector) -> Answer:
    return clipped(vector, "dapo")


def on_policy(vector: Vector) -> Answer:
    """Compare the first update of a step, where ``old`` is the policy itself."""
    return dapo(replace(vector, inputs={**vector.inputs, "old_logprobs": vector.inputs["logprobs"]}))


def gspo(vector: Vector) -> Answer:
    return clipped(vector, "gspo")


def dr_grpo(vector: Vector) -> Answer:
    return clipped(vector, "dr_grpo")


def gppo(vector: Vector) -> Answer:
    weight = vector.config.get("alpha")
    return clipped(vector, "gppo", **({} if weight is None else {"positive_weight": weight}))


def ce_gppo(vector: Vector) -> Answer:
    weights = {"low_weight": vector.setting("beta1"), "high_weight": vector.setting("beta2")}
    return clipped(vector, "ce_gppo", **weights)


def erc_dapo(vector: Vector) -> Answer:
    return _erc(vector, "dapo")


def erc_gppo(vector: Vector) -> Answer:
    return _erc(vector, "gppo")


def cispo(vector: Vector) -> Answer:
    options = {"ratio_cap": vector.setting("cap"), "ratio_floor": vector.config.get("floor") or 0.0}
    made = Made.of("cispo", **options, **mean_over(vector))
    return answer(vector, made, update_of(vector, made.objective))


def aipo(vector: Vector) -> Answer:
    made = Made.of("cispo", ratio_cap=vector.setting("rho"), **mean_over(vector))
    return _with_correction(vector, made, Bypass(), "bypass")


def mhpo(vector: Vector) -> Answer:
    names = {"reach": "c", "power_high": "k_pos", "scale_high": "lam_pos"}
    names |= {"power_low": "k_neg", "scale_low": "lam_neg"}
    options = {option: vector.setting(name) for option, name in names.items()}
    made = Made.of("mhpo", **options, **mean_over(vector))
    return answer(vector, made, update_of(vector, made.objective))


def r2vpo(vector: Vector) -> Answer:
    made = Made.of("r2vpo", price=vector.setting("lam"), **mean_over(vector))
    update = update_of(vector, made.objective)
    variance = outcome(made.objective, update).metrics["ratio_variance"]
    return answer(vector, made, update, *other(vector, "ratio_variance", as_tensor(variance)))


def bypass(vector: Vector) -> Answer:
    made = Made.of("grpo", **clips(vector), **mean_over(vector))
    return _with_correction(vector, made, Bypass(), "bypass")


def pitfall(vector: Vector) -> Answer:
    """Compare a known mistake: its numbers must differ from ours."""
    made = Made.of("dr_grpo", **clips(vector), **mean_over(vector))
    update = update_of(vector, made.objective)
    claims = claims_of(vector, outcome(made.objective, update), update)
    negative = [claim if claim.exact else replace(claim, negative=True) for claim in claims]
    return Answer(by=f"differs, as it must: {made.named}", claims=negative)


def clip_cov(vector: Vector) -> Answer:
    """Compare with noise that draws the tokens that the vector drew."""
    config = {"fraction": "clip_cov_ratio", "cov_low": "clip_cov_lb", "cov_high": "clip_cov_ub"}
    options = {option: vector.setting(name) for option, name in config.items()}
    made = Made.of("clip_cov", **clips(vector), **options, **mean_over(vector))
    noise = torch.ones(mask_of(vector).shape, dtype=torch.float64)
    for row, token in vector.outputs["chosen"]:
        noise[row, token] = 0.0
    update = update_of(vector, made.objective, noise=noise)
    return answer(vector, made, update, *_chosen(vector, made, update, "chosen"))


def kl_cov(vector: Vector) -> Answer:
    options = {"fraction": vector.setting("kl_cov_ratio"), "weight": vector.setting("ppo_kl_coef")}
    made = Made.of("kl_cov", **options, **mean_over(vector))
    update = update_of(vector, made.objective)
    return answer(vector, made, update, *_chosen(vector, made, update, "selected"))


def empg(vector: Vector) -> Answer:
    """Compare the shaping that makes the advantages, then the loss."""
    shape = EntropyModulation(
        k=vector.setting("k"), k_next=vector.setting("k_f"), zeta=vector.setting("zeta")
    )
    made = Made.of("empg", **clips(vector), **mean_over(vector))
    update = update_of(vector, made.objective)
    shaped = shape(update.batch)
    return answer(
        vector,
        made,
        update.with_advantage(shaped),
        *other(vector, "advantages", shaped),
        by="shaping empg, ",
    )


def correction(vector: Vector) -> Answer:
    """Compare importance weights between engine and trainer, in the advantages of a clipped loss."""
    weights, named = _correction(vector)
    made = Made.of("grpo", **clips(vector), **mean_over(vector))
    return _with_correction(vector, made, weights, named)


def kl_estimators(vector: Vector) -> Answer:
    """Compare each estimator as the only term of GRPO's loss, without advantages."""
    claims: list[Claim] = []
    for name, wanted in vector.outputs.items():
        corrected_by_ratio = name == "k3_bias_corrected_trl"
        kind = "k3" if corrected_by_ratio else name.removesuffix("_unclamped")
        options = {"kl_weight": 1.0, "kl": kind, "kl_corrected": corrected_by_ratio}
        made = Made.of("grpo", **options, **mean_over(vector))
        update = update_of(vector, made.objective)
        one = replace(vector, outputs=wanted)
        claims += claims_of(one, outcome(made.objective, update), update)
        value = made.objective(update.current, update.batch).value.where(update.batch.mask, 0.0)
        claims += other(one, "per_token_masked", value)
    return Answer(by="grpo(kl=k1, abs, k2, k3, k1+, k3+, kl_corrected)", claims=claims)


def microbatches(vector: Vector) -> Answer:
    """Compare the shares of micro-batches, with the denominators of the whole update."""
    parts = [list(range(*bounds)) for bounds in vector.setting("split")]
    claims: list[Claim] = []
    for mode, wanted in vector.outputs.items():
        made = Made.of("dapo", **clips(vector), **mean_over(vector, mode))
        update = update_of(vector, made.objective)
        one = replace(vector, outputs=wanted)
        found = outcome(made.objective, update, parts)
        pieces = [update.part(rows) for rows in parts]
        shares = [
            share(made.objective, made.objective(piece.current, piece.batch), piece) for piece in pieces
        ]
        claims += claims_of(one, found, update, loss="full_loss")
        claims += other(one, "micro_losses_global_denominator", torch.stack(shares))
    return Answer(by="dapo(...) in micro-batches, policy.reduce", claims=claims)


def empty_row(vector: Vector) -> Answer:
    """Compare a response without a trained token, under every reduction."""
    claims: list[Claim] = []
    modes = [name.removeprefix("loss_") for name in vector.outputs if name.startswith("loss_")]
    for mode in modes:
        made = Made.of("grpo", **clips(vector), **mean_over(vector, mode))
        update = update_of(vector, made.objective)
        found = outcome(made.objective, update)
        claims += claims_of(vector, found, update, loss=f"loss_{mode}", gradient=f"grad_{mode}")
    return Answer(by=f"grpo(mean_over: {len(modes)} kinds), policy.reduce", claims=claims)


def _erc(vector: Vector, base: str) -> Answer:
    bounds = {name: vector.setting(name) for name in ("entropy_low", "entropy_high")}
    made = Made.of("erc", base=base, **bounds, **clips(vector), **mean_over(vector))
    update = update_of(vector, made.objective)
    kept = _metric(made, update, "entropy_kept_fraction")
    found = outcome(made.objective, update).metrics["entropy_kept_fraction"]
    return answer(
        vector,
        made,
        update,
        *other(vector, "keep_mask", kept),
        *other(vector, "entropy_keep_frac", as_tensor(found)),
    )


def _metric(made: Made, update: Update, name: str) -> Tensor:
    """[B, T] flags whose mean is a metric, 0 outside the mask."""
    metric = made.objective(update.current, update.batch).metrics[name]
    assert isinstance(metric, Mean)
    return metric.value.double().where(update.batch.mask, 0.0)


def _details(vector: Vector, made: Made, update: Update) -> list[Claim]:
    """Claims about clip fractions, and the loss of each token."""
    loss = made.objective(update.current, update.batch)
    claims = other(vector, "per_token_loss_masked", loss.value.where(update.batch.mask, 0.0))
    metrics = outcome(made.objective, update).metrics
    names = {"clipfrac": "clip_fraction", "clipfrac_lower": "dual_clip_fraction", "ppo_kl": "kl_old"}
    for quantity, metric in names.items():
        if metric in metrics:
            claims += other(vector, quantity, as_tensor(metrics[metric]))
    return claims


def _chosen(vector: Vector, made: Made, update: Update, output: str) -> list[Claim]:
    """Claims about the tokens that the method has chosen."""
    wanted = torch.zeros(update.batch.mask.shape, dtype=torch.float64)
    if output == "chosen":
        for row, token in vector.outputs[output]:
            wanted[row, token] = 1.0
    else:
        wanted = as_tensor(vector.outputs[output])
    ours = _metric(made, update, "cov_fraction")
    return [Claim(quantity=output, kind="other", ours=ours, theirs=wanted, exact=True)]


def _with_correction(vector: Vector, made: Made, weights: Correction, named: str) -> Answer:
    update = update_of(vector, made.objective)
    found = corrected(update.batch, weights)
    update, weight = replace(update, batch=found.batch), found.weight.where(found.batch.mask, 0.0)
    wanted = vector.outputs.get("weights")
    claims = [] if wanted is None else other(vector, "weights", weight)
    return answer(vector, made, update, *claims, by=f"correction {named}, ")


def _correction(vector: Vector) -> tuple[Correction, str]:
    """The correction that a config describes, in any of its authors' terms."""
    config = vector.config
    levels: dict[str, Level] = {
        "token": "token",
        "sequence product": "response",
        "sequence geometric mean": "mean",
    }
    if "normalize" in config:
        raise Unknown("weights that are normalised over the batch")
    level, mode = config.get("level", "token"), config.get("mode") or config.get("action") or "truncate"
    high = vector.setting("hi", "upper", "tis_imp_ratio_cap")
    low = config.get("lo") or config.get("lower") or 0.0
    if level not in levels or mode not in ("mask", "truncate", "clamp"):
        raise Unknown(f"a correction of level {level} and mode {mode}")
    if mode == "mask":
        made = Masked(low=low, high=high, level=levels[level])
        return made, f"masked(low={low}, high={high}, level={levels[level]})"
    return Truncated(cap=high, level=levels[level]), f"truncated(cap={high}, level={levels[level]})"
