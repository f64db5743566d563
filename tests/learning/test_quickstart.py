"""Learning is tested as learning: the quickstart's tiny policy outgrows its teacher, asynchronously."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llmrl.recipe.load import load_recipe
from llmrl.report.journal import read_journal
from llmrl.run.start import train_recipe

QUICKSTART = Path(__file__).resolve().parents[2] / "recipes" / "quickstart" / "digits.toml"


@pytest.mark.timeout(1800)
def test_the_quickstart_goes_from_under_a_half_to_over_nineteen_twentieths(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_recipe(load_recipe(QUICKSTART, [f"run.folder={tmp_path}", "run.seed=7"]))

    journal = read_journal(tmp_path / "quickstart" / "1-grpo" / "metrics.jsonl")
    last = capsys.readouterr().out.strip().splitlines()[-1]
    line = re.fullmatch(
        r"held-out accuracy (\d\.\d{3}) -> (\d\.\d{3}) \(n = 512, 95 % (\d\.\d{3})-(\d\.\d{3})\), .*\d s",
        last,
    )
    assert line, last
    assert float(line[1]) <= 0.50
    assert float(line[2]) >= 0.95
    assert journal.evaluations[-1].version == len(journal.steps) == 200
    # It was asynchronous, and the bound held.
    assert 0.5 < sum(step.metrics["lag/mean"] for step in journal.steps) / 200 <= 1
    assert max(step.metrics["lag/max"] for step in journal.steps) == 1
