"""The trainer's checkpoints: while one is sealed the run goes on, and none is lost or left half done."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from pathlib import Path
from typing import Any, cast

import pytest

from llmrl.cluster.actor import Actor
from llmrl.errors import CheckpointError, RewardError, Stopped
from llmrl.recipe.schema import Choice, Optimizer, Prompts, Source, Stage
from llmrl.run.checkpoint import Checkpoints, RunState, read_state
from llmrl.run.crew import Crew
from llmrl.run.devices import OwnDevices
from llmrl.run.ledger import Ledger
from llmrl.run.record import Record
from llmrl.run.trainer import Trainer

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
    """Takes a second to write, read and hash what a large model is made of."""

    def commit(self, path: Path, state: RunState) -> Path:
        time.sleep(1.0)
        return super().commit(path, state)


@pytest.fixture
def trainer(tmp_path: Path, make_record: Callable[..., Record]) -> Generator[Trainer]:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        yield Trainer(
            stage=STAGE,
            crew=Crew(
                engines=(), ranks=[cast("Actor", Rank())], roles={}, devices=OwnDevices(), deadline_s=5
            ),
            ledger=ledger,
            record=make_record(STAGE),
            checkpoints=SlowDisk(tmp_path / "checkpoints", keep=2, ranks=1),
            fingerprint="d1",
            tables={},
        )


async def save(trainer: Trainer, step: int) -> None:
    trainer.taken = step
    trainer.unsaved = trainer._state()
    await trainer.save()


def sealed(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("step-*"))


async def test_while_a_checkpoint_is_sealed_the_run_goes_on(trainer: Trainer, tmp_path: Path) -> None:
    trainer.ledger.draw()
    await save(trainer, 1)
    assert sealed(tmp_path) == []
    served = 0
    committed = asyncio.create_task(trainer.committed())
    while not committed.done():
        await asyncio.sleep(0.01)
        trainer.ledger.draw()
        served += 1

    assert served > 2  # it would be 1 if sealing kept the loop
    state = read_state(tmp_path / "checkpoints" / "step-000001")
    assert state.ledger.unfinished == (0,)  # the ledger of the moment after the step


async def test_the_next_checkpoint_waits_until_the_last_one_is_sealed(
    trainer: Trainer, tmp_path: Path
) -> None:
    await save(trainer, 1)
    await save(trainer, 2)
    assert sealed(tmp_path) == ["step-000001"]
    await trainer.committed()
    assert sealed(tmp_path) == ["step-000001", "step-000002"]


SEALING = """
import asyncio, signal, time
from contextlib import nullcontext
from types import SimpleNamespace
from llmrl.run.trainer import Trainer

def commit(path, state):
    print("sealing", flush=True)
    time.sleep(60)

async def seal():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as after the first Ctrl-C
    trainer = Trainer.__new__(Trainer)
    trainer.record = SimpleNamespace(timeline=SimpleNamespace(span=lambda *_: nullcontext()))
    trainer.checkpoints = SimpleNamespace(commit=commit)
    trainer.committing = asyncio.create_task(trainer._commit(None, SimpleNamespace(step=1)))
    async with trainer.sealing():
        pass

asyncio.run(seal())
"""


def test_ctrl_c_again_does_not_wait_for_what_is_sealed() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SEALING], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"sealing\n"
        asked = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=90)
        took = time.monotonic() - asked
    finally:
        process.kill()

    assert took < 20
    assert said.splitlines()[-1] == b"KeyboardInterrupt"


async def test_who_is_cancelled_while_one_is_sealed_can_wait_for_it_still(
    trainer: Trainer, tmp_path: Path
) -> None:
    await save(trainer, 1)
    waiting = asyncio.create_task(trainer.committed())
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    await trainer.committed()
    assert sealed(tmp_path) == ["step-000001"]


async def test_a_checkpoint_that_cannot_be_sealed_ends_the_run_at_the_next_step(
    trainer: Trainer, tmp_path: Path
) -> None:
    await save(trainer, 1)
    (tmp_path / "checkpoints" / ".tmp-step-000001" / "rng-0.npz").unlink()
    assert trainer.committing is not None
    await asyncio.wait([trainer.committing])

    with pytest.raises(CheckpointError, match="the files of rank 0 of 1 are not here"):
        await trainer.step([], step=1, posts=True)


async def ended(trainer: Trainer, stage: Coroutine[Any, Any, None]) -> None:
    async with trainer.sealing():
        await stage


async def test_what_ended_a_stage_is_told_of_although_its_checkpoint_cannot_be_sealed_either(
    trainer: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken() -> None:
        (tmp_path / "checkpoints" / ".tmp-step-000001" / "rng-0.npz").unlink()
        raise RewardError("the judge is gone")

    await save(trainer, 1)
    with pytest.raises(RewardError, match="the judge is gone"):
        await ended(trainer, broken())

    assert "the files of rank 0 of 1 are not here" in caplog.text


async def test_a_run_that_was_asked_to_end_does_not_say_that_it_saved_when_it_could_not(
    trainer: Trainer, tmp_path: Path
) -> None:
    async def asked() -> None:
        (tmp_path / "checkpoints" / ".tmp-step-000001" / "rng-0.npz").unlink()
        raise Stopped("stopped after step 1 on SIGTERM; go on with llmrl train ... --resume")

    await save(trainer, 1)
    with pytest.raises(CheckpointError, match="the files of rank 0 of 1 are not here"):
        await ended(trainer, asked())


async def test_a_stage_ends_with_its_last_checkpoint_sealed_however_it_ends(
    trainer: Trainer, tmp_path: Path
) -> None:
    await ended(trainer, save(trainer, 1))
    assert sealed(tmp_path) == ["step-000001"]

    async def broken() -> None:
        await save(trainer, 2)
        raise RewardError("the judge is gone")

    with pytest.raises(RewardError):
        await ended(trainer, broken())
    assert sealed(tmp_path) == ["step-000001", "step-000002"]
