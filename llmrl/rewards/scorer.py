"""The scorer: judges responses in child processes, so that no reward can hang or take down a run."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import math
from collections.abc import Mapping, Sequence

from llmrl.errors import RecipeError, RewardError
from llmrl.recipe.schema import Reward, Scoring
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.part import Part, combine
from llmrl.rewards.process import Outcome, RewardProcess

CHUNK = 32
"""Samples written to a process at once: enough to hide the round trip, few enough to share the work."""


class Scorer:
    """Judges responses. ``start`` before the first, ``close`` after the last, all in one event loop."""

    def __init__(self, rewards: Mapping[str, Reward], scoring: Scoring, plugins: Sequence[str]) -> None:
        if not rewards:
            raise RecipeError("rewards: the stage has none; responses cannot be judged without at least one.")
        self.seconds = 0.0
        """Time spent inside rewards, summed over processes."""
        self.judged = 0
        self.errors = 0
        self.abstentions = 0
        self.restarts = 0
        """Processes that had to be replaced."""
        self.reads_answer: tuple[str, ...] = ()
        """Names of the rewards that read the gold answer; known after ``start``."""
        self._weights = {name: reward.weight for name, reward in rewards.items()}
        self._scoring = scoring
        tables = {name: reward.model_dump() for name, reward in rewards.items()}
        setup = {"plugins": list(plugins), "rewards": tables, "memory_mib": scoring.memory_mib}
        self._setup = _line(setup)
        self._free: asyncio.Queue[RewardProcess] = asyncio.Queue()
        self._processes: set[RewardProcess] = set()
        self._closed = False

    async def start(self) -> None:
        """Start the processes.

        Raises:
            PluginError: a plugin cannot be imported; the message holds its traceback.
            RecipeError: a reward or an option does not exist.
            RewardError, DeadlineError: a process died or was not ready in time.
        """
        starting = (RewardProcess.start(self._setup) for _ in range(self._scoring.processes))
        started = await asyncio.gather(*starting, return_exceptions=True)
        self._processes = {process for process in started if isinstance(process, RewardProcess)}
        for process in started:
            if isinstance(process, BaseException):
                await self.close()
                raise process
            self.reads_answer = process.reads_answer
            self._free.put_nowait(process)

    async def judge(self, samples: Sequence[Sample]) -> tuple[Judgement, ...]:
        """One judgement per sample, in order. A reward that fails makes an error of its sample only.

        Raises:
            RewardError, DeadlineError: a process could not be replaced, or the scorer was closed.
        """
        parts = await self._evaluate(samples, gold=False)
        judgements = tuple(combine(each, self._weights) for each in parts)
        self.judged += len(judgements)
        self.seconds += sum(judgement.seconds for judgement in judgements)
        self.errors += sum(judgement.status == "error" for judgement in judgements)
        self.abstentions += sum(judgement.status == "abstain" for judgement in judgements)
        return judgements

    async def grade_gold(self, samples: Sequence[Sample]) -> tuple[Judgement, ...]:
        """Like ``judge``, but only with the rewards that read the answer, bare and unweighted."""
        parts = await self._evaluate(samples, gold=True)
        return tuple(combine(each, dict.fromkeys(each, 1.0)) for each in parts)

    async def close(self) -> None:
        """Kill every process and its descendants, and wait until they are gone."""
        self._closed = True
        await asyncio.gather(*(process.end() for process in self._processes))
        self._processes.clear()

    async def _evaluate(self, samples: Sequence[Sample], *, gold: bool) -> list[dict[str, Part]]:
        lines = [_line({"gold": gold, "sample": dataclasses.asdict(sample)}) for sample in samples]
        names = self.reads_answer if gold else tuple(self._weights)
        size = max(1, min(CHUNK, math.ceil(len(lines) / self._scoring.processes)))
        tasks = [
            asyncio.create_task(self._evaluate_chunk(lines[at : at + size], names))
            for at in range(0, len(lines), size)
        ]
        try:
            chunks = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()  # the others of a chunk that failed; of no effect on those that are done
        return [parts for chunk in chunks for parts in chunk]

    async def _evaluate_chunk(self, lines: Sequence[bytes], names: Sequence[str]) -> list[dict[str, Part]]:
        process = await self._free.get()
        judged: list[dict[str, Part]] = []
        try:
            while len(judged) < len(lines):
                process = await self._living(process)
                todo = lines[len(judged) :]
                outcome = await process.ask(todo, width=len(names), deadline_s=self._scoring.deadline_s)
                judged += _named(outcome, names)
        finally:
            self._free.put_nowait(process)
        return judged

    async def _living(self, process: RewardProcess) -> RewardProcess:
        """The process, or its successor if it is gone."""
        if self._closed:
            raise RewardError("rewards: the scorer was closed while responses were still to be judged.")
        if process.alive:
            return process
        await process.end()
        self._processes.discard(process)
        self.restarts += 1
        successor = await RewardProcess.start(self._setup)
        self._processes.add(successor)
        return successor


def _named(outcome: Outcome, names: Sequence[str]) -> list[dict[str, Part]]:
    """The parts by name; where the process went, the part that was running is an error."""
    named = [dict(zip(names, parts, strict=True)) for parts in outcome.parts]
    if outcome.failure:
        culprit = dict(zip(names, outcome.started, strict=False))
        seconds = outcome.seconds - sum(part.seconds for part in outcome.started)
        culprit[names[len(culprit)]] = Part(status="error", note=outcome.failure, seconds=max(seconds, 0.0))
        named.append(culprit)
    return named


def _line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"
