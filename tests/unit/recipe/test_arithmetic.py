"""The arithmetic of a stage, against numbers worked out by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.recipe.arithmetic import arithmetic, sentences, stage_arithmetic
from llmrl.recipe.load import load_recipe


def test_a_stage_multiplied_by_hand(good: Path) -> None:
    overrides = ["policy.ranks=2", "policy.tokens_per_microbatch=1000", "engines.max_lag=2"]
    stage = load_recipe(good, overrides).recipe.stages[0]

    numbers = stage_arithmetic(stage)

    assert numbers.responses_per_step == 32 * 8 == 256
    assert numbers.response_tokens_per_step == 256 * 64 == 16_384
    assert numbers.tokens_per_step == 256 * (64 + 32) == 24_576
    assert numbers.responses_per_microbatch == 10  # 10 x 96 tokens fit into 1,000, 11 do not
    assert numbers.microbatches_per_rank == 13  # 128 responses on a rank, 10 at a time
    assert numbers.prompts_in_flight == 3 * 32
    assert numbers.prompts == 100 * 32
    assert numbers.epochs == pytest.approx(3200 / 2000)
    assert numbers.evaluations == 4  # before, after 40 and 80 steps, and after 100


def test_an_evaluation_on_the_last_step_is_the_one_after(good: Path) -> None:
    stage = load_recipe(good, ["evaluation.every_steps=50"]).recipe.stages[0]

    assert stage_arithmetic(stage).evaluations == 3


def test_the_sentences_of_an_asynchronous_stage(good: Path) -> None:
    assert sentences(load_recipe(good).recipe.stages[0]) == (
        "32 prompts x 8 responses = 256 responses a step; at most 64 tokens each = 16,384 response tokens, "
        "24,576 with the longest prompts.",
        "Micro-batches of at most 8,192 tokens over 1 rank: at full length 85 responses each, "
        "so at most 4 micro-batches a rank and step; no split changes a gradient.",
        "100 optimizer steps, each with 1 weight sync after it: 100 new weight versions.",
        "Lag at most 1: up to 64 prompts (512 responses) in flight.",
        "One update a step: the ratio to the policy at the start of the step is exactly 1, "
        "so a clip_fraction of 0 is expected.",
        "Engines generate while the policy trains, and no token older than that bound is trained on.",
        "100 steps x 32 = 3,200 prompts = 1.6 epochs of 2,000 rows.",
        "The learning rate starts at 0.001 and stays.",
        "Evaluation on 200 held-out prompts x 1 response before, every 40 steps and after: 4 evaluations.",
        "A checkpoint at the end; the newest 2 are kept.",
    )


def test_synchronous_training_is_a_lag_of_zero(good: Path) -> None:
    said = sentences(load_recipe(good, ["engines.max_lag=0"]).recipe.stages[0])

    assert "Lag at most 0: up to 32 prompts (256 responses) in flight." in said
    assert not any("Engines generate while the policy trains" in s for s in said)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("objective.name=cispo", "the ratio to the policy at the start of the step is exactly 1, "),
        (
            "correction={ name = 'bypass' }",
            "ratios are to what the engine reported, so they are not exactly 1.",
        ),
        ("objective.name=rebel", "ratios are to what the engine reported, so they are not exactly 1."),
    ],
)
def test_a_ratio_is_said_to_be_what_it_is_compared_with(good: Path, override: str, said: str) -> None:
    (one,) = (s for s in sentences(load_recipe(good, [override]).recipe.stages[0]) if "One update" in s)

    assert one.startswith(f"One update a step: {said}")


@pytest.mark.parametrize("objective", ["online_dpo", "nash_md"])
def test_nothing_is_said_of_the_ratio_of_an_objective_without_one(good: Path, objective: str) -> None:
    stage = load_recipe(good, [f"objective={{ name = '{objective}' }}"]).recipe.stages[0]

    assert "One update a step." in sentences(stage)


def test_demonstrations_are_not_multiplied_by_the_group(good: Path) -> None:
    stage = load_recipe(good, ["objective.name=sft"]).recipe.stages[0]

    numbers = stage_arithmetic(stage)

    assert (numbers.generates, numbers.responses_per_step, numbers.prompts_in_flight) == (False, 32, 0)
    assert sentences(stage)[0].startswith("32 demonstrations a step: the responses are the dataset's")


def test_pairs_are_two_responses_each(good: Path) -> None:
    said = sentences(load_recipe(good, ["objective={ name = 'dpo' }"]).recipe.stages[0])

    assert said[0].startswith("32 pairs = 64 responses a step: the responses are the dataset's")


def test_every_update_has_its_own_microbatches_and_spare_prompts_are_under_way_too(good: Path) -> None:
    overrides = ["optimizer.minibatches=4", "optimizer.epochs=2", "rollouts.oversample=1.0"]
    stage = load_recipe(good, overrides).recipe.stages[0]

    numbers = stage_arithmetic(stage)
    said = sentences(stage)

    assert numbers.prompts_in_flight == (1 + 1) * 32 + 32
    # 8 updates of 8 groups x 8 responses each, all of which fit into one micro-batch of 85.
    assert numbers.microbatches_per_rank == 8
    assert any(one.startswith("8 updates a step (4 minibatches, 2 epochs);") for one in said)


def test_epochs_are_unknown_until_the_data_is_read(good: Path) -> None:
    stage = load_recipe(good, ["prompts.sources=[{ dataset = 'openai/gsm8k' }]"]).recipe.stages[0]

    assert (
        "100 steps x 32 = 3,200 prompts; the number of epochs is known once the data is read."
        in sentences(stage)
    )
    assert "100 steps x 32 = 3,200 prompts = 0.4 epochs of 7,473 rows." in sentences(stage, rows=7473)


def test_the_schedule_is_told(good: Path) -> None:
    overrides = ["optimizer.schedule=cosine", "optimizer.warmup_steps=1", "optimizer.final_lr_fraction=0.1"]

    said = sentences(load_recipe(good, overrides).recipe.stages[0])

    assert "The learning rate rises to 0.001 in 1 step and falls to 0.0001 (cosine)." in said


def test_several_stages_are_told_apart(staged: Path) -> None:
    lines = arithmetic(load_recipe(staged).recipe)

    assert lines[0].startswith("warm: 32 demonstrations a step")
    assert lines[-1] == "rl: A checkpoint at the end; the newest 2 are kept."


def test_shared_devices_are_said_with_who_leaves_them_when(good: Path) -> None:
    said = sentences(load_recipe(good, ["cluster.placement=shared"]).recipe.stages[0])

    assert any(one.startswith("Lag at most 0: ") for one in said)
    assert any(one.startswith("Engines and ranks take turns on 1 device: ") for one in said)


def test_responses_that_are_compared_share_a_microbatch(good: Path) -> None:
    overrides = ["objective.name=online_dpo", "policy.tokens_per_microbatch=288", "engines.max_lag=0"]
    numbers = stage_arithmetic(load_recipe(good, overrides).recipe.stages[0])

    # 288 tokens hold three responses of 96, but pairs: one. Each of 32 groups has one.
    assert numbers.responses_per_microbatch == 2
    assert numbers.microbatches_per_rank == 32


def test_an_opponents_responses_are_under_way_and_trained_on_too(good: Path) -> None:
    overrides = ["objective.name=xpo", "rollouts.per_prompt=1", "policy.tokens_per_microbatch=400"]
    versus = 'rewards.answer={ kind = "versus", options = { kind = "number" } }'
    stage = load_recipe(good, [*overrides, versus]).recipe.stages[0]

    numbers = stage_arithmetic(stage)

    assert (
        numbers.microbatches_per_rank == 16
    )  # 32 prompts, each with one of both, of which 400 tokens hold two
    assert "Lag at most 1: up to 64 prompts (128 responses) in flight." in sentences(stage)
