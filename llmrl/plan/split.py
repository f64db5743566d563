"""The best way to deal devices out, and the smallest change that makes a placement fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations, product
from typing import Any

from llmrl.plan.estimate import Estimate, Job, estimate
from llmrl.plan.placement import Placement

MANY = 48
"""Numbers of engines that are tried for each width; on a large cluster these are not all."""

LOWEST = {"none": 0, "cpu": 1, "nvme": 3}
"""Stage of ZeRO that each ``policy.offload`` needs."""

Way = tuple[dict[str, Any], str]
"""Fields of a placement to change, and how a recipe says it."""


def best_split(job: Job, start: Placement) -> Estimate | None:
    """The fastest asynchronous placement on all devices; None if nothing fits.

    Widths and counts are tried with the recipe's own lag (at least 1) and the lowest ZeRO stage that fits,
    because higher ones talk more.
    """
    lag = max(1, start.lag)
    tried = (_lowest_stage(job, replace(place, lag=lag)) for place in _splits(job, start))
    return min((one for one in tried if one), key=lambda one: one.step_s, default=None)


def best_shared(job: Job, start: Placement) -> Estimate | None:
    """The fastest synchronous placement in which all devices take turns; None if nothing fits."""
    devices = job.machines.devices - start.roles
    ranks = devices - devices % start.sequence_parallel
    if ranks < 1:  # there are fewer devices than one sequence is shared by
        return None
    transport = "memory" if start.broadcast else start.transport
    everywhere = replace(start, ranks=ranks, shared=True, transport=transport, lag=0)
    tried = (
        _lowest_stage(job, replace(everywhere, tensor_parallel=width, engines=ranks // width))
        for width in _widths(job, start)
        if ranks % width == 0
    )
    return min((one for one in tried if one), key=lambda one: one.step_s, default=None)


def smallest_change(job: Job, start: Placement) -> tuple[str, Estimate] | None:
    """Keys that would make a placement fit, the fewest and mildest first; None if no three of them do."""
    ways = _ways(job, start)
    for count in (1, 2, 3):
        for keys in combinations(ways, count):
            for chosen in product(*(ways[key] for key in keys)):
                fields = {name: value for fields, _ in chosen for name, value in fields.items()}
                words = [said for _, said in chosen]
                if "offload" in fields and not fields.get("zero_stage", start.zero_stage):
                    fields["zero_stage"] = 1  # without ZeRO nothing is moved
                    words.append("policy.zero_stage = 1")
                made = estimate(job, replace(start, **fields))
                if made.fits:
                    return " and ".join(words), made
    return None


def _splits(job: Job, start: Placement) -> Iterator[Placement]:
    devices = job.machines.devices - start.roles
    for width in _widths(job, start):
        most = (devices - 1) // width
        for engines in sorted({max(1, round(most * (i + 1) / MANY)) for i in range(MANY)} if most else set()):
            ranks = devices - engines * width
            if ranks % start.sequence_parallel:
                continue
            yield replace(start, engines=engines, tensor_parallel=width, ranks=ranks, shared=False)


def _widths(job: Job, start: Placement) -> list[int]:
    """GPUs of one engine: powers of two that can share the heads, within a node."""
    if start.one_gpu_each or not job.machines.device.is_gpu:
        return [1]
    shares, most = job.workload.architecture.shares, job.machines.per_node
    return [width for width in shares if width <= most and width.bit_count() == 1]


def _lowest_stage(job: Job, placement: Placement) -> Estimate | None:
    for stage in range(max(LOWEST[placement.offload], min(1, placement.zero_stage)), 4):
        made = estimate(job, replace(placement, zero_stage=stage))
        if made.fits:
            return made
    return None


def _ways(job: Job, start: Placement) -> dict[str, list[Way]]:
    """For each key that saves memory, the values to try: the mildest key first, and the mildest value."""
    # Mostly a higher stage takes less, but from 2 on gradients are in float32.
    stages = [*range(start.zero_stage + 1, 4), *range(start.zero_stage - 1, LOWEST[start.offload] - 1, -1)]
    wider = (width for width in _widths(job, start) if _widens(start, width))
    explicit, gpu = start.kv_cache_mib is not None, job.machines.device.is_gpu
    ways: dict[str, list[Way]] = {
        "zero": [({"zero_stage": stage}, f"policy.zero_stage = {stage}") for stage in stages],
        "recompute": [({"recomputes": True}, "model.gradient_checkpointing = true")],
        "tokens": [
            ({"tokens_per_microbatch": job.connected}, f"policy.tokens_per_microbatch = {job.connected}"),
        ],
        "share": [({"gpu_share": 0.95}, "engines.gpu_memory_utilization = 0.95")],
        "cache": [({"kv_cache_mib": None}, "the default of engines.kv_cache_mib")] if explicit else [],
        "width": [_widened(start, width) for width in wider],
        "offload": [({"offload": "cpu"}, 'policy.offload = "cpu"')] if gpu else [],
        "sequences": [
            ({"sequence_parallel": ranks}, f"policy.sequence_parallel = {ranks}")
            for ranks in _sharers(job, start)
        ],
    }
    return ways


def _sharers(job: Job, start: Placement) -> Iterator[int]:
    """How many more ranks could share each sequence, within a node."""
    most = min(start.ranks, job.machines.per_node)
    for ranks in job.workload.architecture.shares:
        if start.sequence_parallel < ranks <= most and start.ranks % ranks == 0:
            yield ranks


def _widens(start: Placement, width: int) -> bool:
    """Whether engines of so many GPUs come out even where they share them with the ranks."""
    return width > start.tensor_parallel and not (start.shared and start.ranks % width)


def _widened(start: Placement, width: int) -> Way:
    count = max(1, start.engines * start.tensor_parallel // width)
    said = f"engines.tensor_parallel = {width}"
    said += f" (with engines.count = {count})" if count != start.engines else ""
    return {"tensor_parallel": width, "engines": count}, said
