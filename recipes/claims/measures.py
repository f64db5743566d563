"""What is read from the folder of a finished stage: its journal, its samples, and the model it leaves."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from llmrl.prompts.example import Example
from llmrl.prompts.tasks import read_task
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Model, Recipe
from llmrl.report.journal import Entries, read_journal
from llmrl.report.samples import SampleEntry, read_samples
from recipes.claims.claim import Measured
from recipes.claims.rock_paper_scissors import THROWS, nash

LEVELS = (0.5, 0.55)
"""Mean rewards at which entropies are compared."""

SMOOTHED = 5
"""Steps of the running mean of the reward."""


def distance_to_nash(stage: Path) -> Measured:
    """Total variation between the policy and the Nash policy: at the end exactly, on the way by samples."""
    shares = [_shares([one for one in step if any(one.trained)]) for step in _samples(stage)]
    window = 5
    means = [np.mean(shares[end - window : end], axis=0) for end in range(window, len(shares) + 1, window)]
    last = _policy(stage / "model")
    numbers = {name: float(share) for name, share in zip(("rock", "paper", "scissors"), last, strict=True)}
    numbers["distance to Nash"] = _distance(last, nash())
    along = [float(end) for end in range(window, len(shares) + 1, window)]
    return Measured(numbers=numbers, curve=(along, [_distance(mean, nash()) for mean in means]))


def accuracy(stage: Path) -> Measured:
    """Held-out accuracy."""
    evaluations = read_journal(stage / "metrics.jsonl").evaluations
    numbers = {"accuracy before": evaluations[0].accuracy, "accuracy": evaluations[-1].accuracy}
    curve = [float(one.step) for one in evaluations], [one.accuracy for one in evaluations]
    return Measured(numbers=numbers, curve=curve)


def accuracy_and_lag(stage: Path) -> Measured:
    """Held-out accuracy, the mean over the way to it, and how old the oldest token of a group was."""
    steps = read_journal(stage / "metrics.jsonl").steps
    measured = accuracy(stage)
    numbers = {
        "lag": float(np.mean([step.metrics["lag/mean"] for step in steps])),
        "largest lag": max(step.metrics["lag/max"] for step in steps),
        **measured.numbers,
        "mean accuracy on the way": float(np.mean(measured.curve[1][1:])),
    }
    return Measured(numbers=numbers, curve=measured.curve)


def margins(stage: Path) -> Measured:
    """Held-out accuracy, and by how many nats right workings have gained on wrong ones of their problem."""
    recipe = Recipe.model_validate(json.loads((stage.parent / "recipe.json").read_text("utf-8"))["recipe"])
    (table,) = recipe.stages
    rows = read_task(table.evaluation.sources[0], key="evaluation.sources.0", seed=recipe.run.seed)
    gained = _advantage(stage / "model", rows) - _advantage(Path(str(table.model.path)), rows)
    numbers = {
        "pair accuracy": float((gained > 0).mean()),
        "margin in nats": float(gained.mean()),
        **accuracy(stage).numbers,
    }
    return Measured(numbers=numbers, curve=accuracy(stage).curve)


def silent_groups(stage: Path) -> Measured:
    """How many of the groups that were trained on have no gradient, and what it cost to find the others."""
    journal = read_journal(stage / "metrics.jsonl")
    silent = [_silent(step) for step in _samples(stage)]
    dropped = np.array([step.metrics["groups/dropped"] for step in journal.steps])
    trained = np.array([step.metrics["groups/trained"] for step in journal.steps])
    useful = trained * (1 - np.array(silent))
    numbers = {
        "silent share of trained groups": float(np.mean(silent)),
        "generated groups per useful group": float((trained + dropped).sum() / useful.sum()),
        "useful groups per step": float(useful.mean()),
        "generated groups per step": float((trained + dropped).mean()),
        "accuracy": journal.evaluations[-1].accuracy,
    }
    along = [float(step.step) for step in journal.steps]
    return Measured(numbers=numbers, curve=(along, _running(silent)))


def entropy_at_reward(stage: Path) -> Measured:
    """Entropy where the running mean of the reward first reaches each level."""
    journal = read_journal(stage / "metrics.jsonl")
    reward = np.array(_running(_metric(journal, "reward/part/answer")))
    entropy = np.array(_running(_metric(journal, "policy/entropy")))
    numbers = {f"entropy at {level}": _at(reward, entropy, level) for level in LEVELS}
    numbers["entropy at all levels"] = float(np.mean(list(numbers.values())))
    numbers |= {"last reward": float(reward[-1]), "last entropy": float(entropy[-1])}
    return Measured(numbers=numbers, curve=(reward.tolist(), entropy.tolist()))


def pass_at_k(stage: Path) -> Measured:
    """Held-out pass@k."""
    evaluations = read_journal(stage / "metrics.jsonl").evaluations
    largest = max(evaluations[-1].pass_at_k)
    numbers = {f"pass@{k}": value for k, value in evaluations[-1].pass_at_k.items()}
    numbers |= {f"pass@{k} before": value for k, value in evaluations[0].pass_at_k.items()}
    curve = [float(one.step) for one in evaluations], [one.pass_at_k[largest] for one in evaluations]
    return Measured(numbers=numbers, curve=curve)


def _samples(stage: Path) -> list[list[SampleEntry]]:
    return [read_samples(path) for path in sorted((stage / "samples").glob("step-*.jsonl"))]


def _shares(samples: Sequence[SampleEntry]) -> NDArray[np.float64]:
    """[3] how often each throw was thrown; what is no throw is in none."""
    return np.array([sum(one.response == throw for one in samples) for throw in THROWS]) / len(samples)


@torch.inference_mode()
def _policy(model: Path, prompts: int = 256) -> NDArray[np.float64]:
    """[3] probability of each throw, the mean over prompts."""
    tokenizer = load_tokenizer(Model(path=str(model)))
    ids = torch.tensor([tokenizer.encode_prompt(f"{1000 + 35 * n}=").tolist() for n in range(prompts)])
    logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(input_ids=ids).logits[:, -1]
    throws = [int(tokenizer.encode_response(throw)[0]) for throw in THROWS]
    return logits.double().softmax(-1).mean(0)[throws].numpy()


def _advantage(model: Path, rows: Sequence[Example]) -> NDArray[np.float64]:
    """[rows] nats of the right working over the wrong one."""
    return _logp(model, [(str(one.prompt), str(one.response)) for one in rows]) - _logp(
        model, [(str(one.prompt), str(one.rejected)) for one in rows]
    )


@torch.inference_mode()
def _logp(model: Path, texts: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """[texts] nats of each response to its prompt."""
    tokenizer = load_tokenizer(Model(path=str(model)))
    encoded = [(tokenizer.encode_prompt(p), tokenizer.encode_response(r)) for p, r in texts]
    ids = torch.zeros(len(texts), max(p.size + r.size for p, r in encoded), dtype=torch.long)
    response = torch.zeros(ids.shape, dtype=torch.bool)
    for row, (prompt, said) in enumerate(encoded):
        ids[row, : prompt.size + said.size] = torch.tensor([*prompt.tolist(), *said.tolist()])
        response[row, prompt.size : prompt.size + said.size] = True
    logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(input_ids=ids).logits
    logp = logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return logp.where(response[:, 1:], 0.0).sum(-1).numpy()


def _distance(shares: NDArray[np.float64], target: NDArray[np.float64]) -> float:
    """Total variation; what is no throw counts too."""
    return float((np.abs(shares - target).sum() + abs(shares.sum() - target.sum())) / 2)


def _silent(samples: Sequence[SampleEntry]) -> float:
    """Share of a step's groups whose responses all have the same reward."""
    rewards = [
        {one.judgement["reward"] for one in group if one.judgement is not None}
        for _, group in groupby(samples, key=lambda one: one.group)
    ]
    return sum(len(values) == 1 for values in rewards) / len(rewards)


def _metric(journal: Entries, name: str) -> list[float]:
    return [step.metrics[name] for step in journal.steps]


def _running(values: Sequence[float]) -> list[float]:
    """The mean over so many steps around each, fewer at the ends."""
    half = SMOOTHED // 2
    return [float(np.mean(values[max(0, at - half) : at + half + 1])) for at in range(len(values))]


def _at(reward: NDArray[np.float64], entropy: NDArray[np.float64], level: float) -> float:
    """The entropy where the reward first crosses a level, between two steps; NaN if it never does."""
    reached = np.flatnonzero(reward >= level)
    if not reached.size or reached[0] == 0:
        return float("nan")
    after = reached[0]
    share = (level - reward[after - 1]) / (reward[after] - reward[after - 1])
    return float(entropy[after - 1] + share * (entropy[after] - entropy[after - 1]))
