"""Samples: the policy's responses at a step, token by token, as one line of JSON per response.

``samples/step-000010.jsonl`` holds the tokens with their logprobs, weight versions and advantages, and the
judgements; it is enough to read, to plot, and to question a step without the run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, shown
from llmrl.experience.experience import Experience
from llmrl.report.journal import number
from llmrl.rewards.judgement import Judgement

FOLDER = "samples"


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleEntry:
    """One response as stored on disk. Lists of token values have equal length L."""

    step: int
    group: int
    """Ordinal of the drawn prompt; equal for the responses of a group."""
    index: int
    """Place of the response in its group."""
    prompt_id: str
    source: str
    prompt: str
    answer: str | None
    """The gold answer, if the dataset has one."""
    response: str
    tokens: list[int]
    strings: list[str]
    """Each token on its own as text; half a character shows as a replacement sign."""
    logprobs: list[float | None]
    """Logprobs in nats, as the engine reported them, to four decimals."""
    versions: list[int]
    advantages: list[float | None]
    trained: list[bool]
    judgement: Mapping[str, Any] | None
    """Reward, status, parts and note; None for demonstrations."""
    stop: str
    lag: int
    """Versions between the policy of this step and the oldest token of the group."""


def write_samples(
    folder: Path, *, step: int, experiences: Sequence[Experience], decode: Callable[[int], str]
) -> Path:
    """Write the responses of one step into the stage's ``folder``; a file is either whole or absent.

    Args:
        decode: a function from a token id to its text.
    """
    path = folder / FOLDER / f"step-{step:06d}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(asdict(entry)) for each in experiences for entry in _entries(step, each, decode)]
    half = path.with_suffix(".half")
    half.write_text("".join(f"{line}\n" for line in lines), encoding="ascii")
    os.replace(half, path)
    return path


def each_sample(path: Path) -> Iterator[SampleEntry]:
    """Read a file of samples one by one; a step of long responses need not fit into memory.

    Raises:
        DataError: a line is not what ``write_samples`` writes.
    """
    with path.open("rb") as file:
        for row, line in enumerate(file, start=1):
            try:
                entry = SampleEntry(**json.loads(line))
            except (ValueError, TypeError) as error:
                got = shown(line.rstrip().decode(errors="replace"))
                raise DataError(f"{path}: row {row} is not a sample: {got}.") from error
            yield entry


def read_samples(path: Path) -> list[SampleEntry]:
    """All samples of a file, as by :func:`each_sample`."""
    return list(each_sample(path))


def _entries(step: int, experience: Experience, decode: Callable[[int], str]) -> list[SampleEntry]:
    group, prompt = experience.group, experience.group.prompt
    judged = [*experience.judgements, *[None] * (len(group.rollouts) - len(experience.judgements))]
    return [
        SampleEntry(
            step=step,
            group=group.ordinal,
            index=index,
            prompt_id=prompt.id,
            source=prompt.source,
            prompt=prompt.text,
            answer=prompt.answer,
            response=rollout.text,
            tokens=rollout.tokens.tolist(),
            strings=[decode(int(token)) for token in rollout.tokens],
            logprobs=_rounded(rollout.logp),
            versions=rollout.version.tolist(),
            advantages=_rounded(advantage),
            trained=rollout.trained.tolist(),
            judgement=_verdict(judgement),
            stop=rollout.stop,
            lag=experience.lag,
        )
        for index, (rollout, judgement, advantage) in enumerate(
            zip(group.rollouts, judged, experience.advantages, strict=True)
        )
    ]


def _rounded(values: NDArray[np.float32]) -> list[float | None]:
    return [number(value) for value in values.astype(np.float64).round(4).tolist()]


def _verdict(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    parts = {name: number(score) for name, score in judgement.parts.items()}
    return {"reward": judgement.reward, "status": judgement.status, "parts": parts, "note": judgement.note}
