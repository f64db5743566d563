"""Excerpts: as many sampled responses as a page can carry, packed small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TypeVar

from llmrl.report.samples import FOLDER, SampleEntry, each_sample

STEPS = 20
"""Most sampled steps on a page, spread evenly over the run."""

TOKENS = 200_000
"""Approximate number of response tokens on a page; at some 15 bytes each that is 3 MB."""

LONGEST = 4_000
"""Most tokens of a response that are shown; the rest is counted."""

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One response; a list of equal values is stored as that value once."""

    index: int
    tokens: list[int]
    """Indices of the token texts in ``Excerpts.strings``."""
    more: int
    """Number of tokens left out at the end."""
    text: str | None
    """The response decoded as a whole, where single tokens are not readable."""
    logprobs: list[float | None]
    versions: list[int] | int | None
    advantages: list[float | None] | float | None
    trained: list[bool] | bool | None
    judgement: Mapping[str, Any] | None
    stop: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The responses to one prompt."""

    id: str
    source: str
    prompt: str
    answer: str | None
    lag: int
    responses: list[Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Some groups of one sampled step."""

    stage: str
    step: int
    groups: list[Group]


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpts:
    """The excerpts of a run."""

    strings: list[str]
    """Every token text that occurs, once."""
    steps: list[Step]


def excerpts(stage_folders: Sequence[Path]) -> Excerpts:
    """Pick steps evenly, and whole groups from the start of each step's file up to its share of tokens."""
    files = [path for folder in stage_folders for path in sorted((folder / FOLDER).glob("step-*.jsonl"))]
    chosen = [files[at] for at in _spread(len(files), STEPS)]
    places: dict[str, int] = {}
    steps: list[Step] = []
    for path in chosen:
        groups = list(_groups(path, TOKENS // len(chosen), places))
        steps.append(Step(stage=path.parent.parent.name, step=int(path.stem.split("-")[1]), groups=groups))
    return Excerpts(strings=list(places), steps=steps)


def _spread(count: int, most: int) -> list[int]:
    """Spread at most ``most`` of ``count`` indices evenly, the first and the last among them."""
    if count <= most:
        return list(range(count))
    return [round(at * (count - 1) / (most - 1)) for at in range(most)]


def _groups(path: Path, tokens: int, places: dict[str, int]) -> Iterator[Group]:
    for _, entries in groupby(each_sample(path), key=lambda entry: entry.group):
        samples = list(entries)
        tokens -= sum(min(len(sample.tokens), LONGEST) for sample in samples)
        yield _group(samples, places)
        if tokens <= 0:
            return


def _group(samples: Sequence[SampleEntry], places: dict[str, int]) -> Group:
    first = samples[0]
    return Group(
        id=first.prompt_id,
        source=first.source,
        prompt=first.prompt,
        answer=first.answer,
        lag=first.lag,
        responses=[_response(sample, places) for sample in samples],
    )


def _response(sample: SampleEntry, places: dict[str, int]) -> Response:
    strings = sample.strings[:LONGEST]
    return Response(
        index=sample.index,
        tokens=[places.setdefault(text, len(places)) for text in strings],
        more=max(0, len(sample.strings) - LONGEST),
        text=sample.response if any("\ufffd" in text for text in strings) else None,
        logprobs=sample.logprobs[:LONGEST],
        versions=_once(sample.versions[:LONGEST]),
        advantages=_once(sample.advantages[:LONGEST]),
        trained=_once(sample.trained[:LONGEST]),
        judgement=sample.judgement,
        stop=sample.stop,
    )


def _once(values: list[Value]) -> list[Value] | Value | None:
    if not values:
        return None
    return values[0] if len(set(values)) == 1 else values
