"""The scorer: judges responses in child processes, so that no reward can hang or take down a run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmrl.errors import RecipeError, RewardError
from llmrl.recipe.schema import Cluster, Reward, Scoring
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.scoring.known import KnownVerdicts, at_no_cost
from llmrl.rewards.scoring.part import Part, combine
from llmrl.rewards.scoring.process import Outcome, RewardProcess, Terms
from llmrl.rewards.scoring.tally import Tally

CHUNK = 32
"""Samples written to a process at once: enough to hide the round trip, few enough to share the work."""


@dataclass(frozen=True, slots=True)
class _Lane:
    """Rewards that are asked together."""

    names: tuple[str, ...]
    terms: Terms


@dataclass(slots=True)
class _Slot:
    """A place for one process and its successors."""

    process: RewardProcess


class Scorer:
    """Judges responses. ``start`` before the first, ``close`` after the last, all in one event loop."""

    def __init__(
        self, rewards: Mapping[str, Reward], scoring: Scoring, plugins: Sequence[str], cluster: Cluster
    ) -> None:
        """A scorer whose processes start as all of ``cluster`` do: with its variables and its deadline."""
        if not rewards:
            raise RecipeError("rewards: the stage has none; responses cannot be judged without at least one.")
        self.reads_answer: tuple[str, ...] = ()
        """Names of the rewards that read the gold answer; known after ``start``."""
        self._weights = {name: reward.weight for name, reward in rewards.items()}
        self._scoring, self._cluster = scoring, cluster
        tables = {name: reward.model_dump() for name, reward in rewards.items()}
        setup = {"plugins": list(plugins), "rewards": tables, "memory_mib": scoring.memory_mib}
        self._setup = setup | {"cache": scoring.cache, "door": ""}
        self._known = KnownVerdicts(scoring.cache)
        self._tally = Tally()
        self._awaited: Mapping[bool, frozenset[str]] = {}
        self._free: asyncio.Queue[_Slot] = asyncio.Queue()
        self._processes: set[RewardProcess] = set()
        self._begun: set[asyncio.Task[list[dict[str, Part]]]] = set()
        """Chunks under way in a process; the callers of some may be gone."""
        self._closed = False

    async def start(self, *, door: str = "") -> None:
        """Start the processes.

        Args:
            door: URL of the run's roles, for rewards that ask one.

        Raises:
            PluginError: a plugin cannot be imported; the message holds its traceback.
            RecipeError: a reward or an option does not exist.
            RewardError, DeadlineError: a process died or was not ready in time.
        """
        self._setup["door"] = door
        starting = (self._started() for _ in range(self._scoring.processes))
        started = await asyncio.gather(*starting, return_exceptions=True)
        self._processes = {process for process in started if isinstance(process, RewardProcess)}
        for process in started:
            if isinstance(process, BaseException):
                await self.close()
                raise process
            self.reads_answer, self._awaited = process.reads_answer, process.awaited
            self._free.put_nowait(_Slot(process))

    async def judge(self, samples: Sequence[Sample]) -> tuple[Judgement, ...]:
        """One judgement per sample, in order. A reward that fails makes an error of its sample only.

        Raises:
            RewardError, DeadlineError: a process could not be replaced, or the scorer was closed.
        """
        texts = [_text(sample) for sample in samples]
        verdicts = await (self._recall(texts) if self._scoring.cache else self._ask(texts))
        return tuple(combine(parts, self._weights) for parts in verdicts)

    async def grade_gold(self, samples: Sequence[Sample]) -> tuple[Judgement, ...]:
        """Like ``judge``, but only with the rewards that read the answer, bare and unweighted."""
        parts = await self._evaluate([_text(sample) for sample in samples], gold=True)
        return tuple(combine(each, dict.fromkeys(each, 1.0)) for each in parts)

    def take_statistics(self) -> dict[str, float]:
        """Metrics of each named reward since the last call: latency, and rates of errors and abstentions."""
        tally, self._tally = self._tally, Tally()
        return tally.statistics()

    async def close(self) -> None:
        """Kill every process and its descendants, and wait until they are gone."""
        self._closed = True
        await asyncio.gather(*(process.end() for process in self._processes))
        for waiting in self._begun:  # for a process that is only starting
            waiting.cancel()
        await asyncio.gather(*self._begun, return_exceptions=True)
        self._processes.clear()

    async def _recall(self, texts: Sequence[bytes]) -> list[dict[str, Part]]:
        """Known verdicts, and the others from the rewards, each once."""
        known = {text: parts for text in texts if (parts := self._known.find(text)) is not None}
        fresh = [text for text in dict.fromkeys(texts) if text not in known]
        asked = dict(zip(fresh, await self._ask(fresh), strict=True))
        for text, parts in asked.items():
            self._known.keep(text, parts)
            known[text] = at_no_cost(parts)
        self._tally.known += len(texts) - len(fresh)
        # The first of equal samples has the verdict with the time that it took.
        return [asked.pop(text, known[text]) for text in texts]

    async def _ask(self, texts: Sequence[bytes]) -> list[dict[str, Part]]:
        verdicts = await self._evaluate(texts, gold=False)
        for parts in verdicts:
            self._tally.count(parts)
        return verdicts

    async def _evaluate(self, texts: Sequence[bytes], *, gold: bool) -> list[dict[str, Part]]:
        names = self.reads_answer if gold else tuple(self._weights)
        lanes = self._lanes(names, gold=gold)
        size = max(1, min(CHUNK, math.ceil(len(texts) / self._scoring.processes)))
        tasks = [
            asyncio.create_task(self._evaluate_chunk(texts[at : at + size], lanes))
            for at in range(0, len(texts), size)
        ]
        try:
            chunks = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # the others of a chunk that failed; of no effect on those that are done
        return [{name: parts[name] for name in names if name in parts} for chunk in chunks for parts in chunk]

    def _lanes(self, names: Sequence[str], *, gold: bool) -> list[_Lane]:
        """The rewards that take one sample after another, and those that take several at once."""
        plain = tuple(name for name in names if name not in self._awaited[gold])
        awaited = tuple(name for name in names if name in self._awaited[gold])
        return [
            _Lane(
                each, Terms(width=len(each), gold=gold, at_once=at_once, deadline_s=self._scoring.deadline_s)
            )
            for each, at_once in ((plain, None), (awaited, self._scoring.concurrency))
            if each
        ]

    async def _evaluate_chunk(self, texts: Sequence[bytes], lanes: Sequence[_Lane]) -> list[dict[str, Part]]:
        """Judge a chunk to its end in a process, even if the caller is gone.

        Stopping it would kill the process, and another takes longer to start than most rewards to judge.
        """
        slot = await self._free.get()
        judging = asyncio.create_task(self._evaluate_at(slot, texts, lanes))
        self._begun.add(judging)
        judging.add_done_callback(self._begun.discard)
        return await asyncio.shield(judging)

    async def _evaluate_at(
        self, slot: _Slot, texts: Sequence[bytes], lanes: Sequence[_Lane]
    ) -> list[dict[str, Part]]:
        judged: list[dict[str, Part]] = [{} for _ in texts]
        try:
            for lane in lanes:
                await self._go_along(lane, slot, texts, judged)
        finally:
            self._free.put_nowait(slot)
        return judged

    async def _go_along(
        self, lane: _Lane, slot: _Slot, texts: Sequence[bytes], judged: list[dict[str, Part]]
    ) -> None:
        todo = list(range(len(texts)))
        while todo:
            process = await self._living(slot)
            named = _named(await process.ask([texts[at] for at in todo], lane.terms), lane.names)
            for place, parts in named.items():
                judged[todo[place]] |= parts
            todo = [at for place, at in enumerate(todo) if place not in named]

    async def _living(self, slot: _Slot) -> RewardProcess:
        """The slot's process, or a successor if it is gone."""
        if self._closed:
            raise RewardError("rewards: the scorer was closed while responses were still to be judged.")
        if slot.process.alive:
            return slot.process
        await slot.process.end()
        self._processes.discard(slot.process)
        self._tally.restarts += 1
        slot.process = await self._started()
        self._processes.add(slot.process)
        return slot.process

    async def _started(self) -> RewardProcess:
        return await RewardProcess.start(
            _json(self._setup) + b"\n",
            variables=self._cluster.environment,
            deadline_s=self._cluster.start_deadline_s,
        )


def _named(outcome: Outcome, names: Sequence[str]) -> dict[int, dict[str, Part]]:
    """The parts by name; if the process ended, samples under way get errors."""
    named = {at: dict(zip(names, parts, strict=True)) for at, parts in outcome.finished.items()}
    if outcome.failure:
        note = outcome.failure
        if len(outcome.underway) > 1:
            note = f"was one of {len(outcome.underway)} that were judged in a process which {note}"
        for at, underway in outcome.underway.items():
            named[at] = dict(zip(names, underway.parts, strict=False))
            seconds = outcome.now - underway.since - sum(part.seconds for part in underway.parts)
            culprit = names[len(underway.parts)]
            named[at][culprit] = Part(status="error", note=note, seconds=max(seconds, 0.0))
    return named


def _text(sample: Sample) -> bytes:
    return _json(dataclasses.asdict(sample))


def _json(message: object) -> bytes:
    return json.dumps(message).encode()
