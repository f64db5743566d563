"""How long a step's trajectories take to the policy, and what they cost the controller.

    .venv/bin/python -m tests.speed.table travel

16 MiB of rollouts go from the driver's queue, where they lie as they came from an engine, through Ray's
object store to an actor that has read every page of them. The limit is a copy of as many bytes within a
process, from and to memory that it has. As in a run, seconds lie between two steps: the store frees once a
second what nobody holds, and a page never written costs more than a copy of it.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from llmrl.cluster.connection import connect
from llmrl.experience.columns import Columns
from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt
from llmrl.recipe.schema import Cluster
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from tests.speed.compare import Row

GROUPS, PER_PROMPT, TOKENS = 118, 8, 1024
PAGE = 4096
WARM_UP, REST_S = 4, 2.0
"""Rounds that do not count, and the seconds before each."""


class Reader:
    """The policy's end: it has the columns when it has read them."""

    def read(self, columns: Columns) -> int:
        listed = (columns.tokens, columns.logp, columns.trained, columns.turn, columns.advantage)
        return sum(int(column.view(np.uint8)[::PAGE].sum(dtype=np.int64)) for column in listed)


def trajectories() -> list[Experience]:
    rng = np.random.default_rng(0)
    return [_group(rng, ordinal) for ordinal in range(GROUPS)]


def _group(rng: np.random.Generator, ordinal: int) -> Experience:
    prompt = Prompt(id=str(ordinal), tokens=np.arange(64, dtype=np.int32), text="", answer=None, source="p")
    rollouts = tuple(_rollout(rng) for _ in range(PER_PROMPT))
    return Experience(
        group=RolloutGroup(ordinal=ordinal, prompt=prompt, rollouts=rollouts),
        judgements=(),
        advantages=tuple(np.ones(TOKENS, np.float32) for _ in rollouts),
        lag=0,
    )


def _rollout(rng: np.random.Generator) -> Rollout:
    return Rollout(
        tokens=rng.integers(0, 1000, TOKENS, dtype=np.int32),
        logp=-rng.random(TOKENS, dtype=np.float32),
        version=np.zeros(TOKENS, np.int32),
        trained=np.ones(TOKENS, np.bool_),
        turn=np.zeros(TOKENS, np.int32),
        stop="stop",
        text="",
    )


def rows(pairs: int) -> list[Row]:
    """Time over a copy, and microseconds of the controller's CPU for each response."""
    experiences = trajectories()
    bytes_of = Columns.of(experiences)
    size = sum(getattr(bytes_of, name).nbytes for name in ("tokens", "logp", "trained", "turn", "advantage"))
    with connect(Cluster()):
        reader = ray.remote(Reader).remote()
        queue = [replace(one, group=ray.get(ray.put(one.group))) for one in experiences]
        copies = np.ones((2, size), np.uint8)
        measured = [_round(queue, reader, copies) for _ in range(pairs + WARM_UP)][WARM_UP:]
    mib = size / 2**20
    return [
        Row(
            what=f"queue to learner over a copy of {mib:.0f} MiB ({_median(measured, 1) * 1e3:.1f} ms)",
            ratios=[travel / copy for travel, copy, _ in measured],
            target=8.0,
            at_most=True,
        ),
        Row(
            what="controller CPU for a response of 1,024 tokens, in units of 150 us",
            ratios=[cpu / (GROUPS * PER_PROMPT) / 150e-6 for _, _, cpu in measured],
            target=1.0,
            at_most=True,
        ),
    ]


def _round(
    experiences: Sequence[Experience], reader: Any, copies: NDArray[np.uint8]
) -> tuple[float, float, float]:
    """Seconds of the way, seconds of a copy, and CPU seconds of this process on the way."""
    time.sleep(REST_S)
    began = time.perf_counter()
    copies[1] = copies[0]
    copied = time.perf_counter() - began
    began, cpu = time.perf_counter(), time.process_time()
    ray.get(reader.read.remote(ray.put(Columns.of(experiences))))
    return time.perf_counter() - began, copied, time.process_time() - cpu


def _median(measured: Sequence[tuple[float, float, float]], place: int) -> float:
    return float(np.median([one[place] for one in measured]))
