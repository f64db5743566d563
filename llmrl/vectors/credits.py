"""Vectors of credit, of what is kept, and of rewards: everything that comes before a loss."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.experience.bundles import moved
from llmrl.experience.credit import GroupCredit, LeaveOneOut, LengthBaseline, MaxRL, Scores, deviation
from llmrl.experience.keep import KeepVaried
from llmrl.experience.risk import Paper, Released
from llmrl.objectives.pairs import log_ratios
from llmrl.objectives.shaping import KL, Whiten, to_go
from llmrl.prompts.prompt import Prompt
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.kinds.length import Overlong
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.testing.update import Update
from llmrl.vectors.claim import Answer, Claim
from llmrl.vectors.columns import Made, answer, clips, mask_of, mean_over, on_tokens, other, update_of
from llmrl.vectors.vector import Unknown, Vector, as_tensor

Rows = NDArray[np.int64]


def group_advantages(vector: Vector) -> Answer:
    """Compare the rewards of a group in every way that the vector has."""
    rewards = _numbers(vector, "rewards")
    claims: list[Claim] = []
    for quantity in vector.outputs:
        formula = _comparison(vector, quantity, deviation(rewards))
        claims += other(vector, quantity, _by_group(vector, rewards, formula))
    return Answer(by="credit group(scale=group, batch, none), leave_one_out", claims=claims)


def leave_one_out(vector: Vector) -> Answer:
    return _rows(vector, "leave_one_out", LeaveOneOut().compare)


def maxrl(vector: Vector) -> Answer:
    return _rows(vector, "maxrl", MaxRL(eps=vector.setting("eps")).compare)


def length_baseline(vector: Vector) -> Answer:
    """Compare by a baseline that weighs by length, called as in training."""
    rewards, masks = _numbers(vector, "rewards"), mask_of(vector).numpy()
    made = torch.zeros(rewards.size, dtype=torch.float64)
    for rows in _groups(vector):
        group = _group(rewards[rows].tolist(), [masks[row] for row in rows])
        (advantages,) = LengthBaseline()([group[0]], [group[1]], {})
        for row, one in zip(rows, advantages, strict=True):
            made[row] = float(one[masks[row]][0])
    return Answer(by="credit opo", claims=[_in_float32(vector, "advantages_row", made)])


def rloo(vector: Vector) -> Answer:
    """Compare rewards less the KL of the response, leaving one out; then the loss."""
    made = Made.of("rloo", **clips(vector), **mean_over(vector))
    update = update_of(vector, made.objective)
    mask = update.batch.mask
    reference = replace(update.current, logp=vector.tensor("ref_logprobs"))
    price = vector.setting("beta") * log_ratios(update.batch.old, reference, mask)
    advantage = _by_group(vector, (update.batch.reward - price).numpy(), LeaveOneOut().compare)
    claims = other(vector, "advantages_row", advantage)
    update = update.with_advantage(on_tokens(advantage, mask))
    return answer(vector, made, update, *claims, by="credit leave_one_out, ")


def reinforce_pp(vector: Vector) -> Answer:
    """Compare returns, which later tokens discount, and their whitening."""
    mask = mask_of(vector)
    returns = to_go(vector.tensor("token_rewards").where(mask, 0.0), mask, vector.setting("gamma"))
    claims = [*other(vector, "returns", returns), *_whitened(vector, returns)]
    return Answer(by="shaping kl's return, shaping whiten", claims=claims)


def reinforce_pp_baseline(vector: Vector) -> Answer:
    plain = GroupCredit(scale="none", lone="reward")
    centred = _by_group(vector, _numbers(vector, "rewards"), lambda one: plain.compare(one, batch=0.0))
    claims = _whitened(vector, on_tokens(centred, mask_of(vector)))
    return Answer(by="credit group(scale=none), shaping whiten", claims=claims)


def kl_in_reward(vector: Vector) -> Answer:
    """Compare the shaping, which subtracts later prices from the reward: the return of the token rewards."""
    reader = Made.of("grpo", kl_weight=1.0).objective
    given = replace(vector, inputs={**vector.inputs, "logprobs": vector.inputs["old_logprobs"]})
    update = update_of(given, reader)
    mask = update.batch.mask
    update = update.with_advantage(on_tokens(update.batch.reward, mask))
    shaped = KL(weight=vector.setting("kl_coef"))(update.batch)
    theirs = to_go(as_tensor(vector.outputs["token_rewards"]), mask, 1.0)
    claim = Claim(quantity="return of token_rewards", kind="other", ours=shaped, theirs=theirs)
    return Answer(by="credit reward, shaping kl", claims=[claim])


def riskpo(vector: Vector) -> Answer:
    """Compare the credit of each bundle's papers, then the loss."""
    made = Made.of("riskpo", **clips(vector), **mean_over(vector))
    update = update_of(vector, made.objective)
    papers, tracked = _released(vector), _tracked(vector)
    rewards, bundles = update.batch.reward.numpy(), _bundles(vector)
    advantage = np.zeros(rewards.size)
    for rows in bundles:
        between = papers.between(rewards[rows].sum(0), tracked)
        advantage[rows] = papers.worth(rewards[rows], *between)
    claims = other(vector, "advantages", torch.from_numpy(advantage))
    if len(bundles) == 1:
        claims += _papers(vector, papers, rewards[bundles[0]], tracked)
    update = update.with_advantage(on_tokens(torch.from_numpy(advantage), update.batch.mask))
    return answer(vector, made, update, *claims, by=f"credit riskpo(share={papers.share}), ")


def riskpo_paper(vector: Vector) -> Answer:
    names = ("alpha", "beta", "omega")
    credit = Paper(**{name: vector.setting(name) for name in names})
    made = credit.of_papers(
        _numbers(vector, "bundle_scores"), vector.setting("Q_alpha"), vector.setting("Q_beta")
    )
    return Answer(by="credit riskpo_paper", claims=other(vector, "advantages", torch.from_numpy(made)))


def riskpo_quantiles(vector: Vector) -> Answer:
    """Compare tracked quantiles, which begin at those of the first step."""
    levels = _numbers(vector, "alphas")
    begun = np.quantile(_numbers(vector, "first_batch"), levels).astype(np.float64)
    after = moved(begun, _numbers(vector, "second_batch"), levels, rate=vector.setting("lr_q"))
    claims = [
        *other(vector, "q_after_first", torch.from_numpy(begun)),
        *other(vector, "q_after_second", torch.from_numpy(after)),
    ]
    return Answer(by="credit riskpo(quantiles=track)", claims=claims)


def dynamic_sampling(vector: Vector) -> Answer:
    keep = KeepVaried()
    groups = [_group(metrics) for metrics in vector.inputs["group_metrics"]]
    kept = torch.tensor([keep(*group) is None for group in groups])
    return Answer(by="keep varied", claims=other(vector, "kept", kept))


def overlong(vector: Vector) -> Answer:
    reward = Overlong(max_tokens=vector.setting("L_max"), buffer_tokens=vector.setting("L_cache"))
    weight = vector.config.get("penalty_factor", 1.0)
    made = [weight * reward(_sample(length)) for length in vector.inputs["lengths"]]
    claims = other(vector, "paper", as_tensor(made))
    return Answer(by=f"reward overlong, weight {weight}", claims=claims)


def _numbers(vector: Vector, name: str) -> Scores:
    return vector.tensor(name).numpy()


def _groups(vector: Vector) -> list[Rows]:
    ids = np.array(vector.inputs["group_ids"])
    return [np.flatnonzero(ids == one) for one in np.unique(ids)]


def _by_group(vector: Vector, rewards: Scores, formula: Callable[[Scores], Scores]) -> Tensor:
    """[B] results of a credit's formula on the rewards of each group."""
    made = np.zeros(rewards.size)
    for rows in _groups(vector):
        made[rows] = formula(rewards[rows])
    return torch.from_numpy(made)


def _comparison(vector: Vector, quantity: str, batch: float) -> Callable[[Scores], Scores]:
    """The formula behind an output such as ``adv_std_trl_eps1e-4``; a lone reward passes, as in verl."""
    if quantity == "rloo":
        return LeaveOneOut().compare
    stated = re.search(r"eps([\d.e-]+)$", quantity)
    eps = float(stated[1]) if stated else vector.config.get("eps", 1e-4)
    for part, credit in {
        "adv_nostd": GroupCredit(scale="none", lone="reward"),
        "adv_batch_std": GroupCredit(scale="batch", lone="reward", eps=eps),
        "adv_std": GroupCredit(scale="group", lone="reward", eps=eps),
    }.items():
        if quantity.startswith(part):
            return lambda rewards, credit=credit: credit.compare(rewards, batch=batch)
    raise Unknown(f"advantages called {quantity}")


def _rows(vector: Vector, named: str, formula: Callable[[Scores], Scores]) -> Answer:
    """A credit without a loss, for responses and for their tokens."""
    made = _by_group(vector, _numbers(vector, "rewards"), formula)
    claims = other(vector, "advantages_row", made)
    if "mask" in vector:
        claims += other(vector, "advantages", on_tokens(made, mask_of(vector)))
    return Answer(by=f"credit {named}", claims=claims)


def _in_float32(vector: Vector, quantity: str, made: Tensor) -> Claim:
    """A claim about numbers that only exist in float32, as advantages do in training."""
    theirs = torch.tensor(vector.outputs[quantity]).float()
    return Claim(quantity=quantity, kind="other", ours=made.float(), theirs=theirs)


def _whitened(vector: Vector, advantage: Tensor) -> list[Claim]:
    """Advantages [B, T] through the shaping ``whiten``."""
    blank = {"logprobs": vector.inputs["mask"]}
    given = replace(vector, inputs={**vector.inputs, **blank})
    update: Update = update_of(given, Made.of("grpo").objective)
    whiten = Whiten(eps=vector.setting("whiten_eps"))
    return other(vector, "advantages", whiten(update.with_advantage(advantage).batch))


def _released(vector: Vector) -> Released:
    """RiskPO's credit with the options of its released code."""
    weight = vector.setting("w_mix")
    tracked = "qd" in vector.config
    return Released(
        alpha=vector.setting("q_down_lvl"),
        beta=vector.setting("q_up_lvl"),
        quantiles=vector.setting("mode") if tracked else "batch",
        lower_weight=weight if vector.setting("mixing") else 0.0,
        upper_weight=vector.config.get("w_up", weight) if vector.config.get("seeking") else 0.0,
        baseline=vector.setting("natural"),
        scale="std" if vector.setting("norm_std") else "none",
        share=vector.setting("credit").replace("-", "_"),
    )


def _papers(vector: Vector, papers: Released, rewards: Scores, tracked: Scores) -> list[Claim]:
    """Claims about the steps between the [Q, P] rewards of a bundle and the advantages."""
    scores = rewards.sum(0)
    low, high = papers.between(scores, tracked)
    worth = replace(papers, share="uniform").worth(rewards, low, high)[0]
    return [
        *other(vector, "bundle_scores", torch.from_numpy(scores)),
        *other(vector, "bundle_advantages", torch.from_numpy(worth.copy())),
        *other(vector, "q_down", as_tensor(low)),
        *other(vector, "q_up", as_tensor(high)),
    ]


def _tracked(vector: Vector) -> Scores:
    return np.array([vector.config.get("qd", np.nan), vector.config.get("qu", np.nan)])


def _bundles(vector: Vector) -> list[Rows]:
    """[Q, P] rows of each bundle: the j-th response of each of its questions is in paper j."""
    questions, bundles = (np.array(vector.inputs[name]) for name in ("question_ids", "bundle_ids"))
    return [
        np.stack([np.flatnonzero(inside & (questions == one)) for one in np.unique(questions[inside])])
        for inside in (bundles == bundle for bundle in np.unique(bundles))
    ]


def _group(
    rewards: list[float], masks: list[NDArray[np.bool_]] | None = None
) -> tuple[RolloutGroup, list[Judgement]]:
    """A judged group with these rewards; one trained token for each response unless masks are given."""
    prompt = Prompt(id="vector/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="vector")
    rollouts = [_rollout(mask) for mask in masks or [np.ones(1, np.bool_)] * len(rewards)]
    judgements = [Judgement(status="score", reward=float(reward)) for reward in rewards]
    return RolloutGroup(ordinal=0, prompt=prompt, rollouts=tuple(rollouts)), judgements


def _rollout(mask: NDArray[np.bool_]) -> Rollout:
    nothing = np.zeros(mask.size, np.int32)
    return Rollout(
        tokens=nothing,
        logp=np.zeros(mask.size, np.float32),
        version=nothing,
        trained=mask,
        turn=nothing,
        stop="stop",
        text="",
    )


def _sample(tokens: int) -> Sample:
    return Sample(prompt="", response="", answer=None, tokens=tokens, finished=True)
