"""How often a trained policy is right at each turn of conversations that it leads itself."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.stream import held_out
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Choice, Recipe, Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.rollouts.worker import RolloutWorker
from recipes.claims.claim import Measured

TURNS = 4
"""Of a conversation, however many the arm was trained on."""

PER_PROMPT = 4
"""Conversations that begin with the same prompt."""


def accuracy_by_turn(stage: Path) -> Measured:
    """Held-out accuracy at each turn, before and after."""
    recipe = Recipe.model_validate(json.loads((stage.parent / "recipe.json").read_text("utf-8"))["recipe"])
    (table,) = recipe.stages
    before, after = (
        _accuracies(table, model, seed=recipe.run.seed)
        for model in (Path(str(table.model.path)), stage / "model")
    )
    numbers = {f"turn {place}": float(share) for place, share in enumerate(after, start=1)}
    numbers |= {"turns 3 and 4": float(after[2:].mean()), "turns 3 and 4 before": float(before[2:].mean())}
    return Measured(numbers=numbers, curve=(list(range(1, TURNS + 1)), after.tolist()))


def right_turns(prompt: Prompt, text: str) -> NDArray[np.bool_]:
    """[TURNS] which answers of a ``running_sum`` were right; one that was never given is not.

    Args:
        text: the turns one below the other, those of the user after ``> ``.
    """
    right = np.zeros(TURNS, dtype=np.bool_)
    total, turn = int(str(prompt.answer)), 0
    for line in text.split("\n"):
        if line.startswith("> +"):
            total, turn = total + int(line.removeprefix("> +").removesuffix("=")), turn + 1
        else:
            right[turn] = line == str(total)
    return right


def _accuracies(table: Stage, model: Path, *, seed: int) -> NDArray[np.float64]:
    """[TURNS] of a model that was exported."""
    options = {"turns": TURNS, "max_turn_tokens": 6}
    talking = table.model_copy(
        update={
            "model": table.model.model_copy(update={"path": str(model)}),
            "environment": Choice(name="running_sum", options=options),
        }
    )
    prompts = held_out(
        table.evaluation, load_tokenizer(talking.model), max_tokens=table.prompts.max_tokens, seed=seed
    )
    groups = asyncio.run(_answered(talking, prompts, seed))
    return np.mean(
        [right_turns(one.prompt, rollout.text) for one in groups for rollout in one.rollouts], axis=0
    )


async def _answered(table: Stage, prompts: Sequence[Prompt], seed: int) -> list[RolloutGroup]:
    sampling = Sampling(
        purpose="by-turn",
        per_prompt=PER_PROMPT,
        temperature=table.evaluation.temperature,
        max_tokens=table.rollouts.max_tokens,
    )
    worker = RolloutWorker(table, "cpu", seed)
    await worker.start()
    draws = [Draw(ordinal=number, prompt=prompt) for number, prompt in enumerate(prompts)]
    groups = await asyncio.gather(*(worker.generate(draw, sampling) for draw in draws))
    await worker.close()
    return groups
