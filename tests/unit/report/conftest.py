"""A run folder as the quickstart leaves one: made-up numbers of a believable shape, really written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Recipe
from llmrl.report.journal import EvaluationEntry, Journal, StepEntry
from llmrl.report.samples import write_samples
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup, Stop
from llmrl.run.statistics import wilson_interval

SFT_STEPS, GRPO_STEPS = 60, 320

RECIPE = {
    "run": {"name": "digit-sum", "folder": "runs", "seed": 7},
    "stages": [
        {
            "name": "sft",
            "model": {"config": {"model_type": "qwen2", "hidden_size": 96}, "characters": "0123456789+=,; "},
            "prompts": {"sources": [{"task": "digit_sum", "rows": 2000}], "per_step": 32},
            "objective": {"name": "sft"},
            "optimizer": {"steps": SFT_STEPS, "lr": 3e-3, "schedule": "cosine", "warmup_steps": 10},
        },
        {
            "name": "grpo",
            "model": {"config": {"model_type": "qwen2", "hidden_size": 96}, "characters": "0123456789+=,; "},
            "prompts": {"sources": [{"task": "digit_sum", "rows": 2000}], "per_step": 16},
            "rollouts": {"per_prompt": 8, "max_tokens": 48},
            "engines": {"count": 2, "max_lag": 1},
            "rewards": {"answer": {"kind": "exact"}, "format": {"kind": "regex", "weight": 0.1}},
            "objective": {"name": "grpo", "options": {"clip_high": 0.28}},
            "optimizer": {"steps": GRPO_STEPS, "lr": 1e-3},
            "policy": {"ranks": 2, "zero_stage": 2},
            "evaluation": {"sources": [{"task": "digit_sum", "skip": 2000, "rows": 512}], "every_steps": 40},
        },
    ],
}
ARITHMETIC = [
    "Each step draws 16 prompts and samples 8 responses to each: 128 responses.",
    "320 steps draw 5120 prompts: 2.56 epochs of 2000 rows.",
    "Every step makes one weight version; engines may be 1 version behind.",
]


def skill(step: int) -> float:
    """Probability of a right answer after ``step`` steps of the second stage."""
    return 0.36 + 0.62 / (1 + np.exp(-(step - 110) / 32))


def a_rollout(text: str, *, version: int, rng: np.random.Generator, stop: Stop = "stop") -> Rollout:
    tokens = np.array([ord(letter) for letter in text] + ([0] if stop == "stop" else []), dtype=np.int32)
    length = len(tokens)
    return Rollout(
        tokens=tokens,
        logp=-rng.gamma(0.25, 0.6, length).astype(np.float32),
        version=np.where(np.arange(length) < length // 2, version - 1, version).astype(np.int32),
        trained=np.ones(length, dtype=np.bool_),
        turn=np.zeros(length, dtype=np.int32),
        stop=stop,
        text=text,
    )


def a_verdict(right: bool, note: str) -> Judgement:
    parts = {"answer": float(right), "format": 1.0}
    return Judgement(status="score", reward=parts["answer"] + 0.1, parts=parts, note=note, seconds=0.002)


def a_group(step: int, ordinal: int, rng: np.random.Generator, *, answers: int = 8) -> Experience:
    """One digit-sum prompt; the chain of thought is right as often as ``skill`` says."""
    digits = rng.integers(0, 10, 6).tolist()
    question = " + ".join(map(str, digits)) + " = ?"
    rollouts: list[Rollout] = []
    judgements: list[Judgement] = []
    for _ in range(answers):
        right = bool(rng.random() < skill(step))
        sums = np.cumsum(digits)
        total = int(sums[-1]) + (0 if right else int(rng.integers(1, 4)))
        cut = rng.random() < 0.04
        working = "; ".join(f"{a}+{b}={a + b}" for a, b in zip(sums, digits[1:], strict=False))
        text = working if cut else f"{working}; answer {total}"
        stop = "length" if cut else "stop"
        rollouts.append(a_rollout(text, version=max(step - 1, 1), rng=rng, stop=stop))
        verdict = a_verdict(right and not cut, f"extracted {total}, gold {sums[-1]}")
        if cut:
            verdict = Judgement(status="abstain", reward=None, note="no answer before the budget ended")
        judgements.append(verdict)
    rewards = np.array([j.reward or 0.0 for j in judgements])
    scaled = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
    return Experience(
        group=RolloutGroup(
            ordinal=ordinal,
            prompt=Prompt(
                id=f"digit_sum/{ordinal}",
                tokens=np.array([ord(letter) for letter in question], dtype=np.int32),
                text=question,
                answer=str(sum(digits)),
                source="digit_sum",
            ),
            rollouts=tuple(rollouts),
        ),
        judgements=tuple(judgements),
        advantages=tuple(
            np.full(len(r.tokens), a, np.float32) for r, a in zip(rollouts, scaled, strict=True)
        ),
        lag=1,
    )


def decode(token: int) -> str:
    return chr(token) if token else "<eos>"


def an_evaluation(stage: str, step: int, accuracy: float, n: int = 512) -> EvaluationEntry:
    correct = round(accuracy * n)
    low, high = wilson_interval(correct, n)
    return EvaluationEntry(
        stage=stage, step=step, version=step, name="held-out", correct=correct, n=n, accuracy=correct / n,
        low=low, high=high, pass_at_k={1: correct / n}, tokens_mean=34.0,
    )  # fmt: skip


def sft_metrics(step: int, rng: np.random.Generator) -> dict[str, float]:
    wait, train = 0.03 + rng.gamma(2, 0.004), 0.13 + rng.gamma(2, 0.004)
    return {
        "policy/loss": 2.6 * np.exp(-step / 14) + 0.21 + rng.normal(0, 0.02),
        "policy/entropy": 2.4 * np.exp(-step / 14) + 0.25 + rng.normal(0, 0.02),
        "policy/grad_norm": 3 * np.exp(-step / 20) + rng.gamma(2, 0.1),
        "policy/lr": 3e-3 * min(step / 10, 1) * (1 + np.cos(np.pi * step / SFT_STEPS)) / 2,
        "policy/tokens": 1100 + rng.normal(0, 30),
        "policy/tokens_per_second": 9000 + rng.normal(0, 400),
        "time/step": wait + train,
        "time/wait": wait,
        "time/train": train,
        "memory/driver_rss": 411 + step * 0.02,
    }


def grpo_metrics(step: int, rng: np.random.Generator) -> dict[str, float]:
    right = float(np.clip(skill(step) + rng.normal(0, 0.035), 0, 1))
    wait, train, sync = rng.gamma([6, 20, 4], [0.008, 0.006, 0.006])
    length = 31 + 6 * (1 - np.exp(-step / 90)) + rng.normal(0, 0.5)
    lag = rng.beta(4, 2)
    return {
        "reward/mean": right + 0.1 * 0.97,
        "reward/std": float(np.sqrt(right * (1 - right))),
        "reward/part/answer": right,
        "reward/part/format": 0.97,
        "judgement/error_rate": 0.0,
        "judgement/abstain_rate": 0.03 * np.exp(-step / 80),
        "judgement/seconds": rng.gamma(2, 0.0004),
        "rollout/tokens_mean": length,
        "rollout/tokens_max": length + 7 + rng.integers(0, 5),
        "rollout/truncated_rate": 0.04 * np.exp(-step / 80),
        "rollout/tokens_per_second": 21000 + rng.normal(0, 1500),
        "rollout/responses": 128.0,
        "rollout/engine/0": 66.0,
        "rollout/engine/1": 62.0,
        "groups/trained": 16.0,
        "groups/dropped": float(rng.poisson(1 + 6 * right**4)),
        "lag/mean": lag,
        "lag/max": 1.0,
        "policy/loss": rng.normal(0, 0.01),
        "policy/entropy": 0.42 * np.exp(-step / 140) + 0.06 + rng.normal(0, 0.008),
        "policy/grad_norm": rng.gamma(3, 0.12) + (6 if step == 143 else 0),
        "policy/lr": 1e-3,
        "policy/tokens": 128 * length,
        "policy/tokens_per_second": 128 * length / train,
        "policy/skipped": 0.0,
        "policy/kl_sampled": abs(rng.normal(0, 2e-4)),
        "correction/mean": 1 + rng.normal(0, 1e-3),
        "correction/masked_rate": 0.0,
        "objective/clip_fraction": rng.beta(2, 60),
        "time/step": wait + train,
        "time/wait": wait,
        "time/train": train,
        "time/sync": sync,
        "memory/driver_rss": 433 + step * 0.03,
    }


@pytest.fixture
def fake_run(tmp_path: Path) -> Path:
    return write_fake_run(tmp_path / "digit-sum")


def write_fake_run(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    recipe = Recipe.model_validate(RECIPE).model_dump(mode="json")
    (folder / "recipe.json").write_text(json.dumps({"recipe": recipe, "arithmetic": ARITHMETIC}))
    write_stage(folder / "0-sft", SFT_STEPS, sft_metrics, rng)
    grpo = folder / "1-grpo"
    write_stage(grpo, GRPO_STEPS, grpo_metrics, rng)
    with Journal(grpo) as journal:
        for step in range(0, GRPO_STEPS + 1, 40):
            journal.evaluation(an_evaluation("grpo", step, skill(step)))
    for step in range(20, GRPO_STEPS + 1, 20):
        groups = [a_group(step, step * 16 + i, rng) for i in range(5)]
        write_samples(grpo, step=step, experiences=groups, decode=decode)
    return folder


def write_stage(
    folder: Path,
    steps: int,
    metrics: Callable[[int, np.random.Generator], dict[str, float]],
    rng: np.random.Generator,
) -> None:
    seconds = 0.0
    with Journal(folder) as journal:
        for step in range(1, steps + 1):
            numbers = metrics(step, rng)
            seconds += numbers["time/step"]
            stage = folder.name.split("-", 1)[1]
            journal.step(StepEntry(stage=stage, step=step, version=step, seconds=seconds, metrics=numbers))
