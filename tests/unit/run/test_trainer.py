"""The trainer's checkpoints: while one is sealed the run goes on, and none is lost or left half done."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from llmrl.cluster.actor import Actor
from llmrl.errors import (
    CheckpointError,
    DeadProcessError,
    EngineError,
    RewardError,
    Stopped,
    TrainingError,
)
from llmrl.experience.experience import Experience
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Optimizer, Policy, Prompts, Source, Stage
from llmrl.run.checkpoint import Checkpoints, RunState, read_state
from llmrl.run.crew import Crew
from llmrl.run.devices import OwnDevices, SharedDevices
from llmrl.run.ledger import Ledger
from llmrl.run.record import Record
from llmrl.run.trainer import Trainer

STAGE = Stage(
    prompts=Prompts(sources=(Source(task="digit_sum", rows=3),)),
    objective=Choice(name="sft"),
    optimizer=Optimizer(steps=2),
)


@dataclass
class Call:
    """To a rank or an engine, under way."""

    to: Process
    method: str
    args: tuple[Any, ...]

    async def result(self, *, deadline_s: float) -> Any:
        if self.method == self.to.dies_of:
            raise DeadProcessError(f"{self.to.name} died")
        if self.method == "save":
            (self.args[0] / "rng-0.npz").write_bytes(b"random")
            return self.args[0] / "rng-0.npz"
        if self.method == "update":
            await asyncio.sleep(0.1)  # in which something else may fail
            return {"policy/tokens": 1.0, "policy/skipped": self.to.skips}
        return {}


@dataclass
class Process:
    """Does what it is told, or dies of it."""

    name: str = "policy-0"
    dies_of: str = ""
    skips: float = 0.0
    told: list[str] = field(default_factory=list[str])

    def send(self, method: str, *args: Any) -> Call:
        self.told.append(method)
        return Call(self, method, args)

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        return await self.send(method, *args).result(deadline_s=deadline_s)


class SlowDisk(Checkpoints):
    """Takes a second to write, read and hash what a large model is made of."""

    def commit(self, path: Path, state: RunState, *, written: Sequence[Path]) -> Path:
        time.sleep(1.0)
        return super().commit(path, state, written=written)


@pytest.fixture
def trainer(tmp_path: Path, make_record: Callable[..., Record]) -> Generator[Trainer]:
    with Ledger(tmp_path / "ledger.jsonl") as ledger:
        yield Trainer(
            stage=STAGE,
            crew=Crew(
                engines=(), ranks=[cast("Actor", Process())], roles={}, devices=OwnDevices(), deadline_s=5
            ),
            ledger=ledger,
            record=make_record(STAGE),
            checkpoints=SlowDisk(tmp_path / "checkpoints", keep=2),
            fingerprint="d1",
            tables={},
        )


def stepped(trainer: Trainer, step: int) -> None:
    trainer.taken = step
    trainer.unsaved = trainer._state()


async def save(trainer: Trainer, step: int) -> None:
    stepped(trainer, step)
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

def commit(path, state, *, written):
    print("sealing", flush=True)
    time.sleep(60)

async def seal():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as after the first Ctrl-C
    trainer = Trainer.__new__(Trainer)
    trainer.record = SimpleNamespace(timeline=SimpleNamespace(span=lambda *_: nullcontext()))
    trainer.checkpoints = SimpleNamespace(commit=commit)
    trainer.committing = asyncio.create_task(trainer._commit(None, SimpleNamespace(step=1), []))
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


def experience() -> Experience:
    token = np.array([1], dtype=np.int32)
    prompt = Prompt(id="p/0", tokens=token, text="", answer=None, source="p", demonstration=token)
    return imitate(demonstrate(Draw(ordinal=0, prompt=prompt)))


async def failing() -> None:
    await asyncio.sleep(0.01)
    raise EngineError("engine-0 died")


async def test_a_stage_that_something_else_than_a_rank_ended_keeps_its_newest_step(
    trainer: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stepped(trainer, 7)
    with pytest.raises(EngineError, match="engine-0 died"):
        await ended(trainer, failing())

    assert sealed(tmp_path) == ["step-000007"]
    assert "step 7 is saved; go on with llmrl train ... --resume" in capsys.readouterr().out


async def test_of_a_stage_that_deepspeed_could_not_restore_nothing_is_saved(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.put", lambda value: value)  # there is no cluster
    policy = Policy(zero_stage=3, offload="nvme", nvme_folder=tmp_path)
    trainer.stage = STAGE.model_copy(update={"policy": policy})

    for step in range(2):
        await trainer.step([experience()], step=step, posts=False)
    with pytest.raises(EngineError, match="engine-0 died"):
        await ended(trainer, failing())

    assert trainer.taken == 2
    assert not (tmp_path / "checkpoints").exists()


async def test_ranks_that_cannot_save_do_not_hide_what_ended_the_stage(
    trainer: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.crew = replace(trainer.crew, ranks=[cast("Actor", Process(dies_of="save"))])
    stepped(trainer, 7)
    with pytest.raises(EngineError, match="engine-0 died"):
        await ended(trainer, failing())

    assert sealed(tmp_path) == []
    assert "policy-0 died" in caplog.text
    assert "is saved" not in capsys.readouterr().out


async def test_a_step_that_is_under_way_when_something_else_fails_is_taken_and_kept(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.put", lambda value: value)  # there is no cluster

    async def stage() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(failing())
            await trainer.step([experience()], step=0, posts=False)

    with pytest.raises(BaseExceptionGroup):
        await ended(trainer, stage())
    assert sealed(tmp_path) == ["step-000001"]


async def test_of_a_step_that_failed_half_way_nothing_is_kept(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.put", lambda value: value)  # there is no cluster
    trainer.crew = replace(trainer.crew, ranks=[cast("Actor", Process(dies_of="update"))])
    stepped(trainer, 1)
    with pytest.raises(DeadProcessError, match="policy-0 died"):
        await ended(trainer, trainer.step([experience()], step=1, posts=False))

    assert sealed(tmp_path) == []


async def test_a_dead_engine_does_not_keep_the_devices_from_ranks_that_shall_save(
    trainer: Trainer, tmp_path: Path
) -> None:
    engine, rank = Process("engine-0", dies_of="sleep"), Process()
    devices = SharedDevices([cast("Actor", engine)], [cast("Actor", rank)], deadline_s=5)
    await devices.engines()
    trainer.crew = replace(trainer.crew, ranks=[cast("Actor", rank)], devices=devices)
    stepped(trainer, 7)
    with pytest.raises(EngineError, match="engine-0 died"):
        await ended(trainer, failing())

    assert rank.told == ["leave", "come_back", "save"]
    assert sealed(tmp_path) == ["step-000007"]


@pytest.mark.parametrize(
    ("engine", "rank", "kept"),
    [
        (Process("engine-0", dies_of="load"), Process(), ["step-000007"]),
        (Process("engine-0"), Process(dies_of="weights"), []),
    ],
)
async def test_where_a_sync_fails_the_newest_step_is_kept_unless_a_rank_did(
    trainer: Trainer, tmp_path: Path, engine: Process, rank: Process, kept: list[str]
) -> None:
    trainer.crew = replace(trainer.crew, engines=[cast("Actor", engine)], ranks=[cast("Actor", rank)])
    trainer.snapshot(7)
    stepped(trainer, 7)
    with pytest.raises(DeadProcessError):
        await ended(trainer, trainer.publish(7))

    assert sealed(tmp_path) == kept
    assert ("save" in rank.told) == bool(kept)


async def test_ranks_of_whom_one_failed_to_score_are_not_asked_to_save(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.put", lambda value: value)  # there is no cluster
    rank = Process(dies_of="score_ahead")
    trainer.crew = replace(trainer.crew, ranks=[cast("Actor", rank)])
    stepped(trainer, 7)
    with pytest.raises(DeadProcessError, match="policy-0 died"):
        await ended(trainer, trainer.score_ahead([experience()]))

    assert rank.told == ["score_ahead"]


async def test_a_logprob_that_is_not_finite_is_no_failure_of_the_ranks(
    trainer: Trainer, tmp_path: Path
) -> None:
    broken = experience()
    broken.group.rollouts[0].logp[:] = np.nan
    stepped(trainer, 7)
    with pytest.raises(EngineError, match="not finite"):
        await ended(trainer, trainer.score_ahead([broken]))

    assert sealed(tmp_path) == ["step-000007"]


async def test_an_older_checkpoint_that_could_not_be_sealed_does_not_cost_the_newest_step(
    trainer: Trainer, tmp_path: Path
) -> None:
    await save(trainer, 1)
    (tmp_path / "checkpoints" / ".tmp-step-000001" / "rng-0.npz").unlink()
    with pytest.raises(CheckpointError, match="the files of rank 0 of 1 are not here"):
        await ended(trainer, save(trainer, 2))

    assert sealed(tmp_path) == ["step-000002"]


async def test_a_step_that_nothing_could_be_written_of_is_kept(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("ray.put", lambda value: value)  # there is no cluster
    monkeypatch.setattr(Record, "stepped", full)
    with pytest.raises(OSError, match="No space left"):
        await ended(trainer, trainer.step([experience()], step=0, posts=False))

    assert sealed(tmp_path) == ["step-000001"]


async def test_nobody_shall_go_on_from_a_step_that_gave_the_run_up(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.put", lambda value: value)  # there is no cluster
    trainer.crew = replace(trainer.crew, ranks=[cast("Actor", Process(skips=1.0))])
    trainer.bad_steps = STAGE.optimizer.max_bad_steps - 1
    with pytest.raises(TrainingError, match="not finite"):
        await ended(trainer, trainer.step([experience()], step=0, posts=False))

    assert sealed(tmp_path) == []


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
