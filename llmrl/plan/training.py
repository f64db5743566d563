"""The time of one training step: scores, forward and backward, the update, and what ranks tell each other."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmrl.plan.figure import Figure
from llmrl.plan.hardware import Machines
from llmrl.plan.placement import Placement
from llmrl.plan.rates import Rates
from llmrl.plan.workload import Workload

UPDATE_BYTES = 28
"""An update reads and writes master weight and two moments in float32, and reads the gradient."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Seconds of one step on every rank, with reasons."""

    old: Figure
    """Scores of the step before its first update."""
    reference: Figure
    """Scores under the frozen model."""
    passes: Figure
    """Forward and backward of every epoch."""
    update: Figure
    """The optimizer."""
    talk: Figure
    """Collectives of ZeRO that no computation hides."""

    @property
    def seconds(self) -> float:
        """Seconds of the whole step."""
        return sum(part.value for part in (self.old, self.reference, self.passes, self.update, self.talk))


def training_of(workload: Workload, placement: Placement, machines: Machines, rates: Rates) -> Training:
    """The step on ``placement.ranks`` equal ranks."""
    ranks, share = placement.ranks, rates.experts if workload.architecture.experts > 1 else 1.0
    return Training(
        old=_scored(workload, ranks, share * rates.score, wanted=workload.scores_old),
        reference=_scored(workload, ranks, share * rates.score, wanted=workload.scores_reference),
        passes=Figure(
            value=workload.train_flops / (ranks * share * rates.train),
            unit="s",
            formula="(epochs k + scans) (2 P T + 2 layers heads size S2) / (W F)",
            inputs={
                "epochs": workload.epochs,
                "k": workload.passes,
                "scans": workload.scans,
                **_pass(workload),
                "W": ranks,
                "F": share * rates.train,
            },
        ),
        update=_update(workload, placement, rates),
        talk=_talk(workload, placement, machines, rates),
    )


def microbatches(workload: Workload, placement: Placement) -> int:
    """A, forward passes of one rank in one update."""
    return _microbatches(workload.tokens * workload.epochs / workload.updates, placement)


def _microbatches(tokens: float, placement: Placement) -> int:
    each = tokens * placement.sequence_parallel / placement.ranks
    return max(1, math.ceil(each / placement.tokens_per_microbatch))


def _scorings(workload: Workload, placement: Placement) -> float:
    """Forward passes of one rank in a step without a backward pass; those of the reference gather nothing."""
    return (workload.scores_old + workload.scans) * _microbatches(workload.tokens, placement)


def _scored(workload: Workload, ranks: int, flops: float, *, wanted: bool) -> Figure:
    return Figure(
        value=workload.forward_flops / (ranks * flops) if wanted else 0.0,
        unit="s",
        formula="(2 P T + 2 layers heads size S2) / (W F)" if wanted else "nothing reads it",
        inputs={**_pass(workload), "W": ranks, "F": flops} if wanted else {},
    )


def _pass(workload: Workload) -> dict[str, float]:
    """What the FLOPs of a forward pass are from."""
    shape = workload.architecture
    return {
        "P": shape.matrices,
        "T": workload.tokens,
        "layers": shape.layers,
        "heads": shape.heads,
        "size": shape.head_size,
        "S2": workload.squares,
    }


def _update(workload: Workload, placement: Placement, rates: Rates) -> Figure:
    shards = placement.ranks if placement.zero_stage else 1
    speed = rates.memory if placement.offload == "none" else min(rates.host, rates.copy * 4)
    trained = workload.trained
    return Figure(
        value=workload.updates * (UPDATE_BYTES * trained / (shards * speed) + rates.update_s),
        unit="s",
        formula=f"updates ({UPDATE_BYTES} P / (W speed) + fixed)",
        inputs={
            "updates": workload.updates,
            "P": trained,
            "W": shards,
            "speed": speed,
            "fixed": rates.update_s,
        },
    )


def _talk(workload: Workload, placement: Placement, machines: Machines, rates: Rates) -> Figure:
    ranks, passes = placement.ranks, microbatches(workload, placement)
    speed = rates.link if ranks <= machines.per_node else rates.network
    # ZeRO 3 gathers every weight for each forward and each backward pass, frozen ones too, and to score.
    everything = placement.zero_stage == 3
    gathers = workload.updates * (2 * passes if everything else 1)
    gathers += _scorings(workload, placement) if everything else 0
    gathered = workload.architecture.parameters if everything else workload.trained
    reductions = workload.updates * (passes if placement.zero_stage >= 2 else 1)
    moved = workload.width * (gathers * gathered + reductions * workload.trained)
    fetched = _fetched(moved, placement, gpu=machines.device.is_gpu)
    exchanged = _exchanged(workload, placement)
    near = rates.link if placement.sequence_parallel <= machines.per_node else rates.network
    return Figure(
        value=moved * (ranks - 1) / ranks / speed + fetched / rates.host + exchanged / near,
        unit="s",
        formula="(gathers w P + reductions w trained) (W - 1) / W / speed"
        + (" + fetched / host" if fetched else "")
        + (" + exchanged / near" if exchanged else ""),
        inputs={
            "gathers": gathers,
            "reductions": reductions,
            "A": passes,
            "w": workload.width,
            "P": gathered,
            "trained": workload.trained,
            "W": ranks,
            "speed": speed,
        }
        | ({"fetched": fetched, "host": rates.host} if fetched else {})
        | ({"exchanged": exchanged, "near": near} if exchanged else {}),
    )


def _fetched(moved: float, placement: Placement, *, gpu: bool) -> float:
    """Bytes between a rank's GPU and the host that has its share of weights and gradients, where one has."""
    return 0.0 if "weights" in placement.kept(gpu=gpu) else moved / placement.ranks


def _exchanged(workload: Workload, placement: Placement) -> float:
    """Bytes a rank sends so that attention sees whole sequences: queries, keys, values, results.

    A backward pass sends as much as a forward pass.
    """
    shape, sharers = workload.architecture, placement.sequence_parallel
    heads = 2 * shape.heads + 2 * max(shape.kv_heads, sharers)
    token = workload.width * shape.layers * heads * shape.head_size
    passes = workload.epochs * (2 + workload.recomputes) + workload.scans
    passes += workload.scores_old + workload.scores_reference
    return passes * workload.tokens / placement.ranks * token * (sharers - 1) / sharers
