"""HumanEval: what its authors wrote passes, what is broken fails, in every form that a response may have."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmrl.rewards import Reward, Sample, Score
from llmrl.rewards.kinds.code import Code

DATA = Path(__file__).resolve().parents[4] / "shared" / "data" / "humaneval" / "HumanEval.jsonl.gz"
BROKEN = "    return None\n"


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    if not DATA.is_file():
        pytest.skip(f"HumanEval is not at {DATA}")
    with gzip.open(DATA, "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def judge() -> Iterator[Code]:
    code = Code(seconds=30.0)
    code.warm_up()
    yield code
    code.close()


def score(judge: Reward, row: dict[str, Any], response: str) -> float | None:
    sample = Sample(prompt=row["prompt"], response=response, answer=json.dumps(row), tokens=1, finished=True)
    given = judge(sample)
    assert isinstance(given, Score)
    return given.value


def test_every_canonical_solution_passes(judge: Code, rows: list[dict[str, Any]]) -> None:
    failed = [row["task_id"] for row in rows if score(judge, row, row["canonical_solution"]) != 1.0]

    assert (len(rows), failed) == (164, [])


def test_every_broken_body_fails(judge: Code, rows: list[dict[str, Any]]) -> None:
    assert [row["task_id"] for row in rows if score(judge, row, BROKEN) != 0.0] == []


def test_a_whole_function_in_a_block_is_as_good_as_a_body(judge: Code, rows: list[dict[str, Any]]) -> None:
    for row in rows[:20]:
        text = f"Sure.\n```python\n{row['prompt']}{row['canonical_solution']}```\nThat is all."

        assert score(judge, row, text) == 1.0, row["task_id"]


def test_the_gold_check_runs_the_solution_of_each_row(judge: Code, rows: list[dict[str, Any]]) -> None:
    wrong = {**rows[0], "canonical_solution": BROKEN}

    assert score(judge.bare(), rows[0], "") == 1.0
    assert score(judge.bare(), wrong, "") == 0.0
