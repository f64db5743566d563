"""What uneven lengths cost a policy: tokens computed for nothing, ranks that wait, and time.

    .venv/bin/python -m tests.speed.table packing

Tokens are counted in what the model is given, and FLOPs by the formula from the config, for the shares of
four ranks. Time is CPU time of one policy worker's step on responses of log-normal lengths, over that of a
step on responses of one length with as many tokens, scored tokens and squares of lengths.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.plan.architecture import architecture_of
from llmrl.policy.model import load_model
from llmrl.policy.scorer import TokenScorer
from tests.speed.compare import Row, in_turns, speed_ratios, started
from tests.speed.learner import experiences_of, ours
from tests.speed.model import CONFIG, VOCABULARY, build_model, stage_for

RANKS, TOKENS_PER_MICROBATCH = 4, 4096
PROMPT_TOKENS, PER_PROMPT = 16, 4
MEAN, SPREAD, CAP = 64, 0.9, 256
"""Tokens of a response, the deviation of their logarithm, and the largest: four times the mean."""


def uneven(groups: int) -> NDArray[np.int64]:
    """[groups, PER_PROMPT] response lengths of a model whose thoughts vary."""
    drawn = np.random.default_rng(0).lognormal(np.log(MEAN) - SPREAD**2 / 2, SPREAD, (groups, PER_PROMPT))
    return np.clip(drawn, 2, CAP).astype(np.int64)


def even(sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], int]:
    """Equal lengths, and a prompt's, with nearly the same tokens, scored tokens and sum of squares."""
    read = PROMPT_TOKENS - 1 + sizes
    groups = round(read.sum() ** 2 / np.square(read).sum() / PER_PROMPT)
    prompt = round((PROMPT_TOKENS - 1) * sizes.size / (groups * PER_PROMPT))
    each = round(sizes.sum() / (groups * PER_PROMPT))
    return np.full((groups, PER_PROMPT), each), prompt + 1


def rows(pairs: int) -> list[Row]:
    """Tokens, balance and time."""
    sizes = uneven(16)
    equal, prompt = even(sizes)
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        model = build_model(Path(folder))
        counted = _counted(model)
        sides = {
            "uneven": (ours, model, 1, experiences_of(sizes, prompt_tokens=PROMPT_TOKENS)),
            "even": (ours, model, 1, experiences_of(equal, prompt_tokens=prompt)),
        }
        with started(sides) as running:
            found = in_turns(running, rounds=pairs)
    what = (
        f"step on lengths 2-{CAP} over a step on {equal.size} times {equal[0, 0]}, equal tokens and squares"
    )
    ratios = speed_ratios(found["uneven"], found["even"])
    return [*counted, Row(what=what, ratios=ratios, target=1.05, at_most=True)]


def _counted(model: Path) -> list[Row]:
    """What needs no clock: the shares of all ranks in a step of 512 responses."""
    scorer = TokenScorer(load_model(model, stage_for(model).model))
    sizes = uneven(128)
    step = Step(Columns.of(experiences_of(sizes, prompt_tokens=PROMPT_TOKENS)))
    shares = [
        step.microbatches(
            range(step.groups),
            ranks=RANKS,
            rank=rank,
            tokens_per_microbatch=TOKENS_PER_MICROBATCH,
            work=scorer.work,
        )
        for rank in range(RANKS)
    ]
    computed = sum(rows.inputs.tokens.numel() for share in shares for rows in share)
    shape = architecture_of({"vocab_size": VOCABULARY} | CONFIG, where="the benchmark's model")
    lengths = [np.concatenate([rows.inputs.cu_seqlens.diff().numpy() for rows in share]) for share in shares]
    flops = [shape.forward_flops(float(one.sum()), float(np.square(one).sum())) for one in lengths]
    return [
        Row(
            what=f"tokens that count over tokens computed, {sizes.size} responses on {RANKS} ranks",
            ratios=[float((PROMPT_TOKENS - 1 + sizes).sum()) / computed],
            target=0.97,
        ),
        Row(
            what=f"FLOPs of the busiest of {RANKS} ranks over the mean",
            ratios=[max(flops) / float(np.mean(flops))],
            target=1.03,
            at_most=True,
        ),
    ]
