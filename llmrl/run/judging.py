"""Judging: a response is judged when it is finished, while others of its group are still being written."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from llmrl.cluster.actor import Actor
from llmrl.errors import LlmrlError
from llmrl.prompts.prompt import Draw
from llmrl.report.timeline import Timeline
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.scoring.aborted import overrule
from llmrl.rewards.scoring.samples import sample_of, samples_of
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.news import DrawKey, Finished, key_of
from llmrl.rollouts.pool import EnginePool
from llmrl.rollouts.rollout import Response, RolloutGroup

NEWS_EVERY_S = 0.2
"""Interval at which an engine is asked for finished responses: few messages, and little delay."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Early:
    """A response whose judgement has begun."""

    response: Response
    judging: asyncio.Task[tuple[Judgement, ...]]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Expected:
    """A group that is still being written."""

    draw: Draw
    sampling: Sampling
    early: dict[int, _Early] = field(default_factory=dict[int, _Early])
    """Judgements that have begun, by the response's place in the group."""


@dataclass(slots=True, kw_only=True, eq=False)
class Judging:
    """Generates and judges the responses to draws."""

    pool: EnginePool
    scorer: Scorer | None
    """The scorer; None where nothing is judged."""
    timeline: Timeline
    compares: bool
    """Whether a reward compares the responses of a group, which must then all be finished."""
    expected: dict[DrawKey, _Expected] = field(default_factory=dict[DrawKey, _Expected])

    async def answer(self, draw: Draw, sampling: Sampling) -> tuple[RolloutGroup, tuple[Judgement, ...]]:
        """Generate and judge the responses to one draw."""
        expected = _Expected(draw=draw, sampling=sampling)
        try:
            group = await self._written(expected)
            return group, overrule(group, await self._judged(group, expected))
        finally:
            for early in expected.early.values():
                early.judging.cancel()

    @asynccontextmanager
    async def listening(self, engines: Sequence[Actor], *, deadline_s: float) -> AsyncGenerator[None]:
        """Within the block, judge finished responses of groups that ``engines`` are still writing."""
        deaf = self.compares or self.scorer is None
        ears = [] if deaf else [asyncio.create_task(self._hear(e, deadline_s)) for e in engines]
        try:
            yield
        finally:
            for ear in ears:
                ear.cancel()
            await asyncio.gather(*ears, return_exceptions=True)

    async def _written(self, expected: _Expected) -> RolloutGroup:
        """Generate the group; once it is complete, no further early judgement begins."""
        key = key_of(expected.draw, expected.sampling)
        self.expected[key] = expected
        try:
            return await self.pool.generate(expected.draw, expected.sampling)
        finally:
            del self.expected[key]

    async def _hear(self, engine: Actor, deadline_s: float) -> None:
        while True:
            try:
                finished: list[Finished] = await engine.call("news", deadline_s=deadline_s)
            except LlmrlError:
                return  # the caller that awaits a group of this engine gets the error
            for one in finished:
                self._begin(one)
            await asyncio.sleep(NEWS_EVERY_S)

    def _begin(self, finished: Finished) -> None:
        expected = self.expected.get(finished.draw)
        if expected is None:
            return  # its group is complete by now
        response = finished.response
        sample = sample_of(expected.draw.prompt, response, max_tokens=expected.sampling.max_tokens)
        judging = asyncio.create_task(self._judge([sample], expected))
        expected.early[finished.number] = _Early(response=response, judging=judging)

    async def _judged(self, group: RolloutGroup, expected: _Expected) -> list[Judgement]:
        """Judge a whole group, reusing the judgements that have begun."""
        samples = samples_of(group, max_tokens=expected.sampling.max_tokens, rivals=self.compares)
        begun = {
            number: early.judging
            for number, early in expected.early.items()
            # An early judgement left by the previous evaluation is of another response.
            if early.response == group.rollouts[number].response
        }
        rest = [number for number in range(len(samples)) if number not in begun]
        late, *early = await asyncio.gather(
            self._judge([samples[number] for number in rest], expected), *begun.values()
        )
        judged = dict(zip(rest, late, strict=True)) | {n: own for n, (own,) in zip(begun, early, strict=True)}
        return [judged[number] for number in range(len(samples))]

    async def _judge(self, samples: Sequence[Sample], expected: _Expected) -> tuple[Judgement, ...]:
        assert self.scorer is not None, "a stage that generates has rewards: promised by recipe.checks"
        with self.timeline.span("rewards", f"{expected.sampling.purpose} {expected.draw.ordinal}"):
            return await self.scorer.judge(samples)
