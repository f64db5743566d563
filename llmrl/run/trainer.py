"""The policy's side of a stage: steps, snapshots of the weights, checkpoints, and steps that went wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from llmrl.cluster.actor import share
from llmrl.errors import Stopped, TrainingError
from llmrl.experience.columns import Columns
from llmrl.experience.credit import Memory
from llmrl.experience.experience import Experience
from llmrl.recipe.schema import Stage
from llmrl.run.checkpoint import Checkpoints, RunState
from llmrl.run.crew import Crew, Letter
from llmrl.run.ledger import Ledger
from llmrl.run.record import Record
from llmrl.run.stop import StopRequest

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True, eq=False)
class Trainer:
    """Drives the ranks: its calls reach all of them in one order, so a snapshot is of the step before it."""

    stage: Stage
    crew: Crew
    ledger: Ledger
    record: Record
    checkpoints: Checkpoints
    fingerprint: str
    digest: str
    stop: StopRequest
    letters: dict[int, Letter] = field(default_factory=dict[int, Letter])
    """Weights under way, by version."""
    memory: Memory = field(default_factory=Memory)
    """What the credit remembers from step to step."""
    bad_steps: int = 0

    async def step(self, experiences: Sequence[Experience], *, step: int) -> None:
        """One optimizer step on every rank; what is due after it (snapshot, checkpoint) is done or queued."""
        began = time.monotonic()
        with self.record.timeline.span("policy", f"step {step + 1}"):
            outcomes: list[dict[str, float]] = await self.crew.policy(
                "update", share(Columns.of(experiences)), step
            )
        metrics = {name: value for outcome in outcomes for name, value in outcome.items()}
        self.snapshot(step + 1)
        self.ledger.trained((e.group.ordinal for e in experiences), step=step)
        self.record.stepped(step, experiences, metrics, train_s=time.monotonic() - began)
        self._judge_health(metrics, step, experiences)
        if self._save_is_due(step + 1) or self.stop.made:
            await self.save(step + 1)
        if self.stop.made:
            raise Stopped(f"stopped after step {step + 1} on SIGTERM; go on with llmrl train ... --resume")

    def snapshot(self, version: int) -> None:
        """Queue a copy of the present weights; engines take it as ``version``."""
        if self.crew.engines:
            self.letters[version] = self.crew.post(version)

    async def publish(self, version: int) -> None:
        """Every engine serves ``version``, and has proven it, when this returns."""
        if self.crew.engines:
            began = time.monotonic()
            with self.record.timeline.span("weights", f"version {version}"):
                bundle = await self.crew.publish(self.letters.pop(version))
            self.record.synced(time.monotonic() - began, bundle)

    async def restore_engines(self, version: int) -> None:
        """Give engines that slept while the policy only scored their weights back, unchanged."""
        if self.crew.turns.asleep:
            self.snapshot(version)
            await self.publish(version)

    async def save(self, step: int) -> None:
        """A checkpoint of policy and ledger as they are now."""
        path = self.checkpoints.begin(step)
        state = RunState(
            step=step,
            ledger=self.ledger.snapshot(),
            memory=self.memory,
            data=self.fingerprint,
            recipe=self.digest,
        )
        with self.record.timeline.span("policy", f"save {step}"):
            await self.crew.policy("save", path)
            # To read and hash it takes minutes for a large model; roles and engines are answered meanwhile.
            await asyncio.to_thread(self.checkpoints.commit, path, state)

    def _save_is_due(self, step: int) -> bool:
        every = self.stage.checkpoints.every_steps
        return step == self.stage.optimizer.steps or bool(every and step % every == 0)

    def _judge_health(self, metrics: dict[str, float], step: int, experiences: Sequence[Experience]) -> None:
        if not metrics["policy/skipped"]:
            self.bad_steps = 0
            return
        self.bad_steps += 1
        written = self.record.bad_batch(step, experiences)
        _log.warning(
            "step %d was skipped: loss or gradient not finite; its batch is in %s", step + 1, written
        )
        if self.bad_steps >= self.stage.optimizer.max_bad_steps:
            raise TrainingError(
                f"step {step + 1}: loss or gradient was not finite {self.bad_steps} times in a row "
                f"(optimizer.max_bad_steps); lower optimizer.lr, and look at {written}."
            )
