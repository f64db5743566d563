"""Evaluation: held-out prompts answered and judged at one stated weight version."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Stage
from llmrl.report.journal import EvaluationEntry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.engine import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.statistics import accuracy_interval, mean_pass_at_k

Answer = Callable[[Draw, Sampling], Awaitable[tuple[RolloutGroup, Sequence[Judgement]]]]

CORRECT = 0.5
"""A reward above this counts as correct."""


async def evaluate(
    stage: Stage, prompts: Sequence[Prompt], answer: Answer, *, version: int
) -> EvaluationEntry:
    """Sample, judge and count. The engines must serve one version until this returns."""
    table = stage.evaluation
    sampling = Sampling(
        purpose="held-out",
        per_prompt=table.per_prompt,
        temperature=table.temperature,
        max_tokens=stage.rollouts.max_tokens,
    )
    draws = [Draw(ordinal=i, prompt=prompt) for i, prompt in enumerate(prompts)]
    answers = await asyncio.gather(*(answer(draw, sampling) for draw in draws))
    part = deciding_reward(stage)
    correct = np.array([sum(is_correct(j, part) for j in judgements) for _, judgements in answers])
    responses = np.full(len(answers), table.per_prompt)
    lengths = [rollout.tokens.size for group, _ in answers for rollout in group.rollouts]
    interval = accuracy_interval(correct, responses)
    return EvaluationEntry(
        stage=stage.name,
        step=version,
        version=version,
        name="held-out",
        correct=int(correct.sum()),
        n=int(responses.sum()),
        accuracy=float(correct.sum() / responses.sum()),
        low=interval.low,
        high=interval.high,
        pass_at_k={k: mean_pass_at_k(correct, responses, k) for k in table.k},
        tokens_mean=float(np.mean(lengths)),
    )


def deciding_reward(stage: Stage) -> str:
    """Name of the reward that says what is correct; the stage has at least one."""
    return stage.evaluation.reward or next(iter(stage.rewards))


def is_correct(judgement: Judgement, part: str) -> bool:
    """Whether the reward called ``part`` says so; it does not where it gave no score."""
    return judgement.parts.get(part, 0.0) > CORRECT
