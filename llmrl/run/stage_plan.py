"""What is known of a stage before any process starts: its tables, every path found, and all that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from llmrl.errors import CheckpointError, ModelError
from llmrl.objectives.algorithm import Algorithm
from llmrl.policy.folder import (
    check_folder,
    check_heads,
    check_length,
    find_folder,
    has_experts,
    load_config,
)
from llmrl.prompts.collection import fingerprint
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.reads import Reads
from llmrl.prompts.stream import PromptStream, held_out
from llmrl.prompts.tokenizer import Tokenizer, load_tokenizer
from llmrl.recipe.roles import asked_roles, stage_named
from llmrl.recipe.schema import Model, Policy, Recipe, Reward, Role, Stage, Weights
from llmrl.recipe.tables import Tree
from llmrl.report.card import has_card
from llmrl.report.journal import FILE as JOURNAL
from llmrl.rewards import build_rewards
from llmrl.rewards.scoring.scorer import Scorer
from llmrl.run.checkpoint import Checkpoint, Checkpoints
from llmrl.run.same_run import check_same_run, deciding

Table = TypeVar("Table", bound="Model | Role")
Folders = TypeVar("Folders", bound="Policy | Weights")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StagePlan:
    """A stage with everything it reads, checked before any process starts."""

    written: Stage
    """The stage as the recipe has it."""
    stage: Stage
    """The stage with its paths resolved; its ``model.path`` is the folder that every process loads."""
    build: Model | None
    """The model to build in that folder first; None if it exists."""
    tokenizer: Tokenizer
    stream: PromptStream
    evaluated: Sequence[Prompt]
    algorithm: Algorithm
    scorer: Scorer | None
    """The scorer; None where nothing is judged."""
    folder: Path
    seed: int
    """The run's seed."""
    last: bool
    """Whether no stage goes on from its model: neither in the recipe, nor already in the run's folder."""
    routed: bool
    """Whether the model is a mixture of experts."""

    @property
    def online(self) -> bool:
        """Whether responses are generated to train on."""
        return self.algorithm.online

    @property
    def generates(self) -> bool:
        """Whether anything is generated, to train on or to evaluate."""
        return self.online or bool(self.evaluated)

    @property
    def tables(self) -> Tree:
        """The tables that decide what is computed, with paths as written: a run may be moved."""
        return {"run": {"seed": self.seed}, **deciding(self.written)}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all rows, to train on and held out."""
        return fingerprint([*self.stream.rows, *self.evaluated])

    @property
    def checkpoints(self) -> Checkpoints:
        """The stage's checkpoints."""
        return Checkpoints(self.folder / "checkpoints", keep=self.stage.checkpoints.keep)

    def newest(self) -> Checkpoint | None:
        """The checkpoint to go on from, if there is one.

        Raises:
            CheckpointError: none is complete, it is of another run, or the stage is done and kept none.
        """
        newest = self.checkpoints.newest()
        if newest is None and has_card(self.folder / "model"):
            raise CheckpointError(
                f"optimizer.steps: {self.folder} has ended at another step, and no checkpoint is left to go "
                "on from; restore one, or the steps, rename the run (run.name), or use --fresh."
            )
        self._check_same(newest)
        return newest

    def check_done(self) -> None:
        """Refuse another recipe for a finished stage, as far as what is left of its checkpoints tells.

        Raises:
            CheckpointError: the stage was finished by another run.
        """
        self._check_same(self.checkpoints.last())

    def _check_same(self, checkpoint: Checkpoint | None) -> None:
        if checkpoint:
            check_same_run(
                checkpoint, data=self.fingerprint, tables=self.tables, online=self.online, last=self.last
            )


def start_folder(recipe: Recipe, index: int) -> Path:
    """The folder of the model that a stage starts from: after the first stage, the previous stage's.

    Raises:
        ModelError: ``model.path`` is neither a folder, nor a model of the hub that can be reached.
    """
    if index:
        return recipe.stage_folder(index - 1) / "model"
    start = recipe.stages[0].model
    return find_folder(start) if start.config is None else recipe.folder / "model"


def placed(stage: Stage, path: Path, *, folder: Path) -> Stage:
    """The stage with folders that every process finds.

    Args:
        stage: the stage as the recipe has it.
        path: the model that it starts from.
        folder: the stage's own folder.
    """
    return stage.model_copy(
        update={
            "model": _found(stage.model, path).model_copy(update={"config": None}),
            "policy": _settled(stage.policy, "nvme_folder", below=folder.relative_to(folder.anchor)),
            "weights": _settled(stage.weights, "folder"),
        }
    )


def plan_stage(recipe: Recipe, index: int) -> StagePlan:
    """Read everything that a stage reads.

    Raises:
        LlmrlError: the model, the prompts or the parts are unusable; the message says why.
    """
    stage, start = recipe.stages[index], recipe.stages[0].model
    folder = recipe.stage_folder(index)
    build = start if index == 0 and start.config is not None else None
    path = start_folder(recipe, index)
    if index == 0:
        if build is None:
            check_folder(path, start)
        check_heads(start, path, sharers=[each.policy.sequence_parallel for each in recipe.stages])
    tokenizer = load_tokenizer(
        stage.model.model_copy(update=start.model_dump(include={"path", "config", "characters"}))
    )
    seed = recipe.run.seed
    algorithm = Algorithm.of(stage)
    rewards = dict(algorithm.bundle.rewards)
    answered = _reads_answers(stage, rewards)
    evaluated = held_out(
        stage.evaluation,
        tokenizer,
        max_tokens=stage.prompts.max_tokens,
        seed=seed,
        reads=Reads(answer=answered, response=False),
    )
    judged = bool(evaluated) or algorithm.online
    return StagePlan(
        written=stage,
        stage=placed(stage, path, folder=folder).model_copy(
            update={
                "rewards": rewards,
                "roles": _found_roles(recipe, stage),
                "opponent": algorithm.bundle.opponent,
            }
        ),
        build=build,
        tokenizer=tokenizer,
        stream=PromptStream(
            stage.prompts,
            tokenizer,
            seed=seed,
            max_response_tokens=None if algorithm.online else stage.rollouts.max_tokens,
            max_read_tokens=None if algorithm.online else stage.policy.tokens_per_microbatch,
            reads=Reads(answer=algorithm.online and answered, response=not algorithm.online),
        ),
        evaluated=evaluated[: stage.evaluation.prompts],
        algorithm=algorithm,
        scorer=Scorer(rewards, stage.scoring, recipe.plugins, stage.cluster) if judged else None,
        folder=folder,
        seed=seed,
        last=index == len(recipe.stages) - 1 and not any(recipe.folder.glob(f"{index + 1}-*/{JOURNAL}")),
        routed=has_experts(start),
    )


def _reads_answers(stage: Stage, rewards: Mapping[str, Reward]) -> bool:
    """Whether anything reads gold answers; an environment always may."""
    return stage.environment is not None or any(one.reads_answer for one in build_rewards(rewards).values())


def _found_roles(recipe: Recipe, stage: Stage) -> dict[str, Role]:
    """The roles that a stage asks, each with the folder that its processes load."""
    return {name: _found_role(recipe, name, table) for name, table in asked_roles(stage).items()}


def _found_role(recipe: Recipe, name: str, table: Role) -> Role:
    place = stage_named(recipe, table.path)
    if place is not None:
        return table.model_copy(update={"path": str(recipe.stage_folder(place) / "model")})
    model = Model(path=table.path, trust_remote_code=table.trust_remote_code)
    try:
        folder = find_folder(model)
        config = load_config(folder, model)
    except ModelError as error:
        raise ModelError(f"roles.{name}: {error}") from error
    check_length(folder, config, table.context_tokens, key=f"roles.{name}.context_tokens")
    return _found(table, folder)


def _found(table: Table, folder: Path) -> Table:
    """The table of a model that lies in ``folder``; trust in its code moves with it."""
    code = str(folder) if table.trusts_code else None
    return table.model_copy(update={"path": str(folder), "trust_remote_code": code})


def _settled(table: Folders, key: str, *, below: Path = Path()) -> Folders:
    """The table with an absolute folder, the same for every process wherever it was started.

    ``below`` separates runs whose files there have the same names.
    """
    folder: Path | None = getattr(table, key)
    return table.model_copy(update={key: folder.expanduser().absolute() / below}) if folder else table
