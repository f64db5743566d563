"""Branches: conversations that share a beginning and part at one turn, so that this turn alone explains why
they end differently.

Gao et al. 2024, "Regressing the Relative Future" (REFUEL), arXiv:2410.04612, setting one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from llmrl.prompts.seeds import derive_seed
from llmrl.rollouts.conversations.conversation import Conversation
from llmrl.rollouts.conversations.exchange import Exchange, rollout_of
from llmrl.rollouts.rollout import Rollout


async def converse(
    conversation: Conversation,
    *,
    per_prompt: int,
    branches: int = 1,
    opponents: int = 0,
    tell: Callable[[int, Rollout], None] = lambda _number, _rollout: None,
) -> tuple[Rollout, ...]:
    """Hold the policy's conversations, then the opponent's.

    Args:
        per_prompt: a multiple of ``branches``.
        branches: rollouts that share all turns before one, drawn uniformly from the turns of the first of
            them, and that are trained on this turn alone; 1 trains whole conversations.
        tell: called with each rollout and its place in the result, as soon as it is known.
    """
    firsts = range(0, per_prompt, branches)

    async def grown(first: int) -> Sequence[Rollout]:
        rollouts = await _branched(conversation, first, branches)
        for number, rollout in enumerate(rollouts, first):
            tell(number, rollout)
        return rollouts

    async def opposed(sample: int) -> Sequence[Rollout]:
        rollout = rollout_of(await conversation.go_on(sample=sample, sampler="opponent"), opponent=True)
        tell(sample, rollout)
        return [rollout]

    others = range(per_prompt, per_prompt + opponents)
    found = await asyncio.gather(*map(grown, firsts), *map(opposed, others))
    return tuple(rollout for rollouts in found for rollout in rollouts)


async def _branched(conversation: Conversation, first: int, branches: int) -> Sequence[Rollout]:
    trunk = await conversation.go_on(sample=first)
    if branches == 1:
        return [rollout_of(trunk)]
    fork = derive_seed(*conversation.seeds, "branch", first) % len(trunk)
    grown = [trunk, *await _from(conversation, trunk[:fork], range(first + 1, first + branches))]
    return [rollout_of(exchanges, only=fork) for exchanges in grown]


async def _from(
    conversation: Conversation, before: Sequence[Exchange], samples: Sequence[int]
) -> Sequence[tuple[Exchange, ...]]:
    return await asyncio.gather(*(conversation.go_on(before, sample=sample) for sample in samples))
