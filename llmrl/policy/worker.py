"""One rank of the policy: trains, scores, hands out weights, saves. A plain class that becomes a process."""

from __future__ import annotations

import os
import resource
import socket
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmrl.batches.batch import TokenScores
from llmrl.batches.collate import Collated
from llmrl.batches.step import Step
from llmrl.errors import PlacementError
from llmrl.experience.columns import Columns
from llmrl.objectives.algorithm import Algorithm
from llmrl.policy.ahead import Ahead
from llmrl.policy.attic import Attic
from llmrl.policy.cut import Cut
from llmrl.policy.gather import gathered
from llmrl.policy.generators import restore_generators, save_generators
from llmrl.policy.heap import keep_freed_memory
from llmrl.policy.learning_rate import learning_rate
from llmrl.policy.model import load_model, prepare_model, save_model
from llmrl.policy.probe import probe_experience
from llmrl.policy.scorer import TokenScorer
from llmrl.policy.step import Forward, Known, Learner, Update
from llmrl.policy.tensors import Piece, adapter_pieces, named, pieces
from llmrl.policy.ulysses import Ulysses
from llmrl.policy.zero import Meeting, Zero, join_group
from llmrl.prompts.seeds import derive_seed
from llmrl.recipe.schema import Model, Stage
from llmrl.registry import load_plugins
from llmrl.weights.broadcast import BroadcastStore
from llmrl.weights.bundle import ORIGINAL, Probe, WeightBundle
from llmrl.weights.device import DeviceStore
from llmrl.weights.folder import FolderStore
from llmrl.weights.group import Group, hang_up
from llmrl.weights.layout import Layout
from llmrl.weights.memory import machine
from llmrl.weights.outbox import Outbox
from llmrl.weights.proof import stored_tensors
from llmrl.weights.seat import Seat
from llmrl.weights.store import MemoryStore, Store


class PolicyWorker:
    """One rank; all methods are called on all ranks in one order, except those for rank 0 only."""

    def __init__(
        self, stage: Stage, device: str, rank: int, seed: int = 0, plugins: Sequence[str] = ()
    ) -> None:
        self._stage, self._device, self._rank = stage, device, rank
        self._seed, self._plugins = seed, plugins
        self._meeting: Meeting | None = None
        self._seat: Seat | None = None

    def open_meeting(self, head: str) -> str:
        """Listen, on rank 0, where the others can reach it; ``head`` is an address that all can reach."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
            route.connect((head, 9))
            host = route.getsockname()[0]
        self._meeting = Meeting(host)
        return self._meeting.address

    def prepare(self, model: Model, folder: Path, seed: int) -> None:
        """Build the model that a recipe describes, where the engines and the other ranks will look for it."""
        prepare_model(model, folder=folder, seed=seed)

    def start(self, address: str) -> None:
        """Meet the other ranks, then load and shard the model."""
        load_plugins(self._plugins)
        if self._device == "cpu":
            keep_freed_memory()
        join_group(
            address,
            rank=self._rank,
            ranks=self._stage.policy.ranks,
            device=self._device,
            meeting=self._meeting,
            timeout_s=self._stage.cluster.call_deadline_s,
        )
        self.load()

    def load(self) -> None:
        """Load the model at ``model.path``, sharded over the ranks that have met."""
        stage = self._stage
        self._algorithm = Algorithm.of(stage)
        sharers = stage.policy.sequence_parallel
        self._ulysses = Ulysses(sharers) if sharers > 1 else None
        path = stage.model.folder
        model = load_model(path, stage.model)
        self._layout = Layout(model, named(model))
        self._left_out = stored_tensors(path).keys() - self._layout.names
        scorer = TokenScorer(model, self._ulysses)
        self._vocabulary, work = scorer.vocabulary, scorer.work
        self._zero = Zero(scorer, stage, device=self._device)
        self._cut = Cut(
            policy=stage.policy,
            optimizer=stage.optimizer,
            rank=self._rank,
            seed=self._seed,
            work=work,
            device=self._zero.device,
        )
        # What the dataset wrote has no sampling temperature.
        self._temperature = stage.rollouts.temperature if self._algorithm.online else 1.0
        self._frozen = self._loaded_again() if "reference" in self._algorithm.reads else None
        self._attic = Attic(self._zero.device)
        self._ahead = Ahead()
        self._learner = Learner(
            zero=self._zero,
            algorithm=self._algorithm,
            scope=self._algorithm.objective.scope,
            forward=self._forward(self._temperature),
            reference=self._reference(self._frozen) if self._frozen else None,
            sharers=sharers,
        )

    def score_ahead(self, columns: Columns) -> None:
        """Score some groups of the next step under the present weights; ``update`` then scores the others."""
        self._zero.train(True)
        some, table = Step(columns), self._stage.optimizer
        old = self._learner.needs_old(table.minibatches * table.epochs)
        share = self._cut.share(some, range(some.groups))
        self._ahead.keep(some, self._learner.scan(share, tokens=some.tokens, old=old))

    def update(self, columns: Columns, step: int) -> dict[str, float]:
        """Take one step; returns its metrics, reduced over all ranks, and this rank's own tokens."""
        self._zero.train(True)
        numbered = Step(
            columns,
            budget=self._stage.rollouts.max_tokens,
            noise_seed=derive_seed(self._seed, "noise", step) if "noise" in self._algorithm.reads else None,
        )
        parts = self._cut.parts(numbered.groups, step=step)
        share = self._cut.share(numbered, range(numbered.groups))
        known = self._known(numbered, share, old=self._learner.needs_old(len(parts)))
        if self._algorithm.shaping:
            known = self._learner.shaped(self._cut.whole(numbered, range(numbered.groups)), known)
        updates = [self._update(numbered, part, share if len(parts) == 1 else None) for part in parts]
        lr = learning_rate(self._stage.optimizer, step)
        metrics = self._learner.step(updates, known, tokens=numbered.tokens, lr=lr)
        self._ahead.clear()
        trained = sum(rows.trained_tokens for rows in share) / self._stage.policy.sequence_parallel
        own = {f"policy/rank/{self._rank}": trained}
        return metrics | own | {"policy/tokens": float(numbered.tokens)} | self._memory()

    def score(self, columns: Columns, temperature: float) -> list[NDArray[np.float32]]:
        """[L] nats of each row's trained tokens under the present weights; each rank scores all rows."""
        self._zero.train(False)
        forward, step = self._forward(temperature), Step(columns)
        with torch.no_grad():
            listed = [
                (rows := step.collate(np.array([row])).to(self._zero.device), forward(rows))
                for row in range(columns.rows)
            ]
        return [rows.spread(scores.logp)[0].float().cpu().numpy() for rows, scores in listed]

    def weights(self, version: int) -> WeightBundle | None:
        """Copy all weights; ranks other than 0 only help to gather them."""
        probe = probe_experience(self._vocabulary, context_tokens=self._stage.model.context_tokens)
        (logp,) = self.score(Columns.of([probe]), 1.0)
        tokens = np.concatenate([probe.group.prompt.tokens, probe.group.rollouts[0].tokens])
        proof = Probe(tokens=tokens, logp=np.concatenate([np.zeros(1, np.float32), logp]))
        buckets = gathered(self._zero, self._sent(), bucket_mib=self._stage.weights.bucket_mib)
        tensors = map(self._layout.sent, buckets)
        if self._rank:
            deque(tensors, maxlen=0)
            return None
        base = ORIGINAL if self._stage.model.lora else None
        return self._outbox.send(tensors, version=version, probe=proof, base=base)

    def leave(self) -> None:
        """Give up the device memory that is kept between steps; nothing is computed until ``come_back``."""
        frozen = self._frozen.parameters() if self._frozen else ()
        self._attic.put([*self._zero.held(), *frozen], self._zero.scratch())

    def come_back(self) -> None:
        """Take the device memory again."""
        self._attic.fetch()

    def devices(self) -> str:
        """The GPUs that this process sees, as CUDA_VISIBLE_DEVICES has it."""
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")

    def open_outbox(self, deltas: bool, seat: Seat | None = None) -> None:
        """Send weights, from here on, to engines that hold none yet; rank 0 only.

        Args:
            deltas: whether to send all weights once, then only changes.
            seat: the seat in the group that weights are broadcast in, at the address from ``open_meeting``.
        """
        self._seat = seat
        self._outbox = Outbox(self._store(seat), deltas=deltas, left_out=frozenset(self._left_out))

    def _store(self, seat: Seat | None) -> Store:
        if seat is not None:
            assert self._meeting is not None, "open_meeting() comes first"
            device = self._zero.device
            return BroadcastStore(Group(seat, device=device, listener=self._meeting.detach()), device=device)
        if self._device == "cuda" and self._stage.shares_one_device:
            return DeviceStore(self._zero.device)
        folder = self._stage.weights.folder
        return FolderStore(folder) if folder else MemoryStore()

    def copy_of(self, bundle: WeightBundle) -> NDArray[np.uint8]:
        """The bytes of weights in its memory, for engines on other machines; rank 0 only."""
        return bundle.copied()

    def release(self, version: int) -> None:
        """Free weights that all engines serve; rank 0 only."""
        self._outbox.release(version)

    def hang_up(self, reason: str) -> None:
        """Rank 0 only: a receiver of a broadcast will not come, so nobody is to wait for it."""
        if self._seat is not None:
            hang_up(self._seat.address, reason)

    def machine(self) -> str:
        """An identifier equal for processes that can open each other's memory."""
        return machine()

    def find(self, path: Path) -> None:
        """Check for a file or folder that another machine has written.

        Raises:
            PlacementError: it is not here.
        """
        if not path.exists():
            raise PlacementError(
                f"on {socket.gethostname()} there is no {path}, which another machine has written; "
                "run.folder, and OUT of an export, must be the same folder on all machines: give the path of "
                "one that they share."
            )

    def save(self, folder: Path) -> Path:
        """Write this rank's share of a checkpoint: ZeRO shards, and the state of its random generators.

        Returns:
            The last file that it writes; where that is, the others are too.
        """
        self._zero.save(folder)
        file = self._random(folder)
        save_generators(file, self._device)
        return file

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint that the run has verified."""
        self._zero.load(folder)
        restore_generators(self._random(folder), self._device)

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder; rank 0 writes, the others help to gather."""
        tensors = gathered(self._zero, self._pieces(), bucket_mib=self._stage.weights.bucket_mib)
        if self._rank:
            deque(tensors, maxlen=0)
            return
        whole = {name: tensor.cpu().clone() for bucket in tensors for name, _, tensor in bucket}
        save_model(
            self._zero.module.model,
            whole,
            tokenizer_folder=self._stage.model.folder,
            folder=folder,
        )

    def _random(self, folder: Path) -> Path:
        """The file of a checkpoint with the state of this rank's random generators."""
        return folder / f"rng-{self._rank}.npz"

    def _memory(self) -> dict[str, float]:
        """The largest memory footprint of any rank so far, in MiB."""
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        peaks = {"memory/policy_rss": resident}
        if self._device == "cuda":
            peaks["memory/policy_gpu"] = torch.cuda.max_memory_allocated() / 2**20
        largest = self._zero.largest(torch.tensor(list(peaks.values())))
        return {name: float(value) for name, value in zip(peaks, largest, strict=True)}

    def _pieces(self) -> list[Piece]:
        return pieces(self._zero.module.model)

    def _sent(self) -> list[Piece]:
        """The tensors to send: adapters alone where there are some, as the engines have all under them."""
        return adapter_pieces(self._zero.module.model) if self._stage.model.lora else self._pieces()

    def _known(self, step: Step, share: list[Collated], *, old: bool) -> Known:
        """The scores of all groups, some of which may have been scored ahead."""
        missing = self._ahead.missing(step)
        rows = share if len(missing) == step.groups else self._cut.share(step, missing)
        known = self._learner.scan(rows, tokens=step.tokens, old=old)
        self._ahead.fill(step, known)
        return known

    def _update(self, step: Step, groups: Sequence[int], share: list[Collated] | None) -> Update:
        looks_at_all = self._learner.scope == "step"
        return Update(
            microbatches=self._cut.share(step, groups) if share is None else share,
            whole=self._cut.whole(step, groups) if looks_at_all else None,
            totals=step.totals(groups),
        )

    def _forward(self, temperature: float) -> Forward:
        def forward(rows: Collated) -> TokenScores:
            logp, entropy = self._zero(rows.inputs, temperature=temperature)
            return TokenScores(logp=logp, entropy=entropy)

        return forward

    def _loaded_again(self) -> TokenScorer:
        model = load_model(self._stage.model.folder, self._stage.model)
        return TokenScorer(model, self._ulysses).to(self._zero.device).eval()

    def _reference(self, frozen: TokenScorer) -> Forward:
        def forward(rows: Collated) -> TokenScores:
            logp, _ = frozen(rows.inputs, temperature=self._temperature, entropy=False)
            return TokenScores(logp=logp)

        return forward
