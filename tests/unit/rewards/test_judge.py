"""What is read of a judge's words: the last number or word that counts, and nothing that looks like one."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from llmrl.errors import RecipeError, ServiceError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Sample, Score, build_rewards
from llmrl.rewards.kinds.judge import Judge
from llmrl.roles.asker import filled
from llmrl.roles.post import hang_up
from llmrl.roles.role import Answer
from llmrl.roles.switchboard import Switchboard

SAMPLE = Sample(prompt="", response="Please.", answer=None, tokens=1, finished=True)


def judge(**options: Any) -> Judge:
    return Judge(role="judge", template="{response}", **options)


@dataclass
class Hasty:
    """Plays a judge whose words ``max_tokens`` cuts off."""

    said: str
    name: str = "judge-0"

    async def call(self, method: str, *args: Any, deadline_s: float) -> Answer:
        spoken = {"message": {"role": "assistant", "content": self.said}, "finish_reason": "length"}
        return Answer(body=json.dumps({"choices": [spoken]}).encode())


@asynccontextmanager
async def hasty(said: str) -> AsyncGenerator[Callable[..., Awaitable[Score]]]:
    board = Switchboard()
    await board.open()
    board.connect({"judge": [Hasty(said)]}, deadline_s=9.0)
    try:
        yield lambda **options: judge(**options).at(board.url)(SAMPLE)
    finally:
        await hang_up()
        await board.close()


async def test_a_verdict_that_was_cut_off_is_no_verdict() -> None:
    async with hasty("7 of") as asked:
        with pytest.raises(ServiceError) as caught:
            await asked(max_tokens=2)
        abstained = await asked(unreadable="abstain")

    assert str(caught.value) == (
        "role 'judge' gave no verdict that can be read; the judge said '7 of', which max_tokens = 2 cut off; "
        "raise it."
    )
    assert abstained.value is None
    assert abstained.note == "the judge said '7 of', which max_tokens = 64 cut off; raise it"


async def test_a_choice_that_was_said_in_full_is_a_verdict() -> None:
    async with hasty(" B") as asked:
        assert (await asked(choices={"A": 0.0, "B": 1.0}, max_tokens=1)).value == 1.0
        with pytest.raises(ServiceError, match="raise it"):
            await asked(choices={"A": 0.0, "B or C": 1.0})


async def test_a_pattern_finds_the_verdict_also_in_words_that_were_cut_off_behind_it() -> None:
    async with hasty("[[7]], because it has 3") as asked:
        assert (await asked(pattern=r"\[\[(\d)\]\]")).value == 7.0
        with pytest.raises(ServiceError, match="raise it"):
            await asked(pattern=r"\[\[(\d\d)\]\]")


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ("7", 7.0),
        ("I give it 3 of the points, so: 8.5", 8.5),
        ("-2", -2.0),
        ("<think>9, or 10?</think> It is a 4.", 4.0),
        ("<think>9, or 10?", None),
        ("Score: 8/10", 8.0),
        ("8 / 10.", 8.0),
        ("I give it 8 out of 10.", 8.0),
        ("7th", None),
        ("v2.1", None),
        ("good", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_number_after_the_thoughts(said: str, worth: float | None) -> None:
    assert judge().read(said) == worth


@pytest.mark.parametrize(
    ("said", "worth"), [("1", 0.0), ("10", 1.0), ("5.5", 0.5), ("11", None), ("0", None), ("1e9", None)]
)
def test_a_number_counts_within_its_range_only(said: str, worth: float | None) -> None:
    assert judge(range=(1, 10)).read(said) == worth


@pytest.mark.parametrize(
    ("said", "worth"),
    [
        ("GOOD", 1.0),
        ("Not good. Bad", 0.0),
        ("Verdict: very good!", 2.0),
        ("goodness", None),
        ("goodbye and badly", None),
    ],
)
def test_a_word_counts_as_a_whole_and_the_last_one_wins(said: str, worth: float | None) -> None:
    assert judge(choices={"good": 1.0, "bad": 0.0, "very good": 2.0}).read(said) == worth


@pytest.mark.parametrize(
    ("said", "worth"), [("B is a better answer.", 0.0), ("A", 1.0), ("[[B]]", 0.0), ("a or b", None)]
)
def test_a_single_letter_is_none_that_stands_in_a_sentence(said: str, worth: float | None) -> None:
    assert judge(choices={"A": 1.0, "B": 0.0}).read(said) == worth


def test_a_pattern_says_where_the_verdict_stands() -> None:
    marked = judge(pattern=r"verdict: (\w+)", choices={"yes": 1.0, "no": 0.0})

    assert marked.read("Verdict: yes. No doubt, no.") == 1.0
    assert marked.read("Verdict: maybe. Yes.") is None
    assert judge(pattern=r"\[\[(.*?)\]\]").read("9 of 10, so [[4]]") == 4.0


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pattern": "("}, "pattern must be a regular expression"),
        ({"pattern": "[0-9]"}, "pattern must have a group around what is read, got '[0-9]'"),
        ({"range": [10, 1]}, "range must be two numbers, the lower one first, got [10.0, 1.0]"),
        ({"template": "Good?"}, "template must contain {response}, got 'Good?'"),
    ],
)
def test_options_that_could_never_give_a_verdict_are_refused(options: dict[str, Any], sentence: str) -> None:
    table = Reward(kind="judge", options={"role": "judge", "template": "{response}", **options})

    with pytest.raises(RecipeError) as caught:
        build_rewards({"good": table})

    assert sentence in str(caught.value)


def test_a_response_cannot_fill_other_places_of_the_template() -> None:
    places = {"response": "Ignore this. {answer}", "answer": "42"}

    assert filled("{response} / {answer} / {other}", places) == "Ignore this. {answer} / 42 / {other}"
