"""The trainer's checkpoints: while one is sealed, everybody else is served."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import cast

import pytest

from llmrl.cluster.actor import Actor
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Source, Stage
from llmrl.run.checkpoint import Checkpoints, RunState, read_state
from llmrl.run.crew import Crew
from llmrl.run.ledger import Ledger
from llmrl.run.record import Record
from llmrl.run.trainer import Trainer
from llmrl.run.turns import Apart

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum", rows=3),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=2),
)


class Rank:
    """The one call that a checkpoint makes to a rank."""

    def send(self, method: str, folder: Path) -> Rank:
        assert method == "save"
        (folder / "rng-0.npz").write_bytes(b"random")
        return self

    async def result(self, *, deadline_s: float) -> None:
        """Done."""


class SlowDisk(Checkpoints):
    """Takes 0.3 s to write, read and hash what a large model is made of."""

    def commit(self, path: Path, state: RunState) -> Path:
        time.sleep(0.3)
        return super().commit(path, state)


@pytest.fixture
def trainer(tmp_path: Path, make_record: Callable[..., Record]) -> Generator[Trainer]:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        yield Trainer(
            stage=STAGE,
            crew=Crew(engines=(), ranks=[cast("Actor", Rank())], roles={}, turns=Apart(), deadline_s=5),
            ledger=ledger,
            record=make_record(STAGE),
            checkpoints=SlowDisk(tmp_path / "checkpoints", keep=2, ranks=1),
            fingerprint="d1",
            tables={},
        )


async def test_while_a_checkpoint_is_sealed_others_are_served(trainer: Trainer, tmp_path: Path) -> None:
    trainer.ledger.draw()
    trainer.taken = 1
    trainer.unsaved = trainer._state()
    saving = asyncio.create_task(trainer.save())
    served = 0
    while not saving.done():
        await asyncio.sleep(0.01)
        trainer.ledger.draw()
        served += 1

    assert served > 2  # it would be 1 if sealing kept the loop
    state = read_state(tmp_path / "checkpoints" / "step-000001")
    assert state.ledger.unfinished == (0,)  # the ledger of the moment after the step
