"""Rewards that ask real models, trained here on simple rules: scores, steps, verdicts and choices."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from llmrl.errors import ModelError, RecipeError
from llmrl.recipe.schema import Role
from llmrl.rewards import Judgement, Sample
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.roles.worker import RoleWorker

from .conftest import stage_of

Asked = Callable[[Role, dict[str, Any]], Awaitable[Scorer]]


def sample(response: str, *, prompt: str = "12=", rivals: tuple[str, ...] = ()) -> Sample:
    return Sample(
        prompt=prompt, response=response, answer="5", tokens=len(response), finished=True, rivals=rivals
    )


async def judged(scorer: Scorer, *samples: Sample) -> tuple[Judgement, ...]:
    judgements = await scorer.judge(samples)
    assert scorer.take_statistics()["judgement/restarts"] == 0
    return judgements


async def test_a_classifier_scores_a_prompt_with_its_response(asking: Asked, likes_sevens: Path) -> None:
    scorer = await asking(Role(path=str(likes_sevens), kind="classify"), {"kind": "classifier"})

    some = ["7777", "7171", "1111", "77777777"]
    judgements = await judged(scorer, *map(sample, some))

    # It was trained to say the share of sevens, and says it by itself and in company.
    assert [judgement.reward for judgement in judgements] == pytest.approx([1, 0.5, 0, 1], abs=0.2)
    (alone,) = await judged(scorer, sample("7171"))
    assert alone.reward == pytest.approx(judgements[1].reward, abs=1e-4)


@pytest.mark.parametrize(("aggregate", "worth"), [("min", 0.0), ("mean", 2 / 3), ("last", 1.0)])
async def test_steps_are_scored_one_by_one_and_made_into_one(
    asking: Asked, dislikes_zeros: Path, aggregate: str, worth: float
) -> None:
    role = Role(path=str(dislikes_zeros), kind="steps", options={"split": ";", "separator": ";"})
    scorer = await asking(role, {"kind": "process", "options": {"aggregate": aggregate}})

    judgement, silence = await judged(scorer, sample("123;103;456"), sample(""))

    assert judgement.reward == pytest.approx(worth, abs=0.1)
    first, second, third = map(float, judgement.note.removeprefix("rewards.good ").split())
    assert min(first, third) > 0.9 > 0.1 > second
    assert (silence.status, silence.note) == ("abstain", "rewards.good abstained: the response has no step")


@pytest.mark.parametrize("engine", ["torch", "vllm"])
async def test_a_judge_is_read_as_a_number_within_its_range(asking: Asked, counts: Path, engine: str) -> None:
    role = Role(path=str(counts), kind="generate", options={"engine": engine}, context_tokens=64)
    options = {"template": "12#{response}?", "max_tokens": 4, "range": [1, 9]}
    scorer = await asking(role, {"kind": "judge", "options": options})

    five, nine, zero, nonsense, long = await judged(
        scorer, *map(sample, ["5", "9", "0", "B", "1234567890" * 6])
    )

    assert (five.reward, nine.reward) == (0.5, 1.0)
    assert five.note == "rewards.good the judge said '5'"
    assert (zero.status, nonsense.status, long.status) == ("error", "error", "error")
    assert "ServiceError: role 'judge' gave no verdict that can be read; the judge said '0'." in zero.note
    assert "role 'judge' gave no verdict that can be read; the judge said '=#='." in nonsense.note
    assert "role 'judge' refused: status 400" in long.note
    assert "65 tokens of the question and max_tokens = 4 of the answer do not fit" in long.note


async def test_a_verdict_that_cannot_be_read_abstains_if_the_recipe_says_so(
    asking: Asked, counts: Path
) -> None:
    role = Role(path=str(counts), kind="generate", options={"engine": "torch"}, context_tokens=64)
    options = {"template": "12#{response}?", "max_tokens": 4, "unreadable": "abstain"}
    scorer = await asking(role, {"kind": "judge", "options": options})

    (judgement,) = await judged(scorer, sample("B"))

    assert (judgement.status, judgement.reward) == ("abstain", None)
    assert judgement.note == "rewards.good abstained: the judge said '=#='"


async def test_a_judge_who_prefers_a_place_prefers_nobody(asking: Asked, counts: Path) -> None:
    role = Role(path=str(counts), kind="generate", options={"engine": "torch"}, context_tokens=64)
    options = {"template": "{first},{second}?", "max_tokens": 4}
    scorer = await asking(role, {"kind": "compare", "options": options})

    compared, alone = await judged(scorer, sample("7", rivals=("3", "5")), sample("7"))

    # It says A in both orders: 1 for the response as the first, 0 as the second.
    assert (compared.reward, compared.note) == (0.5, "rewards.good 1 0 1 0")
    assert (alone.status, alone.note) == ("abstain", "rewards.good abstained: no rival")


async def test_a_role_that_is_not_there_is_an_error_that_names_it(asking: Asked, likes_sevens: Path) -> None:
    options = {"role": "juge"}
    role = Role(path=str(likes_sevens), kind="classify")
    scorer = await asking(role, {"kind": "classifier", "options": options})

    (judgement,) = await judged(scorer, sample("7"))

    assert judgement.status == "error"
    assert "ServiceError: role 'juge' failed: status 503" in judgement.note
    assert "role 'juge' has no process now." in judgement.note


async def test_a_model_without_a_trained_head_is_refused(counts: Path) -> None:
    worker = RoleWorker(stage_of(judge=Role(path=str(counts), kind="classify")), "judge", "cpu")

    with pytest.raises(ModelError, match=r"roles\.judge\.path: .* lacks score\.weight, so its scores would"):
        await worker.start()


async def test_a_label_is_needed_where_there_are_several(dislikes_zeros: Path, likes_sevens: Path) -> None:
    wrong = Role(path=str(likes_sevens), kind="classify", options={"label": "GOOD"})
    worker = RoleWorker(stage_of(judge=wrong), "judge", "cpu")

    with pytest.raises(
        RecipeError, match=r"roles\.judge\.options\.label: the model has no label 'GOOD'\. Known: LABEL_0\."
    ):
        await worker.start()
