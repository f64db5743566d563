"""Whatever goes wrong with a run, the next one finds its folder free."""

from __future__ import annotations

import asyncio
import socket
import traceback
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from llmrl.errors import RewardError
from llmrl.recipe.schema import (
    Choice,
    Cluster,
    Evaluation,
    Model,
    Optimizer,
    Prompts,
    Recipe,
    Reward,
    Role,
    Run,
    Scoring,
    Source,
    Stage,
)
from llmrl.report.console import ConsoleReport
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.run.lock import alone_in
from llmrl.run.stage_plan import plan_stage
from llmrl.run.start import _run

EXACT = {"exact": Reward(kind="exact")}
STAGE = Stage(
    name="first",
    model=Model(config={"model_type": "qwen3", "hidden_size": 64}, characters="0123456789+=,#"),
    prompts=Prompts(sources=(Source(task="digit_sum", rows=9),)),
    evaluation=Evaluation(sources=(Source(task="digit_sum", skip=9, rows=4),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=1),
    rewards=EXACT,
)


class Broken(Scorer):
    """Neither starts nor closes."""

    def __init__(self) -> None:
        super().__init__(EXACT, Scoring(), [], Cluster())
        self.door, self.closes = "", 0

    async def start(self, *, door: str = "") -> None:
        self.door = door
        raise RewardError("no process can be started")

    async def close(self) -> None:
        self.closes += 1
        raise OSError("a process cannot be ended")


def listens(url: str) -> bool:
    address = urlsplit(url)
    with socket.socket() as probe:
        return probe.connect_ex((address.hostname, address.port)) == 0


def test_a_scorer_that_cannot_be_closed_keeps_nothing_else_from_being_released(tmp_path: Path) -> None:
    recipe = Recipe(
        run=Run(name="a", folder=tmp_path),
        stages=(STAGE, STAGE.model_copy(update={"name": "second"})),
    )
    recipe.folder.mkdir()
    first, second = Broken(), Broken()
    asked = STAGE.model_copy(update={"roles": {"judge": Role(kind="judge", path=str(tmp_path))}})
    plans = [
        replace(plan_stage(recipe, index), stage=asked, scorer=scorer)
        for index, scorer in enumerate((first, second))
    ]

    with ConsoleReport() as console, pytest.raises(OSError, match="a process cannot be ended") as raised:
        asyncio.run(_run(recipe, plans, console, "fresh"))

    assert (first.closes, second.closes) == (1, 1)
    assert first.door.startswith("http://127.0.0.1:")
    assert not listens(first.door)
    with alone_in(recipe.folder):  # nobody else is
        pass
    assert "no process can be started" in "".join(traceback.format_exception(raised.value))
