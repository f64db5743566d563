"""What it costs to look at the whole update: the second pass over one pass, and objectives over a step.

    .venv/bin/python -m tests.speed.table passes

The extra pass is the difference of a step in two passes and a step in one, over a forward pass of the same
tokens; all three run through one policy worker each. Every step must have the same gradient norm. Objectives
are called with their gradient on all rows of the step, as in two passes, over the step in one pass.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from llmrl.batches.batch import Totals
from llmrl.batches.collate import Collated
from llmrl.batches.step import Step
from llmrl.experience.columns import Columns
from llmrl.objectives import Objective, objective
from llmrl.policy.reduce import reduce_loss
from tests.speed.compare import Outcome, Row, Run, cpu_seconds, in_turns, must_agree, started
from tests.speed.learner import ENVIRONMENT, experiences
from tests.speed.model import build_model, stage_for

CALLS = 20
ONE_MORE_FORWARD, SHARE_OF_STEP = 1.10, 0.02
"""A forward pass also keeps what backward needs, or not: the two differ by some percent."""


@contextmanager
def worker(model: Path, what: str) -> Generator[Run]:
    """A policy worker: a step in ``one pass`` or ``two passes``, or a ``forward`` pass of its tokens."""
    os.environ.update(ENVIRONMENT)
    from llmrl.policy.worker import PolicyWorker  # noqa: PLC0415  DeepSpeed patches torch when imported

    made: Any = PolicyWorker(stage_for(model), "cpu", 0)
    made.start(made.open_meeting("127.0.0.1"))
    data = experiences()
    made._learner = replace(made._learner, scope="step" if what == "two passes" else "token")
    numbered = Step(Columns.of(data))
    share = made._cut.share(numbered, range(numbered.groups))

    def run() -> Callable[[], Outcome]:
        if what == "forward":
            made._learner._scan(made._learner.forward, share, numbered.tokens)
            return dict
        metrics = made.update(Columns.of(data), 0)
        return lambda: {"grad_norm": np.array(metrics["policy/grad_norm"])}

    yield run


def rows(pairs: int) -> list[Row]:
    """The price of the second pass, and the dearest objective.

    Raises:
        WrongResultError: a gradient norm differs.
    """
    names = ("one pass", "two passes", "forward")
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        model = build_model(Path(folder))
        with started({name: (worker, model, name) for name in names}) as sides:
            found = in_turns(sides, rounds=pairs)
    must_agree(found["one pass"], found["two passes"], tolerance={"grad_norm": 1e-4})
    times = zip(*(found[name].seconds for name in names), strict=True)
    extra = [(two - one) / forward for one, two, forward in times]
    step = float(np.median(found["one pass"].seconds)) / 2  # a round runs each side twice
    costs = {name: seconds(objective.build(name, {}, key="objective")) / step for name in objective.names}
    dearest = max(costs, key=costs.__getitem__)
    typical = float(np.median(list(costs.values())))
    return [
        Row(
            what="two passes less one, over a forward pass",
            ratios=extra,
            target=ONE_MORE_FORWARD,
            at_most=True,
        ),
        Row(
            what=f"objective over step, the dearest of {len(costs)}: {dearest}",
            ratios=[costs[dearest]],
            target=SHARE_OF_STEP,
            at_most=True,
        ),
        Row(what="objective over step, the median one", ratios=[typical], target=SHARE_OF_STEP, at_most=True),
    ]


def seconds(chosen: Objective) -> float:
    """CPU seconds of one call of an objective and its gradient, on all rows of the step."""
    torch.set_num_threads(1)
    paired = [replace(one, pairs=((0, 1), (2, 3))) for one in experiences()]
    step = Step(Columns.of(paired), noise_seed=0)
    everything = step.collate(step.rows(range(step.groups)))
    totals = step.totals(range(step.groups))
    _call(chosen, everything, totals)
    before = cpu_seconds()
    for _ in range(CALLS):
        _call(chosen, everything, totals)
    return (cpu_seconds() - before) / CALLS


def _call(chosen: Objective, everything: Collated, totals: Totals) -> None:
    count = everything.trained_tokens
    logp = (everything.sampled.view(-1)[everything.slots] + 0.01).requires_grad_()
    old = everything.scores(logp.detach() - 0.01, torch.full((count,), 2.0))
    current = everything.scores(logp, torch.full((count,), 2.1))
    loss = chosen(current, everything.batch(old=old, reference=old))
    reduce_loss(loss.value, everything.mask, totals, chosen.mean_over).backward()
