"""The real stations of the flow for one stage: online (generate and judge) and offline (demonstrate)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import WeightSyncError
from llmrl.experience.experience import Experience
from llmrl.experience.offline import contrast, demonstrate, imitate
from llmrl.experience.selection import selected
from llmrl.objectives.algorithm import Algorithm, responses_together
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.recipe.schema import Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.run.checkpoint import check_memory
from llmrl.run.evaluate import evaluate
from llmrl.run.judging import Judging
from llmrl.run.loop import Decision, Judged
from llmrl.run.step_budget import StepBudget
from llmrl.run.trainer import Trainer


@dataclass(slots=True, kw_only=True, eq=False)
class StageStations:
    """The common part of online and offline stages: drawing, training, publishing, evaluating."""

    stage: Stage
    stream: PromptStream
    evaluated: Sequence[Prompt]
    """Held-out prompts; empty means no evaluation."""
    trainer: Trainer
    judging: Judging
    algorithm: Algorithm

    def draw(self) -> int:
        return self.trainer.ledger.draw()

    def late(self, ordinal: int, /) -> None:
        self.trainer.ledger.late(ordinal)
        self.trainer.record.late()

    async def score_ahead(self, judged: Sequence[Judged], /) -> None:
        """No-op: offline stages have nothing to wait for."""

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        await self.trainer.step(experiences, step=step, posts=self.serves(step + 1))

    async def publish(self, version: int) -> None:
        await self.trainer.publish(version)
        if self.evaluates(version):
            await self.evaluate(version)

    async def evaluate(self, version: int) -> None:
        """Score the held-out prompts; nothing newer is published until this returns."""
        with self.trainer.record.timeline.span("evaluation", f"version {version}"):
            entry = await evaluate(self.stage, self.evaluated, self.judging.answer, version=version)
        self.trainer.record.evaluated(entry)

    def evaluates(self, version: int) -> bool:
        """Whether held-out prompts are due at a version."""
        every = self.stage.evaluation.every_steps
        due = version in (0, self.stage.optimizer.steps) or bool(every and version % every == 0)
        return due and bool(self.evaluated)

    def serves(self, _version: int) -> bool:
        """Whether an engine generates with this version."""
        return True


@dataclass(slots=True, kw_only=True, eq=False)
class Online(StageStations):
    """Generate, judge, compare: each in its own processes, all of them under way at once."""

    budget: StepBudget
    tries: Counter[int] = field(default_factory=Counter[int])
    """Number of times that each draw was given up as too late."""

    def late(self, ordinal: int, /) -> None:
        StageStations.late(self, ordinal)
        self.tries[ordinal] += 1

    async def obtain(self, ordinal: int) -> Judged:
        rollouts, bundle = self.stage.rollouts, self.algorithm.bundle
        sampling = Sampling(
            purpose=self.stage.name,
            per_prompt=rollouts.per_prompt,
            temperature=rollouts.temperature,
            max_tokens=rollouts.max_tokens,
            opponents=bundle.opponent.responses,
            branches=bundle.branches,
            together=self.stage.policy.tokens_per_microbatch // responses_together(self.stage),
        )
        draw = replace(self.stream.at(ordinal), tries=self.tries[ordinal])
        group, judgements = await self.judging.answer(draw, sampling)
        self.trainer.ledger.generated(ordinal, version=group.oldest_version)
        return Judged(group=group, judgements=judgements)

    def decide(self, judged: Judged, /) -> Decision:
        reason = self.algorithm.keep(judged.group, judged.judgements) or self._untrainable(judged)
        self.budget.spend(judged.judgements, reason)
        self.trainer.record.judged(judged, kept=reason is None)
        if reason is None:
            return "train"
        self.trainer.ledger.dropped(judged.group.ordinal, reason=reason)
        return "leave empty" if self.budget.exhausted else "replace"

    async def score_ahead(self, judged: Sequence[Judged], /) -> None:
        """Score early, but not without lag, so that numbers do not depend on which group was done first."""
        if self.stage.engines.max_lag and self._scores_first:
            while new := self._unscored(judged):
                # Their credit is not known yet; no score depends on it.
                await self.trainer.score_ahead(
                    [self._selected(one, imitate(one.group).advantages, lag=0) for one in new]
                )

    def credit(self, judged: Sequence[Judged], step: int, /) -> list[Experience]:
        self.budget.step_done()
        rows = self.algorithm.credit(
            [one.group for one in judged], [one.judgements for one in judged], self.trainer.memory
        )
        check_memory(self.trainer.memory, credit=self.algorithm.bundle.credit.name)
        return [
            self._selected(one, advantages, lag=_lag(one.group, step, limit=self.stage.engines.max_lag))
            for one, advantages in zip(judged, rows, strict=True)
        ]

    @property
    def _scores_first(self) -> bool:
        """Whether steps score their responses before the first update."""
        table = self.stage.optimizer
        old = self.algorithm.needs_old(table.minibatches * table.epochs)
        return old or "reference" in self.algorithm.reads

    def _untrainable(self, judged: Judged) -> str | None:
        """The reason why nothing of a group that is kept would be trained on, or None."""
        pairs = self.algorithm.pairing(judged.group, judged.judgements)
        if pairs is not None:
            return None if pairs else "no pair"
        both = zip(judged.group.rollouts, judged.judgements, strict=True)
        # Keep has also seen the opponent's responses.
        return None if any(not one.opponent and j.reward is not None for one, j in both) else "nothing judged"

    def _unscored(self, judged: Sequence[Judged]) -> list[Judged]:
        """Groups to score ahead; none once the step has all its groups, as it then scores the rest itself."""
        if len(judged) == self.stage.prompts.per_step:
            return []
        return [one for one in judged if one.group.ordinal not in self.trainer.scored]

    def _selected(self, judged: Judged, advantages: Sequence[NDArray[np.float32]], *, lag: int) -> Experience:
        """The experience of a group, without the responses that are not trained on."""
        whole = Experience(
            group=judged.group, judgements=judged.judgements, advantages=tuple(advantages), lag=lag
        )
        return selected(whole, self.algorithm.pairing(judged.group, judged.judgements))


@dataclass(slots=True, kw_only=True, eq=False)
class Offline(StageStations):
    """The dataset's own responses instead of rollouts: nothing is generated or judged to train on."""

    async def obtain(self, ordinal: int) -> Judged:
        make = demonstrate if self.algorithm.bundle.trains_on == "demonstrations" else contrast
        return Judged(group=make(self.stream.at(ordinal)), judgements=())

    def serves(self, version: int) -> bool:
        """Whether it is evaluated: nothing else generates, and a sync costs as much as several steps."""
        return self.evaluates(version)

    def decide(self, _judged: Judged, /) -> Decision:
        return "train"

    def credit(self, judged: Sequence[Judged], _step: int, /) -> list[Experience]:
        return [imitate(one.group) for one in judged]


def _lag(group: RolloutGroup, step: int, *, limit: int) -> int:
    """Lag of the group's oldest token; 0 for a group without tokens."""
    oldest = group.oldest_version
    lag = 0 if oldest is None else step - oldest
    if lag > limit:
        raise WeightSyncError(
            f"prompt {group.prompt.id} was answered with weights {oldest}, "
            f"{lag} behind step {step}; engines.max_lag allows {limit}, so a weight update was lost."
        )
    return lag
