"""A record of a stage as a run has it, without engines."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from llmrl.recipe.schema import Stage
from llmrl.report.console import ConsoleReport
from llmrl.report.journal import Journal
from llmrl.report.timeline import Timeline
from llmrl.report.trackers import Trackers
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.run.record import Record

MakeRecord = Callable[..., Record]


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
                pool=None,
                scorer=scorer,
            )

        yield make
