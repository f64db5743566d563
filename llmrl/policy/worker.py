"""One rank of the policy: trains, scores, hands out weights, saves. A plain class that becomes a process."""

from __future__ import annotations

import resource
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.batches.batch import TokenScores
from llmrl.batches.collate import Collated, collate, row_lengths, totals
from llmrl.batches.schedule import schedule
from llmrl.experience.experience import Experience
from llmrl.objectives.algorithm import Algorithm
from llmrl.policy.learning_rate import learning_rate
from llmrl.policy.model import load_model, named_tensors, prepare_model, save_model
from llmrl.policy.probe import probe_experience
from llmrl.policy.scorer import Scorer
from llmrl.policy.step import Forward, update
from llmrl.policy.watch import GradientWatch
from llmrl.policy.zero import Meeting, Zero, join_group
from llmrl.recipe.schema import Model, Stage
from llmrl.registry import load_plugins
from llmrl.weights.bundle import Probe, WeightBundle
from llmrl.weights.pack import pack


class PolicyWorker:
    """Every method but ``open_meeting`` and ``prepare`` is called on all ranks alike, in the same order."""

    def __init__(self, stage: Stage, device: str, rank: int, plugins: Sequence[str] = ()) -> None:
        self._stage, self._device, self._rank, self._plugins = stage, device, rank, plugins
        self._meeting: Meeting | None = None

    def open_meeting(self, head: str) -> str:
        """Rank 0 listens where the other ranks can reach it; ``head`` is an address that all can reach."""
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
        ranks = self._stage.policy.ranks
        join_group(address, rank=self._rank, ranks=ranks, device=self._device, meeting=self._meeting)
        self.load()

    def load(self) -> None:
        """The model at ``model.path``, sharded over the ranks that have met."""
        stage = self._stage
        self._algorithm = Algorithm.of(stage)
        scorer = Scorer(load_model(Path(str(stage.model.path)), stage.model))
        self._vocabulary = scorer.vocabulary
        self._watch = GradientWatch(scorer.model.get_input_embeddings())
        self._zero = Zero(scorer, stage, device=self._device)
        self._reference = self._frozen() if "reference" in self._algorithm.objective.reads else None
        # Demonstrations have no sampling temperature.
        online = not self._algorithm.objective.bundle.demonstrations
        self._temperature = stage.rollouts.temperature if online else 1.0

    def update(self, experiences: Sequence[Experience], step: int) -> dict[str, float]:
        """One optimizer step; returns its metrics, reduced over all ranks, and this rank's own tokens."""
        microbatches = self._share_of(experiences)
        self._zero.train(True)
        counted = totals(experiences)
        metrics = update(
            self._zero,
            self._watch,
            microbatches,
            forward=self._forward(self._temperature),
            reference=self._reference,
            objective=self._algorithm.objective,
            correction=self._algorithm.correction,
            totals=counted,
            lr=learning_rate(self._stage.optimizer, step),
        )
        own = {f"policy/rank/{self._rank}": float(sum(m.trained_tokens for m in microbatches))}
        return metrics | own | {"policy/tokens": float(counted.tokens)} | self._memory()

    def score(self, experiences: Sequence[Experience], temperature: float) -> list[NDArray[np.float32]]:
        """[L] nats of each rollout's trained tokens under the present weights; each rank scores them all."""
        self._zero.train(False)
        forward = self._forward(temperature)
        rows = np.arange(sum(len(e.group.rollouts) for e in experiences))
        with torch.no_grad():
            listed = [(c := collate(experiences, rows[i : i + 1]), forward(c)) for i in rows]
        return [s.logp[0, : c.width].float().cpu().numpy() for c, s in listed]

    def weights(self, version: int) -> WeightBundle | None:
        """A copy of all weights; ranks other than 0 only help to gather them."""
        probe = probe_experience(self._vocabulary)
        (logp,) = self.score([probe], 1.0)
        tokens = np.concatenate([probe.group.prompt.tokens, probe.group.rollouts[0].tokens])
        proof = Probe(tokens=tokens, logp=np.concatenate([np.zeros(1, np.float32), logp]))
        with self._zero.whole() as scorer:
            if self._rank:
                return None
            return pack(named_tensors(scorer.model), version=version, probe=proof)

    def save(self, folder: Path) -> None:
        """This rank's share of a checkpoint: ZeRO shards, and the state of its random generators."""
        self._zero.save(folder)
        states = {name: get().numpy() for name, (get, _) in _generators(self._device).items()}
        np.savez(folder / f"rng-{self._rank}.npz", allow_pickle=False, **states)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint that the run has verified."""
        self._zero.load(folder)
        with np.load(folder / f"rng-{self._rank}.npz", allow_pickle=False) as states:
            for name, (_, put) in _generators(self._device).items():
                put(torch.from_numpy(states[name]))

    def export(self, folder: Path) -> None:
        """Write the model as a Hugging Face folder; rank 0 writes, the others help to gather."""
        with self._zero.whole() as scorer:
            if not self._rank:
                save_model(scorer.model, tokenizer_folder=Path(str(self._stage.model.path)), folder=folder)

    def _memory(self) -> dict[str, float]:
        """The largest footprint of any rank so far, in MiB."""
        resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        peaks = {"memory/policy_rss": resident}
        if self._device == "cuda":
            peaks["memory/policy_gpu"] = torch.cuda.max_memory_allocated() / 2**20
        largest = self._zero.largest(torch.tensor(list(peaks.values())))
        return {name: float(value) for name, value in zip(peaks, largest, strict=True)}

    def _share_of(self, experiences: Sequence[Experience]) -> list[Collated]:
        plan = schedule(
            row_lengths(experiences),
            ranks=self._stage.policy.ranks,
            tokens_per_microbatch=self._stage.policy.tokens_per_microbatch,
        )
        return [collate(experiences, rows).to(self._zero.device) for rows in plan.microbatches[self._rank]]

    def _forward(self, temperature: float) -> Forward:
        def forward(collated: Collated) -> TokenScores:
            logp, entropy = self._zero(collated.inputs, temperature=temperature)
            return collated.scores(logp, entropy)

        return forward

    def _frozen(self) -> Forward:
        scorer = (
            Scorer(load_model(Path(str(self._stage.model.path)), self._stage.model))
            .to(self._zero.device)
            .eval()
        )

        def forward(collated: Collated) -> TokenScores:
            logp, entropy = scorer(collated.inputs, temperature=self._temperature, entropy=False)
            return collated.scores(logp, entropy)

        return forward


def _generators(device: str) -> dict[str, tuple[Callable[[], Tensor], Callable[[Tensor], None]]]:
    """How to read and write the state of each generator that a forward pass may draw from."""
    cpu = {"cpu": (torch.get_rng_state, torch.set_rng_state)}
    return cpu | {"cuda": (torch.cuda.get_rng_state, torch.cuda.set_rng_state)} if device == "cuda" else cpu
