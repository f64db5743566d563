"""Ranks wait for a slow one as long as the recipe says, and for a dead one not at all."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.cluster.connection import connect
from llmrl.errors import LlmrlError
from llmrl.recipe.schema import Choice, Model, Optimizer, Policy, Prompts, Source, Stage
from llmrl.run.crew import Crew
from llmrl.run.hiring import hired

TIMEOUTS = """
import torch, torch.distributed as dist
from deepspeed.utils import groups
from llmrl.policy.zero import Meeting, join_group

meeting = Meeting("127.0.0.1")
join_group(meeting.address, rank=0, ranks=1, device="cpu", meeting=meeting, timeout_s=1234)
for group in (dist.group.WORLD, groups._clone_world_group(), dist.new_group([0])):
    print(group._get_backend(torch.device("cpu")).options._timeout.total_seconds())
"""


def test_every_group_of_the_ranks_waits_as_long_as_a_call_may_take() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", TIMEOUTS], capture_output=True, text=True, timeout=250, check=False
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split()[-3:] == ["1234.0"] * 3


async def one_dies(crew: Crew) -> None:
    crew.ranks[1].kill()
    async with asyncio.timeout(60):  # a call's deadline is half an hour
        await crew.policy("weights", 0)


def test_a_rank_that_died_is_named_at_once(tmp_path: Path, tiny_model: Path) -> None:
    stage = Stage(
        model=Model(path=str(tiny_model), context_tokens=64),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        policy=Policy(ranks=2, zero_stage=3),
        objective=Choice(name="sft"),
        optimizer=Optimizer(steps=1),
    )

    async def run() -> None:
        async with hired(stage, seed=0, plugins=(), engines=False, build=None, logs=tmp_path) as crew:
            await one_dies(crew)

    with (
        connect(stage.cluster),
        pytest.raises(LlmrlError, match=r"policy-1\.weights failed because its"),
    ):
        asyncio.run(run())
