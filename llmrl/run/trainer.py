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
    """What the credit remembers from step to step."""
    scored: set[int] = field(default_factory=set[int])
    """Draws of the next step that the ranks have scored."""
    bad_steps: int = 0
    taken: int = 0
    """Steps of the stage so far, those of earlier runs included."""
    unsaved: RunState | None = None
    """After the newest step, until the ranks write it, begin with another one, or fail; None where a
    checkpoint would be of no use."""
    committing: asyncio.Task[None] | None = None
    """The checkpoint that they wrote last, until it is sealed."""
    stepping: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held during a step and its checkpoint, which nothing may interrupt."""
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while engines take weights, which nothing may interrupt either."""

    async def score_ahead(self, experiences: Sequence[Experience]) -> None:
        """Have some of the next step's groups scored by every rank, whatever their credit will be."""
        self.scored |= {one.group.ordinal for one in experiences}
        began = time.monotonic()
        with self.record.timeline.span("policy", f"score {len(experiences)} groups ahead"), self._at_risk():
            await self.crew.policy("score_ahead", share(Columns.of(experiences)))
        self.record.scored_ahead(time.monotonic() - began)

    async def step(self, experiences: Sequence[Experience], *, step: int, posts: bool) -> None:
        """One optimizer step on every rank; what is due after it (snapshot, checkpoint) is done or queued.

        It is taken as a whole, also where something else ends the run meanwhile.

        Args:
            posts: whether the engines are to have the new weights.
        """
        async with self.stepping:
            await uncut(self._step(experiences, step=step, posts=posts))

    def snapshot(self, version: int) -> None:
        """Queue a copy of the present weights; engines take it as ``version``."""
        if self.crew.engines:
            self.letters[version] = self.crew.post(version)

    async def publish(self, version: int) -> None:
        """Every engine serves ``version``, and has proven it, when this returns; if it was posted."""
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
        """The ranks write a checkpoint of the policy as it is now, unless they have; it is sealed later."""
        if self.unsaved is None:
            return
        await self.committed()  # a third one might find no room
        state, self.unsaved = self.unsaved, None
        path = self.checkpoints.begin(state.step)
        with self.record.timeline.span("policy", f"save {state.step}"):
            written: list[Path] = await self.crew.policy("save", path)
        self.committing = asyncio.create_task(self._commit(path, state, written))

    async def committed(self) -> None:
        """What the ranks have written is a checkpoint when this returns, or never will be."""
        if committing := self.committing:
            await asyncio.wait({committing})  # it goes on where whoever waits is cancelled
            self.committing = None
            committing.result()

    @asynccontextmanager
    async def sealing(self) -> AsyncGenerator[None]:
        """However the block ends, what the ranks have written is a checkpoint then.

        If it fails, they write the newest step first, unless they were the ones who failed.

        Raises:
            Exception: it could not be sealed, and the block ended well or was asked to end.
        """
        try:
            yield
        except BaseException as ended:
            try:
                if isinstance(ended, Exception):  # or else somebody leaves at once
                    await self._save_newest()
                await self.committed()
            except Exception as error:
                if isinstance(ended, Stopped):  # it says that the run can go on from here
                    raise
                _log.warning("%s", error)  # what ended the block is what ended the run
            raise
        await self.committed()

    async def _step(self, experiences: Sequence[Experience], *, step: int, posts: bool) -> None:
        if self.committing and self.committing.done():
            await self.committed()
        began = time.monotonic()
        with self.record.timeline.span("policy", f"step {step + 1}"):
            columns = share(Columns.of(experiences))
            self.unsaved = None  # the ranks are about to leave what it describes
            outcomes: list[dict[str, float]] = await self.crew.policy("update", columns, step)
        metrics = {name: value for outcome in outcomes for name, value in outcome.items()}
        self.scored.clear()
        if posts:
            self.snapshot(step + 1)
        self.ledger.trained((e.group.ordinal for e in experiences), step=step)
        self.taken = step + 1
        # Whatever becomes of what is written of it.
        self.unsaved = self._state() if self.stage.policy.restorable else None
        self.record.stepped(step, experiences, metrics, train_s=time.monotonic() - began)
        self._judge_health(metrics, step, experiences)
        # It takes seconds, in which engines and rewards want to be heard.
        await asyncio.to_thread(self.record.samples, step, experiences)
        if self._save_is_due():
            await self.save()

    @contextmanager
    def _at_risk(self) -> Generator[None]:
        """Ranks that fail within the block cannot save the newest step: some may wait for others for ever."""
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
        """To read and hash it all takes minutes for a large model, and the run goes on meanwhile."""
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
            self.unsaved = None  # nobody shall go on from here
            raise TrainingError(
                f"step {step + 1}: loss or gradient was not finite {self.bad_steps} times in a row "
                f"(optimizer.max_bad_steps); look at {written}, and begin a new run with a lower "
                "optimizer.lr."
            )
