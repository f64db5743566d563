"""A record of a stage as a run has it, without processes, and what a step may have trained on."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest

from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Stage
from llmrl.report.console import ConsoleReport
from llmrl.report.journal import Journal
from llmrl.report.timeline import Timeline
from llmrl.report.trackers import Trackers
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.pool import EnginePool
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.run.record import Record

MakeRecord = Callable[..., Record]


async def nobody(draw: Draw, sampling: Sampling) -> RolloutGroup:
    """An engine that is never asked."""
    raise AssertionError


@pytest.fixture
def make_record(tmp_path: Path) -> Generator[MakeRecord]:
    """Of a stage, and of its scorer if there is one; all is written below ``tmp_path``."""
    with (
        ConsoleReport() as console,
        Journal(tmp_path) as journal,
        Trackers((), run_name="r", folder=tmp_path, options={}) as trackers,
    ):

        def make(stage: Stage, scorer: Scorer | None = None) -> Record:
            return Record(
                stage=stage,
                folder=tmp_path,
                journal=journal,
                console=console,
                trackers=trackers,
                timeline=Timeline(tmp_path, steps=0),
                decode=str,
                pool=EnginePool([nobody]),
                scorer=scorer,
            )

        yield make


@pytest.fixture
def imitated() -> Experience:
    """Of an offline step, which says nothing about rewards."""
    rollout = Rollout(
        tokens=np.array([3, 2], dtype=np.int32),
        logp=np.zeros(2, dtype=np.float32),
        version=np.zeros(2, dtype=np.int32),
        trained=np.ones(2, dtype=np.bool_),
        turn=np.zeros(2, dtype=np.int32),
        stop="stop",
        text="0",
    )
    prompt = Prompt(id="sums/0", tokens=np.array([3], dtype=np.int32), text="", answer="1", source="sums")
    group = RolloutGroup(ordinal=0, prompt=prompt, rollouts=(rollout,))
    return Experience(group=group, judgements=(), advantages=(np.zeros(2, np.float32),), lag=0)
