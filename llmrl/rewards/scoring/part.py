"""The verdict of one named reward on one response, and its part in a judgement."""

from __future__ import annotations

import asyncio
import math
import numbers
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, replace

from llmrl.errors import shown
from llmrl.rewards.judgement import Judgement, Sample, Status
from llmrl.rewards.reward import Awaited, Reward, Score

LONGEST_NOTE = 300
"""Most characters of a note; longer ones are cut."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The verdict of one reward on one response."""

    status: Status
    value: float | None = None
    """Finite value if ``status`` is ``score``, else None."""
    note: str = ""
    seconds: float = 0.0


def evaluate(reward: Reward, sample: Sample) -> Part:
    """Call a reward and return its verdict; an exception becomes an error."""
    start = time.perf_counter()
    try:
        part = _read(reward(sample))
    except BaseException as error:  # noqa: BLE001  a reward that exits or raises must not end its process
        part = Part(status="error", note=f"raised {_told(error)}")
    return _timed(part, start)


async def evaluate_awaited(reward: Awaited, sample: Sample, *, seconds: float, deadline_s: float) -> Part:
    """Await a reward for at most ``seconds``, the rest of ``deadline_s``, and return its verdict.

    Does not return while a reward refuses to be cancelled.
    """
    start = time.perf_counter()
    judging = asyncio.create_task(_awaited(reward, sample))
    done, _ = await asyncio.wait([judging], timeout=max(seconds, 0.0))
    if done:
        return _timed(judging.result(), start)
    judging.cancel()
    await asyncio.wait([judging])
    note = f"gave no verdict within {deadline_s:g} s (scoring.deadline_s) and was cancelled"
    return _timed(Part(status="error", note=note), start)


async def _awaited(reward: Awaited, sample: Sample) -> Part:
    try:
        return _read(await reward(sample))
    except BaseException as error:  # noqa: BLE001  see above
        return Part(status="error", note=f"raised {_told(error)}")


def _timed(part: Part, start: float) -> Part:
    return replace(part, note=part.note[:LONGEST_NOTE], seconds=time.perf_counter() - start)


def combine(parts: Mapping[str, Part], weights: Mapping[str, float]) -> Judgement:
    """Combine the parts: any error makes an error, else any abstention an abstention; else the sum counts."""
    values = {name: part.value for name, part in parts.items() if part.value is not None}
    seconds = sum(part.seconds for part in parts.values())
    status, note = _verdict(parts)
    if status != "score":
        return Judgement(status=status, reward=None, parts=values, note=note, seconds=seconds)
    total = sum(weights[name] * value for name, value in values.items())
    if not math.isfinite(total):
        note = f"rewards: the weighted sum {total} is not finite"
        return Judgement(status="error", reward=None, parts=values, note=note, seconds=seconds)
    return Judgement(status="score", reward=total, parts=values, note=note, seconds=seconds)


def _verdict(parts: Mapping[str, Part]) -> tuple[Status, str]:
    statuses = {part.status for part in parts.values()}
    status: Status = "error" if "error" in statuses else "abstain" if "abstain" in statuses else "score"
    notes = [
        f"rewards.{name} {part.note or 'abstained'}"
        for name, part in parts.items()
        if part.status == status and (part.note or status == "abstain")
    ]
    return status, "; ".join(notes)


def _read(returned: object) -> Part:
    """Make a part from a reward's return value."""
    value, note = (returned.value, returned.note) if isinstance(returned, Score) else (returned, "")
    if value is None:
        return Part(status="abstain", note=f"abstained: {note}" if note else "")
    # numpy's numbers are Real too; a string that looks like a number is not.
    if isinstance(value, numbers.Real) and math.isfinite(value):
        return Part(status="score", value=float(value), note=str(note))
    note = f"returned {shown(returned)}; a finite number, a bool, None or a Score is allowed"
    return Part(status="error", note=note)


def _told(error: BaseException) -> str:
    """Type and text of an exception, and the line that raised it."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    if isinstance(error, MemoryError):
        text = f"{type(error).__name__}: the machine or scoring.memory_mib allows no more"
    frames = traceback.extract_tb(error.__traceback__)
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else text
