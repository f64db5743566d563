"""The claims that are tested."""

from __future__ import annotations

from recipes.claims.by_turn import accuracy_by_turn
from recipes.claims.claim import Claim
from recipes.claims.measures import (
    accuracy,
    accuracy_and_lag,
    distance_to_nash,
    entropy_at_reward,
    margins,
    pass_at_k,
    silent_groups,
)

CLAIMS = {
    claim.name: claim
    for claim in (
        Claim(
            name="cycle",
            arms={
                "bradley_terry": (
                    'objective={ name = "grpo", options = { kl_weight = 0.05, kl = "k2" } }',
                    'credit={ name = "group", options = { scale = "none" } }',
                    'opponent={ kind = "none" }',
                    "rollouts.per_prompt=8",
                    'rewards.preferred.kind="throws.score"',
                ),
                "nash_md": (),
                "nash_ema": ('objective.name="nash_ema"', 'opponent.kind="average"', "opponent.decay=0.9"),
            },
            measure=distance_to_nash,
            verdict="distance to Nash",
            better="less",
            along="step",
            up="distance to the Nash policy",
        ),
        Claim(
            name="flipped",
            arms={
                "dpo": (),
                "rdpo": ('objective={ name = "rdpo", options = { beta = 2.0, flipped = 0.3 } }',),
            },
            measure=margins,
            verdict="accuracy",
            better="more",
            along="step",
            up="held-out accuracy",
        ),
        Claim(
            name="groups",
            arms={
                "grpo": (),
                "dapo": (
                    'objective.name="dapo"',
                    # Once nearly everything is solved, a step goes with the groups that it has found.
                    'keep={ name = "varied", options = { by = "first", when_exhausted = "train" } }',
                ),
            },
            measure=silent_groups,
            verdict="silent share of trained groups",
            better="less",
            along="step",
            up="silent share of trained groups",
        ),
        Claim(
            name="entropy",
            arms={
                "grpo": (),
                "clip_cov": ('objective={ name = "clip_cov", options = { fraction = 0.1, cov_low = 0.1 } }',),
                "kl_cov": ('objective={ name = "kl_cov", options = { fraction = 0.1 } }',),
                "erc": ('objective={ name = "erc" }',),
            },
            measure=entropy_at_reward,
            verdict="entropy at all levels",
            better="more",
            along="mean reward",
            up="entropy in nats",
        ),
        Claim(
            name="risk",
            arms={"grpo": (), "riskpo": ('objective.name="riskpo"',)},
            measure=pass_at_k,
            verdict="pass@16",
            better="more",
            along="step",
            up="pass@16 on hard problems",
        ),
        Claim(
            name="turns",
            arms={
                "grpo": (),
                "empg": (
                    'objective={ name = "empg" }',
                    'shaping=[{ name = "empg", options = { zeta = 0.05 } }]',
                ),
            },
            measure=accuracy,
            verdict="accuracy",
            better="more",
            along="step",
            up="held-out accuracy",
        ),
        Claim(
            name="refuel",
            arms={
                "dpo": (
                    'objective={ name = "online_dpo", options = { beta = 0.5 } }',
                    "environment.options.turns=1",
                    "prompts.per_step=24",
                    "rollouts.per_prompt=6",
                    # Once nearly everything is right, a step goes with the pairs that it has found.
                    'keep={ name = "varied", options = { when_exhausted = "train" } }',
                ),
                "refuel": (),
            },
            measure=accuracy_by_turn,
            verdict="turns 3 and 4",
            better="more",
            along="turn",
            up="held-out accuracy",
        ),
        Claim(
            name="lag",
            arms={
                "lag_0": (),
                "lag_1": ("engines.max_lag=1",),
                "lag_2": ("engines.max_lag=2",),
                "lag_4": ("engines.max_lag=4",),
                "lag_4_uncorrected": ("engines.max_lag=4", 'correction.name="none"'),
            },
            measure=accuracy_and_lag,
            verdict="accuracy",
            better="more",
            along="step",
            up="held-out accuracy",
        ),
    )
}
