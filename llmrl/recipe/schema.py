"""The tables of a recipe, in the order in which data flows. Every key has its unit in its name or its text.

A recipe file is a list of stages that share the tables above them; ``load`` resolves each stage
into one :class:`Stage`, which is what every part of llmrl receives.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
AboveZero = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]


def _names_alone(variables: dict[str, Any]) -> dict[str, str]:
    """Keep only the names: a value may be a token, and model cards, trackers and reports are published."""
    return dict.fromkeys(variables, "...")


def without_secrets(options: dict[str, Any]) -> dict[str, Any]:
    """Options of a plugin as they may be shown: environment variables by name only."""
    variables: dict[str, Any] | None = options.get("variables")
    return options | {"variables": _names_alone(variables)} if isinstance(variables, dict) else options


class Table(BaseModel):
    """A table of the recipe: frozen, its numbers finite, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=False,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )


class Lora(Table):
    """Train low-rank adapters instead of all weights (PEFT)."""

    rank: Positive = 16
    """Rank of the two factors."""
    alpha: AboveZero = 32.0
    """The adapter's output is scaled by alpha / rank."""
    targets: tuple[str, ...] = ("all-linear",)
    """Module names that get an adapter, as PEFT understands them."""


class Model(Table):
    """The model to train: a folder or hub name, or a small one built from a config."""

    path: str | None = None
    """Model folder or hub name. Exactly one of ``path`` and ``config`` is given."""
    config: dict[str, Any] | None = None
    """Build a randomly initialised model instead: ``model_type`` and any key of its transformers config."""
    characters: str | None = None
    """With ``config``: the alphabet of the character tokenizer that is built for it."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of forward, backward and engines. Master weights and optimizer states are always float32."""
    context_tokens: Annotated[int, Field(ge=3)] = 1024
    """Longest prompt plus response, in tokens; below 3 no sync of weights could be proven."""
    chat: bool = False
    """Render prompts with the tokenizer's chat template; False takes them as plain text."""
    trust_remote_code: str | None = None
    """Run the Python code that ships with a model: only if this repeats ``model.path``."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    lora: Lora | None = None
    """Train adapters only; absent trains all weights."""

    @property
    def folder(self) -> Path:
        """``path`` as a folder, which it always is in a planned stage."""
        assert self.path is not None, "exactly one of path and config: promised by recipe.checks"
        return Path(self.path).expanduser()

    @property
    def trusts_code(self) -> bool:
        """Whether the model's own Python code may run."""
        return self.path is not None and self.trust_remote_code == self.path


class Source(Table):
    """One dataset, or one generator of tasks, among those that prompts are drawn from."""

    name: str | None = None
    """Name in metrics and ids; by default the file's or the task's."""
    dataset: str | None = None
    """JSONL, JSON, CSV or parquet file, saved ``datasets`` folder, or ``owner/name[:config]`` on the hub."""
    split: str = "train"
    """Split of a dataset that has several."""
    task: str | None = None
    """A procedural task generator by name, instead of a dataset."""
    options: dict[str, Any] = {}
    """Options of the task generator."""
    rows: Positive | None = None
    """Number of rows to use, counted after ``skip``; for a task, the number of rows to make."""
    skip: Count = 0
    """Number of rows to skip at the start; with ``rows`` this separates training rows from held-out ones."""
    fields: dict[str, str] = {}
    """Map from prompt, answer, response, rejected or messages to the dataset's own column names;
    ``answer = "*"`` is the whole row as JSON."""
    template: str = "{prompt}"
    """Text around the prompt field."""
    weight: AboveZero = 1.0
    """Share of draws relative to the other sources; each source draws its own rows equally often."""
    pass_rates: Path | None = None
    """A dataset's ``pass_rates.jsonl``, which an earlier run wrote into its stage folder."""
    min_pass_rate: Fraction = 0.0
    """Least pass rate (share of solved responses) of the rows to use, with ``pass_rates``."""
    max_pass_rate: Fraction = 1.0
    """Largest pass rate (share of solved responses) of the rows to use, with ``pass_rates``."""
    unrated: Literal["keep", "drop"] = "keep"
    """Whether to use rows without a pass rate, with ``pass_rates``."""
    order: Literal["shuffled", "easy_first"] = "shuffled"
    """Order of rows in an epoch. ``easy_first``: from the rows solved most often to those solved least often,
    then the unrated ones; rows of equal rates in an order from ``run.seed``."""


class Prompts(Table):
    """Where prompts come from, and how many make a step."""

    sources: Annotated[tuple[Source, ...], Field(min_length=1)]
    """Datasets and tasks, mixed by weight."""
    per_step: Positive = 64
    """Prompts that one optimizer step trains on (groups, not responses)."""
    max_tokens: Positive = 512
    """Most tokens of a prompt; longer prompts are left out, and the log has their number."""
    shuffle: bool = True
    """Whether each epoch has a new order, from ``run.seed``."""


class Rollouts(Table):
    """How responses are sampled."""

    per_prompt: Positive = 8
    """Responses to each prompt: the group that credit compares."""
    max_tokens: Positive = 256
    """Budget of a response in tokens; a longer one ends with stop = length."""
    oversample: Annotated[float, Field(ge=0)] = 0.0
    """Groups under way beyond those that can be trained in time, as a share of ``prompts.per_step``: steps
    take the groups that are done first, and one that would come too late is stopped and drawn again. This
    favours short responses; 0 gives up none."""
    temperature: AboveZero = 1.0
    """Softmax temperature of sampling; the trainer scores with the same one."""
    stop: tuple[str, ...] = ()
    """Texts that end a response, besides the end-of-sequence token."""
    branches: Positive | None = None
    """Responses that share a conversation up to a random turn, which alone is trained; 1 shares none. By
    default as the objective's bundle says."""


class Engines(Table):
    """The processes that generate."""

    kind: str = "vllm"
    """``vllm``, or ``torch`` for small models on machines without vLLM; plugins may add other kinds."""
    count: Positive = 1
    """Number of independent engines; prompts go to the least loaded."""
    tensor_parallel: Positive = 1
    """GPUs that share one engine's weights."""
    max_lag: Count = 1
    """Versions by which a trained token may be behind the policy; 0 is synchronous training."""
    update: Literal["keep", "drain", "abort"] = "keep"
    """Fate of a response when new weights come: it goes on with its KV cache, is finished first, or goes on
    as a new request that the new weights read from its beginning."""
    max_sequences: Positive = 256
    """Responses that one engine generates at once."""
    kv_cache_mib: Positive | None = None
    """KV cache in MiB on each GPU of an engine, regardless of ``gpu_memory_utilization``; by default 256 on
    CPU, and on a GPU what vLLM finds free in its share."""
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.85
    """Share of a GPU that vLLM may use."""
    eager: bool | None = None
    """Whether to do without CUDA graphs and compilation; by default True on CPU, False on GPU."""


class Role(Table):
    """A further model, in processes of its own, that rewards and environments ask; it is never trained."""

    path: str
    """Folder or hub name; ``stage:<name>`` is the model that an earlier stage of this run leaves."""
    kind: str
    """``generate`` writes text; ``classify`` scores a response; ``steps`` scores each step of a response."""
    options: dict[str, Any] = {}
    """Options of the kind."""
    count: Positive = 1
    """Number of processes; a question goes to the one with the fewest."""
    tensor_parallel: Positive = 1
    """GPUs that share one process's weights; more than 1 needs vLLM."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Dtype of the model."""
    context_tokens: Positive = 1024
    """Longest question plus answer, in tokens; a longer one is an error of its response."""
    chat: bool = False
    """Render its input with its tokenizer's chat template; False takes it as plain text."""
    trust_remote_code: str | None = None
    """Run the Python code that ships with the model: only if this repeats ``path``."""

    @property
    def trusts_code(self) -> bool:
        """Whether the model's own Python code may run."""
        return self.trust_remote_code == self.path


class Reward(Table):
    """One named reward; the total is the weighted sum of all of them."""

    kind: str
    """Name of a registered reward."""
    weight: float = 1.0
    """Factor in the sum; 0 only measures."""
    options: dict[str, Any] = {}
    """Options of the reward."""


class Scoring(Table):
    """How rewards are run: in processes that can be killed."""

    processes: Positive = 1
    """Number of scorer processes."""
    deadline_s: AboveZero = 10.0
    """Longest time for one response; then its scorer is killed and the judgement is an error."""
    concurrency: Positive = 16
    """Responses that rewards with an ``async`` call judge at once in a process; others take one at a time."""
    cache: Count = 0
    """Number of verdicts kept for equal samples; for rewards whose score depends on nothing else."""
    memory_mib: Positive | None = None
    """MiB that rewards may allocate in a process once it is ready; more is an error. By default no limit."""
    max_error_rate: Fraction = 0.1
    """Largest share of a step's judgements that may be errors; beyond it the run ends."""
    check_answers: bool = True
    """Score each gold answer against itself before the run starts, which is refused if one is not worth 1."""


class Choice(Table):
    """A plugin by name, with its options."""

    name: str
    """Registered name of the plugin."""
    options: dict[str, Any] = {}
    """Options of the plugin; unknown ones are errors."""

    @field_serializer("options", when_used="json")
    def _without_secrets(self, options: dict[str, Any]) -> dict[str, Any]:
        return without_secrets(options)


class Opponent(Table):
    """An opponent that answers the same prompts as the policy, for objectives that compare the two."""

    kind: Literal["none", "reference", "mixture", "average"]
    """Kind of opponent. ``reference``: the frozen model; ``mixture``: policy and reference token by token,
    geometrically; ``average``: the moving average of the policy's weights; ``none``: no opponent, whatever
    the objective says."""
    per_prompt: Positive = 1
    """Responses of the opponent to each prompt, besides the policy's ``rollouts.per_prompt``."""
    mixture: Fraction = 0.25
    """Weight of the reference in a ``mixture``."""
    decay: Decay = 0.999
    """Share of the moving ``average`` that each weight version leaves in place."""

    @property
    def responses(self) -> int:
        """Responses of the opponent to each prompt."""
        return 0 if self.kind == "none" else self.per_prompt


NOBODY = Opponent(kind="none")


class Optimizer(Table):
    """AdamW, its schedule, and when a stage ends."""

    steps: Positive
    """Steps of this stage; each trains on ``prompts.per_step`` groups and makes one weight version."""
    minibatches: Positive = 1
    """Parts of a step's groups, with an update for each; ``old`` is the policy before the first."""
    epochs: Positive = 1
    """Passes over a step's groups, in parts drawn anew each time."""
    lr: AboveZero = 1e-6
    """Peak learning rate."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape after warm-up; linear and cosine end at ``lr * final_lr_fraction``."""
    warmup_steps: Count = 0
    """Steps of linear warm-up from 0."""
    final_lr_fraction: Fraction = 0.0
    """Final learning rate of linear and cosine, as a share of ``lr``."""
    betas: tuple[Decay, Decay] = (0.9, 0.95)
    """Adam's decay rates."""
    eps: AboveZero = 1e-8
    """Adam's epsilon."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Decoupled weight decay on matrices; never on norms and biases."""
    max_grad_norm: AboveZero = 1.0
    """Largest global L2 norm of gradients, to which larger ones are scaled down."""
    max_bad_steps: Positive = 3
    """End the run after this many consecutive steps with a skipped update (loss or gradient not finite)."""


class Policy(Table):
    """The processes that train."""

    ranks: Positive = 1
    """Data-parallel ranks, one process and at most one GPU each."""
    zero_stage: Literal[0, 1, 2, 3] = 1
    """What DeepSpeed shards: 0 nothing, 1 optimizer states, 2 and gradients, 3 and parameters. With 2 and 3
    gradients of micro-batches add up in float32, with 0 and 1 in ``model.dtype``."""
    tokens_per_microbatch: Positive = 8192
    """Most tokens (prompts included) in one forward pass of one rank; never changes a gradient beyond
    rounding. All segments of a response whose past is rewritten must fit, so a conversation ends before they
    exceed it, and a dataset's rows that exceed it are left out."""
    sequence_parallel: Positive = 1
    """Ranks that share the tokens of each forward pass, for sequences longer than one GPU can train on; never
    changes a gradient. It divides ``ranks`` and the model's attention heads."""
    offload: Literal["none", "cpu", "nvme"] = "none"
    """Where optimizer states live (ZeRO 1-3); unless ``none``, ZeRO 3 keeps parameters on the host."""
    nvme_folder: Path | None = None
    """Folder on an NVMe disk; needed with ``offload = "nvme"``. A stage's files there lie under the path of
    its own folder, and stay when the run is over. Such a stage has no checkpoints, as DeepSpeed cannot
    restore them: it runs in one go."""

    @property
    def restorable(self) -> bool:
        """Whether DeepSpeed 0.19 can restore a checkpoint.

        With states on a disk it restores no moments, and overwrites the model with what is too small for one.
        """
        return self.offload != "nvme"


class Weights(Table):
    """How new weights travel from the policy to the engines."""

    transport: Literal["auto", "memory", "folder", "broadcast"] = "auto"
    """``memory``: shared by the engines of a machine, and sent once to each elsewhere; ``folder``: through
    files in ``folder``; ``broadcast``: to all workers of all engines at once, between GPUs by NCCL, on CPU by
    gloo. ``auto`` is ``folder`` if there is one, else ``memory``; on one GPU that one engine and one rank
    share, the weights stay there instead."""
    folder: Path | None = None
    """With ``folder``: a folder that all machines share; each run needs its own."""
    delta: bool | Literal["auto"] = "auto"
    """Send only the values whose bits have changed, where that is less; every engine then keeps a copy of
    the weights. ``auto``: where they leave the machine, but not with ``broadcast``. Adapters travel alone."""
    bucket_mib: Positive = 256
    """Most MiB of weights that a rank has whole at once while they are sent; a larger tensor goes alone."""

    @property
    def may_stay(self) -> bool:
        """Whether whole weights may stay on a GPU that one engine and one rank share."""
        return self.transport == "auto" and self.folder is None and self.delta is not True


class Evaluation(Table):
    """Held-out prompts, scored before, during and after the stage."""

    sources: tuple[Source, ...] = ()
    """Sources of held-out prompts; empty means no evaluation."""
    prompts: Positive | None = None
    """Number of prompts to evaluate on, from the first on; by default all."""
    every_steps: Count = 0
    """Steps between evaluations; 0 evaluates only before and after."""
    per_prompt: Positive = 1
    """Responses to each held-out prompt."""
    k: tuple[Positive, ...] = (1,)
    """Values of k for which unbiased pass@k is reported; none may exceed ``per_prompt``."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """Softmax temperature of sampling; 0 takes the likeliest token."""
    reward: str | None = None
    """Name of the reward that decides what is correct (score > 0.5); by default the first."""


class Checkpoints(Table):
    """The checkpoints that are kept on disk."""

    every_steps: Count = 0
    """Steps between checkpoints, besides the one at the end; 0 saves only at the end."""
    keep: Positive = 2
    """Number of newest checkpoints that are kept."""


class Cluster(Table):
    """Where the processes run."""

    address: str = "local"
    """Cluster of Ray: ``local`` starts one here for this run; ``auto`` or an address joins a running one."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to compute on; ``auto`` takes GPUs if the cluster has any and llmrl is installed for them."""
    placement: Literal["split", "shared"] = "split"
    """``split``: engines and ranks each have devices of their own; ``shared``: the same ones in turn, so that
    one GPU is enough. Roles always have their own."""
    cpus_per_process: AboveZero = 0.5
    """CPUs that Ray reserves for each engine, each rank and each process of a role."""
    threads_per_process: Positive = 1
    """OpenMP threads of each process: on CPU for all it computes, on a GPU for updating weights that
    ``policy.offload`` keeps on the host; more than the free cores makes everything slower."""
    start_deadline_s: AboveZero = 600.0
    """Longest time for all processes to start, and for a reward's process to be replaced."""
    call_deadline_s: AboveZero = 1800.0
    """Longest time for one step, sync or save, and for an engine to give no group, before the run ends and
    names the process that did not answer."""
    environment: dict[str, str] = {}
    """Environment variables of every process that a run starts, on every node: engines, ranks, roles and
    rewards. The process that starts them, which also downloads models and logs to trackers, has its own. A
    run's files have only their names; Ray's own logs on the nodes have the values too."""

    @field_serializer("environment", when_used="json")
    def _without_secrets(self, variables: dict[str, str]) -> dict[str, str]:
        return _names_alone(variables)


class Report(Table):
    """The files that are written besides metrics.jsonl and report.html."""

    timeline_steps: Count = 20
    """Steps after a start that ``timeline.json`` shows: what each process did when and what it waited for."""
    trackers: tuple[str, ...] = ("tensorboard",)
    """Trackers of accelerate by name (tensorboard, wandb, mlflow, trackio, ...)."""
    samples_every_steps: Count = 10
    """Interval, in steps, at which sampled responses are written; 0 writes none."""


class Stage(Table):
    """One stage of a recipe with every table resolved: what each part of llmrl receives."""

    name: str = "train"
    """Name of the stage, and of its folder."""
    model: Model = Model()
    prompts: Prompts
    """What the policy is asked: where prompts come from, and how many make a step."""
    rollouts: Rollouts = Rollouts()
    environment: Choice | None = None
    """Environment that answers the policy, so that a response has several turns; by default none."""
    engines: Engines = Engines()
    rewards: dict[str, Reward] = {}
    scoring: Scoring = Scoring()
    roles: dict[str, Role] = {}
    credit: Choice | None = None
    """Credit, the way from rewards to advantages; by default as the objective's bundle says."""
    keep: Choice | None = None
    """Choice of the groups to train on; by default as the objective's bundle says."""
    pairing: Choice | None = None
    """Choice of the responses of a group to compare; by default as the objective's bundle says."""
    shaping: tuple[Choice, ...] | None = None
    """Changes to advantages once the policy has scored the step; by default as the bundle says."""
    opponent: Opponent | None = None
    """Opponent that answers the same prompts for comparison; by default as the objective's bundle says."""
    correction: Choice | None = None
    """Weight for the difference between engine and trainer; by default as the objective's bundle says."""
    objective: Choice
    """What is optimized: a method by name, with its options and the credit, keep and correction it brings."""
    optimizer: Optimizer
    """How weights change: AdamW, its schedule, and the number of steps that ends the stage."""
    policy: Policy = Policy()
    weights: Weights = Weights()
    evaluation: Evaluation = Evaluation()
    checkpoints: Checkpoints = Checkpoints()
    cluster: Cluster = Cluster()
    report: Report = Report()

    @property
    def spare(self) -> int:
        """Groups begun beyond those that a step takes."""
        return math.ceil(self.rollouts.oversample * self.prompts.per_step)

    @property
    def shares_one_device(self) -> bool:
        """Whether one rank leaves all weights on the GPU that it shares with one engine."""
        alone = self.policy.ranks == self.engines.count == self.engines.tensor_parallel == 1
        whole = self.weights.may_stay and self.model.lora is None
        return self.cluster.placement == "shared" and alone and whole


class Run(Table):
    """The run as a whole."""

    name: str
    """Name of the run, and of its folder."""
    folder: Path = Path("runs")
    """Where run folders are made."""
    seed: Count = 0
    """Every random number of the run derives from it."""


class Recipe(Table):
    """A recipe file, resolved: the run, its plugins and its stages in order."""

    run: Run
    plugins: tuple[str, ...] = ()
    """Modules that every process imports; they register objectives, rewards, tasks and so on."""
    stages: Annotated[tuple[Stage, ...], Field(min_length=1)]

    @property
    def folder(self) -> Path:
        """The run's folder as an absolute path, the same for processes that start elsewhere."""
        return self.run.folder.expanduser().absolute() / self.run.name

    def stage_folder(self, index: int) -> Path:
        """Folder of one stage inside the run's."""
        return self.folder / f"{index}-{self.stages[index].name}"
