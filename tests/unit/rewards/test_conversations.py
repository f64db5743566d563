"""What rewards read of a conversation: the answer in the policy's last turn, or all that was said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from llmrl.prompts.prompt import Prompt
from llmrl.rewards import Sample, reward
from llmrl.rewards.scoring.part import evaluate
from llmrl.rewards.scoring.samples import samples_of
from llmrl.rollouts.rollout import Rollout, RolloutGroup

TOLD = "<tool>calc: 6*7</tool>\n> <result>42</result>\n{}\n> goodbye, 99"


def judged(
    kind: str,
    options: dict[str, Any],
    *,
    last: str,
    answer: str,
    prompt: str = "A. Rome B. Paris",
    asked: str = "A. Rome B. Paris",
) -> float | None:
    sample = Sample(
        prompt=prompt, response=TOLD.format(last), answer=answer, tokens=9, finished=True,
        last_turn=last, messages=({"role": "user", "content": asked},),
    )  # fmt: skip
    part = evaluate(reward.build(kind, options, key="rewards.x"), sample)
    assert part.status == "score", part.note
    return part.value


@pytest.mark.parametrize(
    ("kind", "options", "last", "answer"),
    [
        ("exact", {}, "42", "42"),
        ("number", {}, "So it is 42.", "42"),
        ("math", {}, "\\boxed{6 \\cdot 7}", "42"),
        ("choice", {}, "The answer is (B).", "B"),
        ("capture", {"pattern": "is ([0-9]+)"}, "It is 42", "42"),
        ("json", {"schema": {"type": "object"}}, '{"total": 42}', ""),
        ("constraints", {"require": {"punctuation:no_comma": {}}}, "42", ""),
    ],
)
def test_an_answer_is_looked_for_in_the_last_turn_and_not_in_replies(
    kind: str, options: dict[str, Any], last: str, answer: str
) -> None:
    assert judged(kind, options, last=last, answer=answer) == 1.0


@pytest.mark.parametrize(
    ("kind", "options", "last", "answer"),
    [
        ("exact", {"strip": False}, "42", "42"),
        ("number", {"marker": "#"}, "#42", "42"),
        ("math", {}, "\\boxed{42}", "42"),
        ("choice", {}, "B", "B"),
        ("sql", {}, "SELECT 42", "SELECT 42"),
        ("capture", {"pattern": "is ([0-9]+)"}, "It is 42", "42"),
        ("json", {"schema": {"type": "object"}}, '{"total": 42}', ""),
        ("json", {"where": "fenced"}, "```json\n42\n```", ""),
        ("instructions", {}, "forty-two", '[{"name": "punctuation:no_comma"}]'),
        ("constraints", {"require": {"punctuation:no_comma": {}}}, "42", ""),
    ],
)
def test_what_is_only_thought_is_no_answer_and_spoils_none(
    kind: str, options: dict[str, Any], last: str, answer: str
) -> None:
    thought = "<think>Is it 7, is 7, #7, (A) or ```7```?\n</think>\n\n"
    thinking = f"<think>{last}"

    assert judged(kind, options, last=thought + last, answer=answer) == 1.0
    assert judged(kind, options, last=thought.removeprefix("<think>") + last, answer=answer) == 1.0
    assert judged(kind, options, last=thinking, answer=answer) == 0.0

    begun = "A. Rome B. Paris<|im_start|>assistant\n<think>\n"
    ended = thought.removeprefix("<think>") + last
    assert judged(kind, options, last=ended, answer=answer, prompt=begun) == 1.0
    assert judged(kind, options, last=last, answer=answer, prompt=begun) == 0.0
    # What the prompt itself begins, and no template, the first turn has ended.
    assert judged(kind, options, last=last, answer=answer, prompt=begun, asked=begun) == 1.0


def test_a_pattern_or_a_form_is_that_of_the_whole_conversation() -> None:
    assert judged("regex", {"pattern": "<tool>calc"}, last="42", answer="") == 1.0
    assert judged("format", {"pattern": "<tool>.*"}, last="42", answer="") == 1.0


def test_a_sample_has_the_last_turn_of_its_rollout_and_one_turn_is_its_own_last() -> None:
    ids = np.array([5, 6], dtype=np.int32)
    alone = Rollout(
        tokens=ids, logp=ids.astype(np.float32), version=ids, trained=ids > 0, turn=ids, stop="stop",
        text="42",
    )  # fmt: skip
    talked = replace(alone, text=TOLD.format("42"), last_turn="42")
    prompt = Prompt(id="p", tokens=ids, text="", answer="42", source="p")
    group = RolloutGroup(ordinal=0, prompt=prompt, rollouts=(alone, talked))

    one, other = samples_of(group, max_tokens=9, rivals=False)

    assert (one.last_turn, one.final_text, one.response) == (None, "42", "42")
    assert (other.last_turn, other.final_text, other.response) == ("42", "42", TOLD.format("42"))


def test_what_nobody_finished_is_no_rival_and_leaves_the_two_sides_two() -> None:
    ids = np.array([5, 6], dtype=np.int32)
    own = Rollout(
        tokens=ids, logp=ids.astype(np.float32), version=ids, trained=ids > 0, turn=ids, stop="stop",
        text="own",
    )  # fmt: skip
    cut_off = replace(own, text="", stop="abort", abort="no reply within 60 s")
    twin, other = replace(own, text="twin"), replace(own, text="other", opponent=True)
    prompt = Prompt(id="p", tokens=ids, text="", answer="42", source="p")

    def rivals(*rollouts: Rollout) -> list[tuple[str, ...]]:
        group = RolloutGroup(ordinal=0, prompt=prompt, rollouts=rollouts)
        return [sample.rivals for sample in samples_of(group, max_tokens=9, rivals=True)]

    assert rivals(own, twin, cut_off) == [("twin",), ("own",), ("own", "twin")]
    assert rivals(own, cut_off, other) == [("other",), ("other",), ("own",)]
    # The opponent's only response was cut off: its place is not taken by the policy's own.
    assert rivals(own, twin, replace(cut_off, opponent=True)) == [(), (), ("own", "twin")]
