"""The gold check: every gold answer, as a response, must score 1 with the rewards that read it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmrl.errors import DataError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.rewards.gold import check_answers
from llmrl.rewards.scoring.scorer import Scorer

MakeScorer = Callable[..., Awaitable[Scorer]]
GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"


def prompts(answers: list[str | None]) -> list[Prompt]:
    tokens = np.zeros(1, np.int32)
    return [
        Prompt(id=f"rows/{n}", tokens=tokens, text="", answer=a, source="rows") for n, a in enumerate(answers)
    ]


async def test_a_gold_answer_is_no_thought_where_the_template_begins_one(scorer_of: MakeScorer) -> None:
    begun = [replace(prompt, text="How many?<think>\n") for prompt in prompts(["72"])]

    await check_answers(await scorer_of({"correct": {"kind": "number"}}), begun)


@pytest.mark.parametrize("kind", ["number", "math"])
async def test_all_gold_answers_of_gsm8k_pass(scorer_of: MakeScorer, kind: str) -> None:
    path = GSM8K / "test.jsonl"
    if not path.exists():
        pytest.skip(f"{path} is not there: the shared data of the project is not mounted")
    answers = [json.loads(line)["answer"] for line in path.read_text(encoding="utf-8").splitlines()]
    scorer = await scorer_of(
        {"correct": {"kind": kind}, "short": {"kind": "length", "options": {"max_tokens": 9}}}
    )

    await check_answers(scorer, prompts(answers))

    assert len(answers) == 1319


@pytest.mark.parametrize(
    "reward",
    [
        {"kind": "number", "options": {"marker": "#"}},
        {"kind": "number", "weight": 0.0},
        {"kind": "capture", "options": {"pattern": "Answer: (.*)"}},
        {"kind": "exact"},
        {"kind": "math"},
    ],
)
async def test_a_form_that_is_asked_of_responses_is_not_asked_of_gold(
    scorer_of: MakeScorer, reward: dict[str, object]
) -> None:
    scorer = await scorer_of({"correct": reward})

    await check_answers(scorer, prompts(["72", "3/4", "#### 5"]))


async def test_rows_whose_gold_is_missing_or_unreadable_are_named(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"correct": {"kind": "number"}})

    with pytest.raises(DataError) as caught:
        await check_answers(scorer, prompts(["1", None, "blue", "2", " ", "3 or 4", "5"]))

    message = str(caught.value)
    assert message.startswith(
        "prompts: 4 of 7 gold answers do not score 1 against themselves: rows/1 (no answer), "
    )
    assert (
        "rows/2 ('blue': rewards.correct raised ValueError: the gold answer 'blue' is not one number"
        in message
    )
    assert "rows/4 (no answer), ..." in message
    assert "set scoring.check_answers = false" in message


async def test_a_gold_answer_is_judged_with_the_messages_of_its_prompt(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"correct": {"kind": "choice"}})
    asked = Message(role="user", content="Capital?\nA. Paris\nB. Berlin")
    rendered = f"<|im_start|>user\n{asked.content}<|im_end|>\n<|im_start|>assistant\n"

    await check_answers(
        scorer, [replace(one, text=rendered, messages=(asked,)) for one in prompts(["B", "Berlin"])]
    )


async def test_a_preference_made_of_scores_needs_the_answers_that_the_scores_need(
    scorer_of: MakeScorer,
) -> None:
    scorer = await scorer_of({"better": {"kind": "versus", "options": {"kind": "number"}}})

    await check_answers(scorer, prompts(["1", "2"]))
    with pytest.raises(DataError, match=r"1 of 2 gold answers .* rows/1 \(no answer\)"):
        await check_answers(scorer, prompts(["1", None]))


async def test_rewards_that_read_no_answer_ask_for_none(scorer_of: MakeScorer) -> None:
    scorer = await scorer_of({"short": {"kind": "length", "options": {"max_tokens": 9}}})

    await check_answers(scorer, prompts([None, None]))


async def test_awaited_rewards_grade_gold_and_those_that_ask_a_model_do_not(scorer_of: MakeScorer) -> None:
    url = "http://127.0.0.1:1/v1"  # nobody is there, as before a run
    rewards = {
        "awaited": {"kind": "awaited_gold"},
        "asked": {"kind": "asks_about_gold", "options": {"url": url}},
        "judged": {"kind": "judge", "options": {"url": url, "template": "{response} for {answer}?"}},
        "remote": {"kind": "remote", "options": {"url": url}},
    }
    scorer = await scorer_of(rewards, "asking_rewards")

    assert scorer.reads_answer == ("awaited",)
    await check_answers(scorer, prompts(["red", "green"]))
    with pytest.raises(DataError, match=r"1 of 2 .* rows/1 \('blue': rewards\.awaited scores 0\)"):
        await check_answers(scorer, prompts(["red", "blue"]))
