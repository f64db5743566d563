"""Evaluation: held-out prompts answered and judged at one stated weight version."""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Stage
from llmrl.report.journal import EvaluationEntry
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.statistics import accuracy_interval, mean_pass_at_k
from llmrl.run.together import together

Answer = Callable[[Draw, Sampling], Coroutine[Any, Any, tuple[RolloutGroup, Sequence[Judgement]]]]

CORRECT = 0.5
"""A reward above this counts as correct."""


async def evaluate(
    stage: Stage, prompts: Sequence[Prompt], answer: Answer, *, version: int
) -> EvaluationEntry:
    """Sample, judge and count. The engines must serve one version until this returns.

    Responses that could not be judged are counted apart: a broken scorer says nothing about the policy.
    """
    table = stage.evaluation
    sampling = Sampling(
        purpose="held-out",
        per_prompt=table.per_prompt,
        temperature=table.temperature,
        max_tokens=stage.rollouts.max_tokens,
    )
    draws = [Draw(ordinal=i, prompt=prompt) for i, prompt in enumerate(prompts)]
    answers = await together(answer(draw, sampling) for draw in draws)
    part = deciding_reward(stage)
    verdicts = [[verdict(judgement, part) for judgement in judgements] for _, judgements in answers]
    correct = np.array([own.count(True) for own in verdicts], dtype=np.int64)
    judged = correct + np.array([own.count(False) for own in verdicts], dtype=np.int64)
    lengths = [rollout.tokens.size for group, _ in answers for rollout in group.rollouts]
    n, seen = int(judged.sum()), judged > 0
    low, high = accuracy_interval(correct[seen], judged[seen]) if n else (math.nan, math.nan)
    return EvaluationEntry(
        stage=stage.name,
        step=version,
        version=version,
        name="held-out",
        correct=int(correct.sum()),
        n=n,
        unjudged=sum(own.count(None) for own in verdicts),
        accuracy=float(correct.sum() / n) if n else math.nan,
        low=low,
        high=high,
        pass_at_k={k: _pass_at(k, correct, judged) for k in table.k},
        tokens_mean=float(np.mean(lengths)),
    )


def _pass_at(k: int, correct: NDArray[np.int64], judged: NDArray[np.int64]) -> float:
    """Mean pass@k over the prompts with at least ``k`` judged responses; nan if there is none."""
    enough = judged >= k
    return mean_pass_at_k(correct[enough], judged[enough], k) if enough.any() else math.nan


def deciding_reward(stage: Stage) -> str:
    """Name of the reward that decides what is correct; the stage has at least one."""
    return stage.evaluation.reward or next(iter(stage.rewards))


def verdict(judgement: Judgement, part: str) -> bool | None:
    """Whether the reward called ``part`` says that a response is correct; None where it gave no score."""
    score = judgement.parts.get(part)
    return None if score is None else score > CORRECT
