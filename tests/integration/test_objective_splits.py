"""Every objective on the real learner: ranks, micro-batches and two passes for one change no gradient."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest

from llmrl.experience.experience import Experience
from llmrl.objectives import objective
from llmrl.prompts.prompt import Prompt, Rewrite
from llmrl.recipe.schema import Choice, Model, Optimizer, Policy, Prompts, Rollouts, Source, Stage
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup

# With an epsilon far above any gradient AdamW moves each weight by lr / eps times its gradient. Two epochs
# make a second update, in which ratios are not 1; clipping keeps the first one small.
OPTIMIZER = Optimizer(steps=1, lr=300.0, eps=1e3, betas=(0.0, 0.0), max_grad_norm=1.0, epochs=2)
# Other tests register objectives of their own in the same process.
NAMES = [n for n in objective.names if objective.get(n, key="").__module__.startswith("llmrl.")]
WHOLE, SPLIT, TWO_PASSES = "whole", "split", "two passes"
LAYOUTS = {WHOLE: (1, 1, 100_000, None), SPLIT: (2, 2, 192, None), TWO_PASSES: (2, 2, 192, "step")}
"""Ranks, ZeRO stage, tokens per micro-batch, and a scope to force."""
SHARED = {"2 share, ZeRO 1": (2, 1, 192, 2), "2 share, ZeRO 3": (2, 3, 192, 2)}
BY_FOUR = {"2 of 4 share, ZeRO 1": (4, 1, 192, 2), "4 share, ZeRO 3": (4, 3, 192, 4)}
"""Ranks, ZeRO stage, tokens per micro-batch, and the ranks that share one: sequences begin on one rank and
end on another. The model has two key heads, of which four ranks need copies."""
FEW = ("grpo", "gspo", "clip_cov", "dpo")
"""Whose loss is of tokens, of responses, of the whole step, and of pairs and the reference model."""


AHEAD = {"ahead, ZeRO 2": (2, 2, 192, [[5, 1], [6]]), "ahead, ZeRO 3": (2, 3, 192, [[*range(7, -1, -1)]])}
"""Ranks, ZeRO stage, tokens per micro-batch, and groups that are scored before the others are there."""
EARLY = (*FEW, "reinforce_pp")
"""One has shaping, which looks at the scores of the whole step."""


def rollout(rng: np.random.Generator, size: int) -> Rollout:
    trained = rng.random(size) < 0.9
    # Every third response has its past rewritten halfway.
    context = rng.integers(3, 17, int(rng.integers(1, 8)), dtype=np.int32)
    rewrites = (Rewrite(at=size // 2, context=context),) if rng.random() < 0.3 else ()
    return Rollout(
        tokens=rng.integers(3, 17, size, dtype=np.int32),
        logp=np.where(trained, -2.8 + 0.3 * rng.normal(size=size), np.nan).astype(np.float32),
        version=np.zeros(size, np.int32),
        trained=trained,
        turn=np.arange(size, dtype=np.int32) // 8,
        stop="stop",
        text="",
        rewrites=rewrites,
    )


def make_experiences() -> list[Experience]:
    """Eight groups of three, an empty response among them; every group has two pairs."""
    rng = np.random.default_rng(5)
    experiences: list[Experience] = []
    for ordinal in range(8):
        tokens = rng.integers(3, 17, int(rng.integers(2, 12)), dtype=np.int32)
        prompt = Prompt(id=f"p/{ordinal}", tokens=tokens, text="", answer=None, source="p")
        rollouts = tuple(rollout(rng, int(rng.integers(0 if ordinal == 3 else 1, 40))) for _ in range(3))
        rewards = rng.normal(size=3)
        experiences.append(
            Experience(
                group=RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts),
                judgements=tuple(Judgement(status="score", reward=float(r)) for r in rewards),
                advantages=tuple(
                    np.where(r.trained, reward, 0).astype(np.float32)
                    for r, reward in zip(rollouts, rewards, strict=True)
                ),
                lag=0,
                pairs=((0, 1), (2, 0)),
            )
        )
    return experiences


def cell(name: str, layout: str, model: Path) -> dict[str, object]:
    shared, ahead = SHARED | BY_FOUR, AHEAD.get(layout)
    ranks, zero, budget, scope = LAYOUTS.get(layout) or (*(ahead or shared[layout])[:3], None)
    sharers = shared[layout][3] if layout in shared else 1
    stage = Stage(
        model=Model(path=str(model), context_tokens=64, gradient_checkpointing=sharers > 1),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        rollouts=Rollouts(temperature=0.8),
        objective=Choice(name=name),
        optimizer=OPTIMIZER,
        policy=Policy(
            ranks=ranks,
            zero_stage=zero,  # type: ignore[arg-type]
            tokens_per_microbatch=budget,
            sequence_parallel=sharers,
        ),
    )
    forced = {} if scope is None else {"scope": scope}
    forced |= {"ahead": ahead[3]} if ahead else {}
    return {"name": f"{name}-{layout}", "stage": stage.model_dump(mode="json"), **forced}


def train(folder: Path, cells: list[dict[str, object]], ranks: int) -> None:
    """One step of every cell, in one process group."""
    script = str(Path(__file__).with_name("gradient_rank.py"))
    env = os.environ | {"DS_ACCELERATOR": "cpu", "GLOO_SOCKET_IFNAME": "lo", "TORCH_COMPILE_DISABLE": "1"}
    (folder / "cells.json").write_text(json.dumps(cells))
    processes = [
        subprocess.Popen([sys.executable, script, str(rank), str(ranks), str(folder)], env=env)
        for rank in range(ranks)
    ]
    assert [p.wait(timeout=280) for p in processes] == [0] * ranks


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Every objective in every layout, one step each; all cells of a rank count share a process group."""
    folder = tmp_path_factory.mktemp("splits")
    (folder / "experiences.pickle").write_bytes(pickle.dumps(make_experiences()))
    for ranks in (1, 2):
        names = {layout: NAMES for layout, (of_ranks, *_) in LAYOUTS.items() if of_ranks == ranks}
        names |= dict.fromkeys(SHARED, FEW) | dict.fromkeys(AHEAD, EARLY) if ranks == 2 else {}
        train(folder, [cell(name, layout, tiny_model) for layout in names for name in names[layout]], ranks)
    return folder


def weights(folder: Path, name: str, layout: str) -> np.ndarray:
    stored = np.load(folder / f"{name}-{layout}.npz")
    return np.concatenate([stored[key].ravel() for key in sorted(stored.files)]).astype(np.float64)


@pytest.mark.parametrize("layout", [SPLIT, TWO_PASSES])
@pytest.mark.parametrize("name", NAMES)
def test_a_step_is_the_same_in_any_split_and_in_two_passes(
    trained: Path, before: np.ndarray, name: str, layout: str
) -> None:
    moved = weights(trained, name, WHOLE) - before
    ours = weights(trained, name, layout) - before

    assert np.linalg.norm(moved) > 1e-6
    assert np.linalg.norm(ours - moved) / np.linalg.norm(moved) < 1e-4


@pytest.mark.parametrize("layout", SHARED)
@pytest.mark.parametrize("name", FEW)
def test_a_step_is_the_same_where_ranks_share_sequences(
    trained: Path, before: np.ndarray, name: str, layout: str
) -> None:
    assert_same_step(trained, before, name, layout)


@pytest.mark.parametrize("layout", AHEAD)
@pytest.mark.parametrize("name", EARLY)
def test_a_step_is_the_same_where_some_of_its_groups_were_scored_ahead(
    trained: Path, before: np.ndarray, name: str, layout: str
) -> None:
    assert_same_step(trained, before, name, layout)


@pytest.mark.slow
def test_a_step_is_the_same_on_four_ranks_that_share_sequences(
    trained: Path, before: np.ndarray, tiny_model: Path
) -> None:
    train(trained, [cell(name, layout, tiny_model) for layout in BY_FOUR for name in FEW], 4)

    for name, layout in product(FEW, BY_FOUR):
        assert_same_step(trained, before, name, layout)


def assert_same_step(trained: Path, before: np.ndarray, name: str, layout: str) -> None:
    moved, ours = (weights(trained, name, at) - before for at in (WHOLE, layout))
    right, found = (json.loads((trained / f"{name}-{at}.json").read_text()) for at in (WHOLE, layout))

    assert np.linalg.norm(ours - moved) / np.linalg.norm(moved) < 1e-4
    assert found["policy/loss"] == pytest.approx(right["policy/loss"], rel=1e-3, abs=1e-5)
    assert found["policy/grad_norm"] == pytest.approx(right["policy/grad_norm"], rel=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_metrics_do_not_depend_on_the_split(trained: Path, name: str) -> None:
    found = [json.loads((trained / f"{name}-{layout}.json").read_text()) for layout in LAYOUTS]

    for one, other in pairwise(found):
        shared = {key for key in one if key.split("/")[0] in {"objective", "correction"}} | {"policy/loss"}
        assert {key: one[key] for key in shared} == pytest.approx(
            {key: other[key] for key in shared}, rel=1e-3, abs=1e-5
        )


@pytest.fixture(scope="module")
def before(tiny_model: Path) -> np.ndarray:
    from transformers import AutoModelForCausalLM  # noqa: PLC0415  imports torch and much else

    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    named = {name: p.detach().numpy() for name, p in model.named_parameters()}
    return np.concatenate([named[key].ravel() for key in sorted(named)]).astype(np.float64)
