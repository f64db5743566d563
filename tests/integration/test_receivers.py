"""An engine that dies while it takes new weights is named at once, and harms no other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import psutil
import pytest

from llmrl.cluster.connection import connect
from llmrl.errors import LlmrlError
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Source, Stage, Weights
from llmrl.rollouts.engines import Sampling
from llmrl.run.crew import Crew
from llmrl.run.hiring import hired

TOKENS = [np.array([3, 4, 5, 6, 7], np.int32)]
DRAW = Draw(ordinal=0, prompt=Prompt(id="p", tokens=TOKENS[0], text="", answer=None, source="p"))
SAMPLING = Sampling(purpose="train", per_prompt=2, temperature=1.0, max_tokens=8)


def stage_of(model: Path, *, engines: int, transport: str) -> Stage:
    return Stage(
        model=Model(path=str(model), context_tokens=64),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        engines=Engines(kind="torch", count=engines),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        weights=Weights.model_validate({"transport": transport}),
    )


def process_of(log: Path) -> psutil.Process:
    """The process that writes its output to ``log``."""
    for process in psutil.Process().children(recursive=True):
        fds = Path(f"/proc/{process.pid}/fd/1")
        if fds.exists() and fds.resolve() == log.resolve():
            return process
    raise AssertionError(f"nobody writes {log}")


async def killed_in_the_middle(crew: Crew, log: Path, *, served: int) -> None:
    """Publish version 1 while the process that writes ``log`` stands still, and kill it; then look around."""
    before = await crew.engines[0].call("score", TOKENS, deadline_s=60)
    victim = process_of(log)
    victim.suspend()
    sending = asyncio.create_task(crew.deliver(crew.post(1)))
    await asyncio.sleep(0.5)
    assert not sending.done()

    victim.kill()
    await asyncio.wait([sending], timeout=60)  # a call's deadline is half an hour

    assert sending.done()
    after = await crew.engines[0].call("score", TOKENS, deadline_s=60)
    group = await crew.engines[0].call("generate", DRAW, SAMPLING, deadline_s=60)
    np.testing.assert_array_equal(after[0], before[0])
    assert {v for rollout in group.rollouts for v in rollout.version.tolist()} == {served}
    (await sending).taken()


@pytest.mark.parametrize(("transport", "served"), [("memory", 1), ("broadcast", 0)])
async def test_the_others_have_whole_weights_when_one_dies_in_the_middle(
    tiny_model: Path, tmp_path: Path, transport: str, served: int
) -> None:
    stage = stage_of(tiny_model, engines=2, transport=transport)

    async def run() -> None:
        async with hired(stage, seed=0, plugins=(), engines=True, build=None, logs=tmp_path) as crew:
            (await crew.deliver(crew.post(0))).taken()
            await killed_in_the_middle(crew, tmp_path / "engine-1.log", served=served)

    with connect(stage.cluster), pytest.raises(LlmrlError, match=r"engine-1\.load failed because its proc"):
        await run()


async def test_the_policy_does_not_wait_for_a_broadcast_whose_only_receiver_is_dead(
    tiny_model: Path, tmp_path: Path
) -> None:
    stage = stage_of(tiny_model, engines=1, transport="broadcast")

    async def run() -> None:
        async with hired(stage, seed=0, plugins=(), engines=True, build=None, logs=tmp_path) as crew:
            (await crew.deliver(crew.post(0))).taken()
            process_of(tmp_path / "engine-0.log").kill()

            async with asyncio.timeout(90):  # a call's deadline is half an hour
                (failed,) = (await crew.deliver(crew.post(1))).failed
                (tmp_path / "saved").mkdir()
                await crew.policy("save", tmp_path / "saved")
            raise failed

    with connect(stage.cluster), pytest.raises(LlmrlError, match=r"engine-0\.load failed because its proc"):
        await run()
    assert list((tmp_path / "saved").iterdir())
