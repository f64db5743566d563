"""The policy's side of a stage: steps, snapshots of the weights, checkpoints, and steps that went wrong."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

from llmrl.cluster.actor import share
from llmrl.errors import Stopped, TrainingError
from llmrl.experience.columns import Columns
from llmrl.experience.credit import Memory
from llmrl.experience.experience import Experience
from llmrl.recipe.schema import Stage
from llmrl.recipe.tables import Tree
from llmrl.run.checkpoint import Checkpoints, RunState
from llmrl.run.crew import Crew, Letter
from llmrl.run.ledger import Ledger
from llmrl.run.record import Record
from llmrl.run.stop import abandonable, uncut

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
    tables: Tree
    letters: dict[int, Letter] = field(default_factory=dict[int, Letter])
    """Weights under way, by version."""
    memory: Memory = field(default_factory=Memory)
    """State that the credit keeps from step to step."""
    scored: set[int] = field(default_factory=set[int])
    """Ordinals of the next step's draws that the ranks have scored."""
    bad_steps: int = 0
    taken: int = 0
    """Steps of the stage so far, those of earlier runs included."""
    unsaved: RunState | None = None
    """State after the newest step, until the ranks write it, begin another step, or fail; None where a
    checkpoint would be of no use."""
    committing: asyncio.Task[None] | None = None
    """The sealing of the checkpoint that was written last, if it is under way."""
    stepping: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a step and its checkpoint, which nothing may interrupt."""
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while engines take weights, which nothing may interrupt either."""

    async def score_ahead(self, experiences: Sequence[Experience]) -> None:
        """Have every rank score some of the next step's groups, whatever their credit will be."""
        self.scored |= {one.group.ordinal for one in experiences}
        began, columns = time.monotonic(), share(Columns.of(experiences))
        with self.record.timeline.span("policy", f"score {len(experiences)} groups ahead"), self._at_risk():
            await self.crew.policy("score_ahead", columns)
        self.record.scored_ahead(time.monotonic() - began)

    async def step(self, experiences: Sequence[Experience], *, step: int, posts: bool) -> None:
        """Take one step on every rank; what is due after it (snapshot, checkpoint) is done or queued.

        It is completed even if the run is ended meanwhile.

        Args:
            posts: whether the engines are to have the new weights.
        """
        async with self.stepping:
            await uncut(self._step(experiences, step=step, posts=posts))

    def snapshot(self, version: int) -> None:
        """Queue a copy of the present weights, which engines take as ``version``."""
        if self.crew.engines:
            self.letters[version] = self.crew.post(version)

    async def publish(self, version: int) -> None:
        """Return when every engine serves ``version`` and has proven it, if it was posted."""
        if version in self.letters:
            async with self.publishing:
                began = time.monotonic()
                with self.record.timeline.span("weights", f"version {version}"), self._at_risk():
                    delivery = await self.crew.deliver(self.letters.pop(version))
                self.record.synced(time.monotonic() - began, delivery.taken())

    async def restore_engines(self, version: int) -> None:
        """Give engines that slept while the policy only scored their weights back, unchanged."""
        if self.crew.devices.asleep:
            self.snapshot(version)
            await self.publish(version)

    async def save(self) -> None:
        """Have the ranks write a checkpoint of the present policy, unless they have; it is sealed later."""
        if self.unsaved is None:
            return
        await self.committed()  # there might be no room for a third one
        state, self.unsaved = self.unsaved, None
        path = self.checkpoints.begin(state.step)
        with self.record.timeline.span("policy", f"save {state.step}"):
            written: list[Path] = await self.crew.policy("save", path)
        self.committing = asyncio.create_task(self._commit(path, state, written))

    async def committed(self) -> None:
        """Wait until what the ranks have written is sealed, or failed to be."""
        if committing := self.committing:
            await asyncio.wait({committing})  # it goes on if the caller is cancelled
            self.committing = None
            committing.result()

    @asynccontextmanager
    async def sealing(self) -> AsyncGenerator[None]:
        """Make what the ranks have written a checkpoint, however the block ends.

        If the block fails, the newest step is written first, unless the ranks were what failed.

        Raises:
            Exception: sealing failed, and the block succeeded or was asked to end.
        """
        try:
            yield
        except BaseException as ended:
            try:
                if isinstance(ended, Exception):  # or else the run leaves at once
                    await self._save_newest()
                await self.committed()
            except Exception as error:
                if isinstance(ended, Stopped):  # it promises that the run can go on from here
                    raise
                _log.warning("%s", error)  # the run's error is the block's
            raise
        await self.committed()

    async def _step(self, experiences: Sequence[Experience], *, step: int, posts: bool) -> None:
        if self.committing and self.committing.done():
            await self.committed()
        began = time.monotonic()
        with self.record.timeline.span("policy", f"step {step + 1}"):
            columns = share(Columns.of(experiences))
            self.unsaved = None  # the ranks are about to leave the state that it describes
            outcomes: list[dict[str, float]] = await self.crew.policy("update", columns, step)
        metrics = {name: value for outcome in outcomes for name, value in outcome.items()}
        self.scored.clear()
        if posts:
            self.snapshot(step + 1)
        self.ledger.trained((e.group.ordinal for e in experiences), step=step)
        self.taken = step + 1
        # Set first, whatever becomes of the records below.
        self.unsaved = self._state() if self.stage.policy.restorable else None
        self.record.stepped(step, experiences, metrics, train_s=time.monotonic() - began)
        self._judge_health(metrics, step, experiences)
        # It takes seconds, in which engines and rewards must be served.
        await asyncio.to_thread(self.record.samples, step, experiences)
        if self._save_is_due():
            await self.save()

    @contextmanager
    def _at_risk(self) -> Generator[None]:
        """If the block fails, give up the newest step: some ranks may wait for others for ever."""
        try:
            yield
        except Exception:
            self.unsaved = None
            raise

    async def _save_newest(self) -> None:
        if newest := self.unsaved:
            say = self.record.console.note
            say(f"the run ends with an error; saving step {newest.step} first")
            await self.save()
            await self.committed()
            say(f"step {newest.step} is saved; go on with llmrl train ... --resume")

    async def _commit(self, path: Path, state: RunState, written: Sequence[Path]) -> None:
        """Seal a checkpoint in a thread: to read and hash a large model takes minutes; the run goes on."""
        with self.record.timeline.span("checkpoint", f"seal {state.step}"):
            await abandonable(lambda: self.checkpoints.commit(path, state, written=written))

    def _state(self) -> RunState:
        return RunState(
            step=self.taken,
            ledger=self.ledger.snapshot(),
            memory=deepcopy(self.memory),
            data=self.fingerprint,
            tables=self.tables,
        )

    def _save_is_due(self) -> bool:
        every = self.stage.checkpoints.every_steps
        return self.taken == self.stage.optimizer.steps or bool(every and self.taken % every == 0)

    def _judge_health(self, metrics: dict[str, float], step: int, experiences: Sequence[Experience]) -> None:
        if not metrics["policy/skipped"]:
            self.bad_steps = 0
            return
        self.bad_steps += 1
        written = self.record.bad_batch(step, experiences)
        _log.warning(
            "step %d: %d updates skipped, loss or gradient not finite; its batch is in %s",
            step + 1,
            metrics["policy/skipped"],
            written,
        )
        if self.bad_steps >= self.stage.optimizer.max_bad_steps:
            self.unsaved = None  # no run may go on from here
            raise TrainingError(
                f"step {step + 1}: loss or gradient was not finite {self.bad_steps} times in a row "
                f"(optimizer.max_bad_steps); look at {written}, and begin a new run with a lower "
                "optimizer.lr."
            )
