"""The real stations of the flow for one stage: online (generate and judge) and offline (demonstrate)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmrl.errors import WeightSyncError
from llmrl.experience.experience import Experience
from llmrl.experience.offline import demonstrate, imitate
from llmrl.objectives.algorithm import Algorithm
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.recipe.schema import Stage
from llmrl.rewards.judgement import Judgement, Sample
from llmrl.rewards.scorer import Scorer
from llmrl.rollouts.engine import Sampling
from llmrl.rollouts.pool import EnginePool
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.evaluate import evaluate
from llmrl.run.loop import Judged
from llmrl.run.step_budget import StepBudget
from llmrl.run.trainer import Trainer


@dataclass(slots=True, kw_only=True, eq=False)
class StageStations:
    """What online and offline stages have in common: drawing, training, publishing, evaluating."""

    stage: Stage
    stream: PromptStream
    evaluated: Sequence[Prompt]
    """Held-out prompts; empty means no evaluation."""
    trainer: Trainer
    pool: EnginePool
    scorer: Scorer | None
    """None where nothing is judged."""
    algorithm: Algorithm

    def draw(self) -> int:
        return self.trainer.ledger.draw()

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        await self.trainer.step(experiences, step=step)

    async def publish(self, version: int) -> None:
        await self.trainer.publish(version)
        every = self.stage.evaluation.every_steps
        if version == self.stage.optimizer.steps or (every and version % every == 0):
            await self.evaluate(version)

    async def evaluate(self, version: int) -> None:
        """Score the held-out prompts; nothing newer than ``version`` is published until this returns."""
        if self.evaluated:
            self.trainer.record.evaluated(
                await evaluate(self.stage, self.evaluated, self.answer, version=version)
            )

    async def answer(self, draw: Draw, sampling: Sampling) -> tuple[RolloutGroup, tuple[Judgement, ...]]:
        """Responses to one draw, judged."""
        assert self.scorer is not None, "a stage that generates has rewards: promised by recipe.checks"
        group = await self.pool.generate(draw, sampling)
        return group, await self.scorer.judge(_samples(group))


@dataclass(slots=True, kw_only=True, eq=False)
class Online(StageStations):
    """Generate, judge, compare: each in its own processes, all of them under way at once."""

    budget: StepBudget

    async def obtain(self, ordinal: int) -> Judged:
        rollouts = self.stage.rollouts
        sampling = Sampling(
            purpose=self.stage.name,
            per_prompt=rollouts.per_prompt,
            temperature=rollouts.temperature,
            max_tokens=rollouts.max_tokens,
        )
        group, judgements = await self.answer(self.stream.at(ordinal), sampling)
        self.trainer.ledger.generated(ordinal, version=group.oldest_version)
        return Judged(group=group, judgements=judgements)

    def refuse(self, judged: Judged, /) -> bool:
        reason = self.algorithm.keep(judged.group, judged.judgements)
        self.budget.spend(judged.judgements, reason)
        self.trainer.record.judged(judged, kept=reason is None)
        if reason is not None:
            self.trainer.ledger.dropped(judged.group.ordinal, reason=reason)
        return reason is not None

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        self.budget.step_done()
        rows = self.algorithm.credit([one.group for one in judged], [one.judgements for one in judged])
        return [
            Experience(
                group=one.group,
                judgements=one.judgements,
                advantages=tuple(advantages),
                lag=_lag(one.group, step, limit=self.stage.engines.max_lag),
            )
            for one, advantages in zip(judged, rows, strict=True)
        ]


@dataclass(slots=True, kw_only=True, eq=False)
class Offline(StageStations):
    """Demonstrations instead of rollouts: nothing is generated or judged to train on."""

    async def obtain(self, ordinal: int) -> Judged:
        return Judged(group=demonstrate(self.stream.at(ordinal)), judgements=())

    def refuse(self, _judged: Judged, /) -> bool:
        return False

    def credit(self, judged: Sequence[Judged], _step: int, /) -> list[Experience]:
        return [imitate(one.group) for one in judged]


def _samples(group: RolloutGroup) -> list[Sample]:
    prompt = group.prompt
    return [
        Sample(
            prompt=prompt.text,
            response=rollout.text,
            answer=prompt.answer,
            tokens=int(rollout.tokens.size),
            finished=rollout.stop == "stop",
            source=prompt.source,
        )
        for rollout in group.rollouts
    ]


def _lag(group: RolloutGroup, step: int, *, limit: int) -> int:
    lag = step - group.oldest_version
    if lag > limit:
        raise WeightSyncError(
            f"prompt {group.prompt.id} was answered with weights {group.oldest_version}, "
            f"{lag} behind step {step}; engines.max_lag allows {limit}, so a weight update was lost."
        )
    return lag
