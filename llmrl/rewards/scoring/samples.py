"""Samples, one per response: the part of a group that the rewards get."""

from __future__ import annotations

from collections.abc import Mapping

from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Reward as RewardTable
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Comparing, build_rewards
from llmrl.rollouts.rollout import Response, Rollout, RolloutGroup


def compares(tables: Mapping[str, RewardTable]) -> bool:
    """Whether any reward of a recipe compares responses with each other."""
    return any(isinstance(one, Comparing) for one in build_rewards(tables).values())


def samples_of(group: RolloutGroup, *, max_tokens: int, rivals: bool) -> list[Sample]:
    """The samples of a group, in order.

    Args:
        max_tokens: the budget of the responses.
        rivals: whether each sample has the texts that it is compared with.
    """
    return [
        sample_of(
            group.prompt,
            rollout.response,
            max_tokens=max_tokens,
            rivals=_rivals(group, rollout) if rivals else (),
        )
        for rollout in group.rollouts
    ]


def sample_of(prompt: Prompt, response: Response, *, max_tokens: int, rivals: tuple[str, ...] = ()) -> Sample:
    """The sample of one response to a prompt, with a budget of ``max_tokens``."""
    return Sample(
        prompt=prompt.text,
        response=response.text,
        last_turn=response.last_turn,
        answer=prompt.answer,
        tokens=response.tokens,
        finished=response.stop == "stop",
        source=prompt.source,
        max_tokens=max_tokens,
        outcome=response.outcome,
        rivals=rivals,
        messages=messages_of(prompt),
    )


def messages_of(prompt: Prompt) -> tuple[Mapping[str, str], ...]:
    """The messages of a prompt in the form that rewards get."""
    return tuple({"role": one.role, "content": one.content} for one in prompt.messages)


def _rivals(group: RolloutGroup, rollout: Rollout) -> tuple[str, ...]:
    """The other side's responses; if there is no other side, all other responses.

    Aborted responses are left out: they are unfinished, and would lose every comparison.
    """
    two_sides = len({one.opponent for one in group.rollouts}) == 2
    facing = [
        one
        for one in group.rollouts
        if (one.opponent != rollout.opponent if two_sides else one is not rollout)
    ]
    return tuple(one.text for one in facing if one.stop != "abort")
