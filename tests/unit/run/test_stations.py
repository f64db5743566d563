"""Who needs new weights, and when."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pytest

from llmrl.errors import TrainingError
from llmrl.experience.credit import Advantages, Credit, Memory, credit
from llmrl.experience.credit import Judged as Credited
from llmrl.objectives.algorithm import Algorithm
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Choice, Evaluation, Optimizer, Prompts, Source, Stage
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.responder import Setting
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.run.loop import Judged
from llmrl.run.stations import Offline, Online, StageStations
from llmrl.run.step_budget import StepBudget


def stations(kind: type[StageStations], *, every_steps: int) -> StageStations:
    stage = Stage(
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="sft"),
        optimizer=Optimizer(steps=10),
        evaluation=Evaluation(every_steps=every_steps),
    )
    others = dict.fromkeys(("stream", "trainer", "judging", "algorithm"))
    more: dict[str, Any] = {"evaluated": ["a prompt"], **({"budget": None} if kind is Online else {})}
    return kind(stage=stage, **others, **more)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("every_steps", "served"), [(0, [0, 10]), (4, [0, 4, 8, 10])])
def test_where_nothing_is_generated_engines_get_the_weights_that_are_evaluated(
    every_steps: int, served: list[int]
) -> None:
    offline = stations(Offline, every_steps=every_steps)

    assert [version for version in range(11) if offline.serves(version)] == served


class Behind:
    """A judging that remembers what it was asked; the ledger of a trainer that takes any note."""

    def __init__(self) -> None:
        self.asked: list[Draw] = []
        self.trainer = SimpleNamespace(
            ledger=SimpleNamespace(late=lambda _: None, generated=lambda *_, **__: None),
            record=SimpleNamespace(late=lambda: None),
        )

    async def answer(self, draw: Draw, _sampling: Sampling) -> tuple[SimpleNamespace, tuple[()]]:
        self.asked.append(draw)
        return SimpleNamespace(oldest_version=0), ()


async def test_a_draw_that_was_given_up_is_not_answered_with_the_same_responses() -> None:
    behind, online = Behind(), stations(Online, every_steps=0)
    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    given: dict[str, Any] = {
        "algorithm": Algorithm.of(online.stage.model_copy(update={"objective": Choice(name="grpo")})),
        "stream": SimpleNamespace(at=lambda ordinal: Draw(ordinal=ordinal, prompt=prompt)),
        "judging": behind,
        "trainer": behind.trainer,
    }
    online = replace(cast("Online", online), **given)

    await online.obtain(7)
    online.late(7)
    await online.obtain(7)
    await online.obtain(8)

    assert [(draw.ordinal, draw.tries) for draw in behind.asked] == [(7, 0), (7, 1), (8, 0)]
    nothing = cast("Any", None)  # no engine, and no words
    setting = Setting(stage=online.stage, engine=nothing, tokenizer=nothing, seed=5)
    sampling = Sampling(purpose="train", per_prompt=1, temperature=1.0, max_tokens=8)
    first, again, _ = (setting.seeds(draw, sampling) for draw in behind.asked)
    assert first == (5, "train", 7, "p/0")
    assert again == (*first, "again 1")


def judged(*rewards: tuple[Literal["policy", "opponent"], float | None]) -> Judged:
    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    rollouts = tuple(
        Rollout(
            tokens=np.zeros(1, np.int32),
            logp=np.zeros(1, np.float32),
            version=np.zeros(1, np.int32),
            trained=np.ones(1, np.bool_),
            turn=np.zeros(1, np.int32),
            stop="stop",
            text="",
            opponent=who == "opponent",
        )
        for who, _ in rewards
    )
    judgements = tuple(
        Judgement(status="error" if reward is None else "score", reward=reward) for _, reward in rewards
    )
    return Judged(group=RolloutGroup(ordinal=4, prompt=prompt, rollouts=rollouts), judgements=judgements)


@pytest.mark.parametrize("keep", ["all", "varied"])
def test_a_group_in_which_only_the_opponent_was_judged_takes_no_place_of_the_step(keep: str) -> None:
    online, dropped = stations(Online, every_steps=0), list[str]()
    objective = {"objective": Choice(name="nash_md"), "keep": Choice(name=keep)}
    given: dict[str, Any] = {
        "algorithm": Algorithm.of(online.stage.model_copy(update=objective)),
        "budget": StepBudget(per_step=4, max_error_rate=1.0),
        "trainer": SimpleNamespace(
            ledger=SimpleNamespace(dropped=lambda _, reason: dropped.append(reason)),
            record=SimpleNamespace(judged=lambda *_, **__: None),
        ),
    }
    online = replace(cast("Online", online), **given)

    assert online.decide(judged(("policy", None), ("opponent", 1.0), ("opponent", 0.0))) == "replace"
    assert dropped == ["nothing judged"]
    assert online.decide(judged(("policy", 1.0), ("policy", None), ("opponent", 0.0))) == "train"
    assert len(dropped) == 1


@credit("remembers")
@dataclass(frozen=True, slots=True, kw_only=True)
class Remembers(Credit):
    """Credit of a plugin that keeps something."""

    kept: Any

    def __call__(self, groups: Sequence[RolloutGroup], judgements: Credited, memory: Memory) -> Advantages:
        memory["seen"] = self.kept
        return [[np.ones(one.tokens.size, np.float32) for one in group.rollouts] for group in groups]


def remembering(kept: object) -> Online:
    online = stations(Online, every_steps=0)
    chosen = {"objective": Choice(name="grpo"), "credit": Choice(name="remembers", options={"kept": 0})}
    algorithm = Algorithm.of(online.stage.model_copy(update=chosen))
    given: dict[str, Any] = {
        "algorithm": replace(algorithm, credit=Remembers(kept=kept)),
        "budget": StepBudget(per_step=1, max_error_rate=1.0),
        "trainer": SimpleNamespace(memory={}),
    }
    return replace(cast("Online", online), **given)


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        (np.int64(3), "a value of type int64"),
        ({"rates": [0.5, np.zeros(2)]}, "a value of type ndarray"),
        ({"by row": {7: 0.5}}, "a key of type int"),
        ([(0, 1)], "a value of type tuple"),
        (Counter("aa"), "a value of type Counter"),
    ],
)
def test_a_credit_may_remember_only_what_a_checkpoint_gives_back(kept: object, what: str) -> None:
    with pytest.raises(TrainingError) as refused:
        remembering(kept).credit([judged(("policy", 1.0))], 0)

    assert str(refused.value).startswith(f"credit 'remembers': memory['seen'] has {what}, which no ")


def test_a_credit_remembers_numbers_texts_lists_and_dicts() -> None:
    kept = {"rate": 0.5, "nan": float("nan"), "rows": [1, None, True, "p/0"], "numpy": np.float64(0.5)}
    online = remembering(kept)

    online.credit([judged(("policy", 1.0))], 0)

    back = json.loads(json.dumps(online.trainer.memory["seen"]))
    assert repr(back) == repr(kept | {"numpy": 0.5})


def test_where_responses_are_trained_on_engines_get_every_version() -> None:
    online = stations(Online, every_steps=0)

    assert all(online.serves(version) for version in range(11))
