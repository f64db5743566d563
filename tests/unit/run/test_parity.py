"""The parity gate passes rounding, stops everything else, and says what it looks like."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from llmrl.errors import EngineError, ParityError
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Choice, Optimizer, Policy, Prompts, Source, Stage
from llmrl.rollouts.agents.group import _silence
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.parity import Comparison, check_parity
from llmrl.run.parity_gate import _refuse_silence, pass_gate

RNG = np.random.default_rng(0)


def comparisons(**change: object) -> list[Comparison]:
    trainer = -RNG.exponential(1.0, 200).astype(np.float32)
    plain = (trainer * 0.8).astype(np.float32)
    fields: dict[str, object] = {"sampled": trainer, "trainer": trainer, "trainer_plain": plain} | change
    return [Comparison(**fields)]  # type: ignore[arg-type]


def test_rounding_passes() -> None:
    trainer = -RNG.exponential(1.0, 200).astype(np.float32)
    noisy = trainer + RNG.normal(0, 1e-5, 200).astype(np.float32)

    parity = check_parity(comparisons(sampled=noisy, trainer=trainer), dtype="float32", temperature=1.0)

    assert parity.tokens == 200
    assert 0 < parity.mean < 2e-5


@pytest.mark.parametrize(
    ("sampled", "temperature", "words"),
    [
        (lambda c: c.trainer_plain, 0.8, "raw logprobs"),
        (lambda c: np.roll(c.trainer, 1), 1.0, "shifted by one token"),
        (lambda c: c.trainer + np.float32(0.223), 1.0, "truncated distribution"),
        (lambda c: c.trainer + RNG.normal(0, 5e-4, 200).astype(np.float32), 1.0, "dtypes"),
        (lambda c: -RNG.exponential(1.0, 200).astype(np.float32), 1.0, "other weights"),
    ],
)
def test_a_difference_stops_the_run_with_its_likeliest_cause(sampled, temperature: float, words: str) -> None:
    (one,) = comparisons()
    wrong = Comparison(sampled=sampled(one), trainer=one.trainer, trainer_plain=one.trainer_plain)

    with pytest.raises(ParityError, match=words):
        check_parity([wrong], dtype="float32", temperature=temperature)


def test_a_logprob_that_is_not_finite_never_passes() -> None:
    trainer = np.zeros(3, dtype=np.float32)
    with pytest.raises(ParityError, match="inf"):
        check_parity(
            comparisons(
                sampled=np.array([0, np.nan, 0], dtype=np.float32), trainer=trainer, trainer_plain=trainer
            ),
            dtype="bfloat16",
            temperature=1.0,
        )


def test_responses_of_one_token_are_diagnosed_too() -> None:
    one = np.array([-1.0], dtype=np.float32)

    with pytest.raises(ParityError, match=r"disagree about 1 tokens.*truncated distribution"):
        check_parity(
            [Comparison(sampled=one + 1, trainer=one, trainer_plain=one)], dtype="float32", temperature=1.0
        )


def test_a_policy_that_nobody_asks_anything_ends_the_run_with_the_reason() -> None:
    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    silent = _silence("OSError: no docker here", opponent=False)
    groups = [RolloutGroup(ordinal=n, prompt=prompt, rollouts=(silent,)) for n in range(4)]

    with pytest.raises(EngineError, match=r"no token for the first 4 prompts: OSError: no docker here$"):
        _refuse_silence(groups)


async def test_what_the_gate_asks_for_fits_into_a_micro_batch_as_what_is_trained_does() -> None:
    stage = Stage(
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        policy=Policy(tokens_per_microbatch=2048),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )
    asked: list[Sampling] = []

    async def generate(prompt: Prompt, sampling: Sampling) -> RolloutGroup:
        asked.append(sampling)
        return RolloutGroup(ordinal=0, prompt=prompt, rollouts=(_silence("it is ill", opponent=False),))

    prompt = Prompt(id="p/0", tokens=np.zeros(1, np.int32), text="", answer=None, source="p")
    stream, crew = SimpleNamespace(at=lambda _: prompt), SimpleNamespace(engines=["engine-0"])
    pool = SimpleNamespace(generate=generate)

    with pytest.raises(EngineError, match="it is ill"):
        await pass_gate(stage, cast("Any", stream), cast("Any", crew), cast("Any", pool), routed=False)
    assert [one.together for one in asked] == [2048] * 4


def test_a_mixture_of_experts_may_differ_by_more_in_bfloat16_only() -> None:
    trainer = -RNG.exponential(1.0, 200).astype(np.float32)
    flipped = comparisons(sampled=trainer + RNG.normal(0, 0.2, 200).astype(np.float32), trainer=trainer)

    assert check_parity(flipped, dtype="bfloat16", temperature=1.0, routed=True).mean > 0.1
    for dtype, routed in (("bfloat16", False), ("float32", True)):
        with pytest.raises(ParityError, match="disagree about 200 tokens"):
            check_parity(flipped, dtype=dtype, temperature=1.0, routed=routed)
