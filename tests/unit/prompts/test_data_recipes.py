"""The recipes for real data read it as they say: mathematics, code, preferences, and stages of them."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmrl.objectives.algorithm import Algorithm
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Recipe
from llmrl.rewards.judgement import Sample
from llmrl.rewards.kinds.math import Math
from llmrl.sandbox.task import read_task

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the recipes are to be started."""
    monkeypatch.chdir(ROOT)


def recipe(name: str, *overrides: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / name, overrides).recipe


def humaneval(shared: Path, table: str) -> list[str]:
    """The hub's rows from a file."""
    path = shared / "data" / "humaneval" / "HumanEval.jsonl.gz"
    return [f"{table}.sources.0.dataset={path}", f"{table}.sources.0.split=train"]


def streams(found: Recipe) -> list[PromptStream]:
    """What each stage draws from, as a run reads it."""
    tokenizer = load_tokenizer(found.stages[0].model)
    return [
        PromptStream(
            stage.prompts,
            tokenizer,
            seed=0,
            max_response_tokens=None if Algorithm.of(stage).online else stage.rollouts.max_tokens,
        )
        for stage in found.stages
    ]


def test_humaneval_needs_no_conversion(shared: Path) -> None:
    (stream,) = streams(recipe("code/humaneval-tiny.toml", *humaneval(shared, "prompts")))

    assert (len(stream), stream.left_out) == (136, 28)
    for prompt in stream.rows:
        task = read_task(prompt.answer or "")
        assert task.solution
        # What the policy is shown is what its code goes on from.
        assert task.program("    return 1\n") == f"{prompt.text}    return 1\n"


def test_the_pairs_of_hh_that_fit_are_drawn_and_no_other(shared: Path) -> None:
    path = shared / "data" / "hh" / "harmless-base-test.jsonl.gz"
    found = recipe("hh/tiny-dpo.toml", f"prompts.sources.0.dataset={path}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        text = "".join(row["chosen"] + row["rejected"] for row in map(json.loads, file))

    (stream,) = streams(found)

    assert set(found.stages[0].model.characters or "") == set(text)
    assert len(stream) + stream.left_out == 400
    assert len(stream) > 50
    for prompt in stream.rows:
        assert prompt.demonstration is not None
        assert prompt.rejected is not None
        assert max(prompt.demonstration.size, prompt.rejected.size) <= 256


def test_a_blank_response_of_hh_is_one_that_ends_at_once(shared: Path) -> None:
    path = shared / "data" / "hh" / "harmless-base-test.jsonl.gz"
    changes = [f"prompts.sources.0.dataset={path}", "prompts.sources.0.rows=2312", "prompts.max_tokens=1024"]

    (stream,) = streams(recipe("hh/tiny-dpo.toml", *changes))

    # The space after "Assistant:", and the end.
    blank = [p for p in stream.rows if p.demonstration is not None and p.demonstration.size == 2]
    assert [prompt.id.partition("/")[2] for prompt in blank] == ["86", "516", "925", "1103"]


def test_the_answer_of_a_row_of_math_is_in_its_solution() -> None:
    (stream,) = streams(recipe("math/tiny.toml"))
    answers = [
        "12",
        "7/8",
        "6",
        "x^2-3x-10",
        r"2\sqrt{3}",
        "1",
        "42",
        "0.75",
        "120",
        r"9\pi",
        "(-2,2)",
        "0.25",
    ]

    assert len(stream) == len(answers)
    for prompt, answer in zip(stream.rows, answers, strict=True):
        sample = Sample(prompt=prompt.text, response="", answer=prompt.answer, tokens=9, finished=True)
        scored = [
            (Math().bare(), prompt.answer or "", 1.0),
            (Math(), rf"So it is $\boxed{{{answer}}}$.", 1.0),
            (Math(), r"So it is $\boxed{977}$.", 0.0),
        ]
        for reward, response, value in scored:
            score: Any = reward(replace(sample, response=response))
            assert score.value == value, (prompt.id, response)


def test_stages_change_data_rewards_budget_and_objective(shared: Path) -> None:
    coded = [change for name in ("code", "longer") for change in humaneval(shared, f"stages.{name}.prompts")]
    found = recipe("stages/math-then-code.toml", *coded)

    drawn = streams(found)

    stages = {stage.name: stage for stage in found.stages}
    assert list(stages) == ["math", "code", "longer"]
    assert [sorted({p.source for p in stream.rows}) for stream in drawn] == [
        ["rows"],
        ["HumanEval"],
        ["HumanEval"],
    ]
    assert [list(stage.rewards) for stage in found.stages] == [
        ["finished", "answer"],
        ["finished", "tests"],
        ["finished", "tests", "short"],
    ]
    assert [stage.rollouts.max_tokens for stage in found.stages] == [32, 64, 128]
    assert stages["code"].rewards["tests"].options == {"partial": True}
    assert stages["longer"].objective.options == {"clip_high": 0.28}
    assert stages["math"].objective.options == {}
    # The prompts of a run have a budget of their own, which all stages share.
    assert {stage.prompts.per_step for stage in found.stages} == {6}


def test_one_component_of_a_reward_is_perturbed_by_an_override() -> None:
    before = recipe("math/tiny.toml").stages[0]

    after = recipe("math/tiny.toml", "rewards.finished.weight=0.3").stages[0]

    changed = before.rewards["finished"].model_copy(update={"weight": 0.3})
    assert after == before.model_copy(update={"rewards": {**before.rewards, "finished": changed}})
