"""What the page knows of a run: its stages, its settings, and excerpts of its samples."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt
from llmrl.report.excerpts import LONGEST, STEPS, TOKENS, excerpts
from llmrl.report.journal import read_journal
from llmrl.report.samples import write_samples
from llmrl.report.settings import settings
from llmrl.report.story import Change, read_story
from llmrl.rollouts.rollout import Rollout, RolloutGroup


def a_group(ordinal: int, *, length: int, text: str = "x") -> Experience:
    rollout = Rollout(
        tokens=np.full(length, ord(text[0]), np.int32),
        logp=np.full(length, -0.5, np.float32),
        version=np.arange(length, dtype=np.int32) // max(1, length - 1),
        trained=np.ones(length, np.bool_),
        turn=np.zeros(length, np.int32),
        stop="length",
        text=text * length,
    )
    prompt = Prompt(id=f"s/{ordinal}", tokens=np.array([1], np.int32), text="?", answer=None, source="s")
    group = RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=(rollout,))
    return Experience(group=group, judgements=(), advantages=(np.zeros(length, np.float32),), lag=0)


def test_the_story_of_a_run(fake_run: Path) -> None:
    story = read_story(fake_run)

    sft, grpo = story.stages
    assert (story.name, sft.name, grpo.name) == ("digit-sum", "0-sft", "1-grpo")
    assert (sft.steps, grpo.steps, grpo.responses) == (60, 320, 320 * 128)
    assert sft.change is not None
    assert sft.change.metric == "policy/loss"
    assert sft.change.before > 2 > 0.3 > sft.change.after
    assert [entry.step for entry in grpo.evaluations] == list(range(0, 321, 40))
    assert story.metrics["reward/part/answer"].text == "mean score of one named reward, before its weight"
    assert story.arithmetic[0].startswith("Each step draws 16 prompts")


def test_a_change_is_between_the_first_and_the_last_tenth(fake_run: Path) -> None:
    rewards = [
        entry.metrics["reward/mean"] for entry in read_journal(fake_run / "1-grpo" / "metrics.jsonl").steps
    ]

    change = read_story(fake_run).stages[1].change

    assert change == Change(
        metric="reward/mean", before=float(np.mean(rewards[:32])), after=float(np.mean(rewards[-32:]))
    )


def test_a_metric_of_another_version_is_refused_by_its_name(fake_run: Path) -> None:
    journal = fake_run / "1-grpo" / "metrics.jsonl"
    journal.write_text(journal.read_text().replace('"reward/mean": 0.', '"reward/median": 0.'))

    with pytest.raises(DataError) as refused:
        read_story(fake_run)

    assert str(refused.value) == (
        f"{fake_run}: metrics.jsonl has a metric 'reward/median', which this version of llmrl does not "
        "know; use the version that wrote it."
    )


def test_stages_are_in_the_order_of_their_numbers(fake_run: Path) -> None:
    (fake_run / "1-grpo").rename(fake_run / "10-grpo")
    (fake_run / "0-sft").rename(fake_run / "9-sft")

    assert [stage.name for stage in read_story(fake_run).stages] == ["9-sft", "10-grpo"]


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no <stage>/metrics\.jsonl is here"):
        read_story(tmp_path)


def test_a_damaged_recipe_is_an_error(fake_run: Path) -> None:
    (fake_run / "recipe.json").write_text("[]")

    with pytest.raises(DataError, match=r"recipe\.json: this is not the resolved recipe"):
        read_story(fake_run)


def test_chosen_keys_are_those_that_are_not_at_their_default(fake_run: Path) -> None:
    recipe = json.loads((fake_run / "recipe.json").read_text())["recipe"]

    found = settings(recipe)

    assert list(found) == ["run", "0-sft", "1-grpo"]
    grpo = {each.key: each for each in found["1-grpo"]}
    chosen = {key: each.value for key, each in grpo.items() if each.chosen}
    assert chosen["rewards.format.weight"] == "0.1"
    assert chosen["objective.options"] == '{"clip_high": 0.28}'
    assert chosen["prompts.sources.0.task"] == '"digit_sum"'
    assert not grpo["engines.max_lag"].chosen
    assert grpo["engines.max_lag"].text.startswith("Versions by which a trained token may be behind")
    assert {each.key: each.value for each in found["run"]}["run.seed"] == "7"


def test_a_recipe_of_another_version_is_shown_without_marks() -> None:
    found = settings({"run": {"name": "old", "colour": "blue"}})

    assert [(each.key, each.value, each.chosen) for each in found["recipe"]] == [
        ("run.name", '"old"', False),
        ("run.colour", '"blue"', False),
    ]


def test_steps_of_a_long_run_are_spread_evenly_from_first_to_last(tmp_path: Path) -> None:
    for step in range(10, 1010, 10):
        write_samples(tmp_path, step=step, experiences=[a_group(step, length=3)], decode=chr)

    steps = [each.step for each in excerpts([tmp_path]).steps]

    assert len(steps) == STEPS
    assert (steps[0], steps[-1]) == (10, 1000)
    assert set(np.diff(steps)) <= {50, 60}


def test_whole_groups_up_to_the_share_of_tokens(tmp_path: Path) -> None:
    for step in (1, 2):
        groups = [a_group(ordinal, length=1000) for ordinal in range(110)]
        write_samples(tmp_path, step=step, experiences=groups, decode=chr)

    found = excerpts([tmp_path])

    assert [len(step.groups) for step in found.steps] == [TOKENS // 2000, TOKENS // 2000]


def test_a_very_long_response_is_cut_and_says_so(tmp_path: Path) -> None:
    write_samples(tmp_path, step=1, experiences=[a_group(1, length=LONGEST + 7)], decode=chr)

    (response,) = excerpts([tmp_path]).steps[0].groups[0].responses

    assert (len(response.tokens), len(response.logprobs), response.more) == (LONGEST, LONGEST, 7)


def test_columns_of_equal_values_are_kept_as_one_value(tmp_path: Path) -> None:
    write_samples(tmp_path, step=1, experiences=[a_group(1, length=3)], decode=chr)

    found = excerpts([tmp_path])
    (response,) = found.steps[0].groups[0].responses

    assert (found.strings, response.tokens) == (["x"], [0, 0, 0])
    assert (response.advantages, response.trained, response.versions) == (0.0, True, [0, 0, 1])


def test_tokens_that_are_parts_of_characters_come_with_the_whole_text(tmp_path: Path) -> None:
    write_samples(tmp_path, step=1, experiences=[a_group(1, length=2)], decode=lambda _: "\ufffd")

    (response,) = excerpts([tmp_path]).steps[0].groups[0].responses

    assert response.text == "xx"
