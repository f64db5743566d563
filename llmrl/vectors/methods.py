"""The method for each vector, chosen by the beginning of the vector's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from llmrl.vectors import credits, policies, preferences
from llmrl.vectors.claim import Answer
from llmrl.vectors.vector import Unknown, Vector

METHODS: Mapping[str, Callable[[Vector], Answer]] = {
    "adv_grpo": credits.group_advantages,
    "agg_fully_masked_row": policies.empty_row,
    "aipo": policies.aipo,
    "bypass": policies.bypass,
    "cdpo": preferences.dpo,
    "ce_gppo": policies.ce_gppo,
    "cispo": policies.cispo,
    "clip_cov": policies.clip_cov,
    "dapo": policies.dapo,
    "dapo_dynamic_sampling": credits.dynamic_sampling,
    "dapo_on_policy": policies.on_policy,
    "dapo_overlong": credits.overlong,
    "dapo_tis": policies.correction,
    "decoupled_ppo": policies.correction,
    "dpo": preferences.dpo,
    "dr_grpo": policies.dr_grpo,
    "dr_grpo_verl2025_pitfall": policies.pitfall,
    "empg": policies.empg,
    "erc_dapo": policies.erc_dapo,
    "erc_gppo": policies.erc_gppo,
    "gppo": policies.gppo,
    "grpo": policies.grpo,
    "gspo": policies.gspo,
    "hinge": preferences.dpo,
    "icepop": policies.correction,
    "ipo": preferences.dpo,
    "kl_cov": policies.kl_cov,
    "kl_estimators": policies.kl_estimators,
    "kl_in_reward": credits.kl_in_reward,
    "maxrl": credits.maxrl,
    "mhpo": policies.mhpo,
    "microbatch_invariance": policies.microbatches,
    "mis": policies.correction,
    "nash_ema": preferences.nash_average,
    "nash_geometric_mixture": preferences.nash_mixture,
    "nash_md": preferences.nash_md,
    "nash_md_kl_exactness": preferences.nash_exactness,
    "opo": credits.length_baseline,
    "ppo_clip": policies.grpo,
    "ppo_dualclip": policies.grpo,
    "r2vpo": policies.r2vpo,
    "rdpo": preferences.dpo,
    "rebel": preferences.rebel,
    "refuel": preferences.refuel,
    "reinforce_pp": credits.reinforce_pp,
    "reinforce_pp_baseline": credits.reinforce_pp_baseline,
    "riskpo": credits.riskpo,
    "riskpo_paper_advantage": credits.riskpo_paper,
    "riskpo_quantile_tracking": credits.riskpo_quantiles,
    "rloo_advantage": credits.leave_one_out,
    "rloo_sequence_ratio": credits.rloo,
    "safe_ppo_plus_k2": policies.grpo,
    "tis": policies.correction,
    "xpo": preferences.xpo,
}

ABSENT = (
    *("a3po", "adora", "brain", "capo", "dcpo", "epo", "inpo", "kto", "mis_token_batch_normalized"),
    *(
        "nft",
        "opd",
        "orpo",
        "pf_ppo",
        "ppo_gae",
        "r2vpo_dual_floor",
        "rover",
        "safe",
        "simpo",
        "spo",
        "sppo",
        "vpo",
    ),
    "xpo_cal_rows",
)
"""Beginnings of the names of methods that llmrl does not have."""


def method_of(name: str) -> Callable[[Vector], Answer] | None:
    """The function that computes a vector of this name; None if llmrl does not have the method.

    Raises:
        Unknown: no method's name begins like this.
    """
    known = [one for one in (*METHODS, *ABSENT) if f"{name}_".startswith(f"{one}_")]
    if not known:
        raise Unknown("no method has a name that begins like this")
    return METHODS.get(max(known, key=len))
