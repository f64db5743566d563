"""Contradictions between the keys of a recipe: every check that needs no model, no data and no cluster."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from llmrl.errors import did_you_mean, shown
from llmrl.recipe.draft import for_one_stage
from llmrl.recipe.heads import head_problems
from llmrl.recipe.load import Loaded, refuse, where_in
from llmrl.recipe.parts import part_problems
from llmrl.recipe.roles import role_problems, unread_problems
from llmrl.recipe.schema import Recipe, Stage
from llmrl.recipe.sources import held_out_problems, is_local, missing_path, source_problems
from llmrl.registry import load_plugins
from llmrl.wording import as_toml

Sentences = Iterator[str]

ADDRESS = re.compile(r"local|auto|[^\s:/]+:[0-9]{1,5}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
VLLM_TEMPERATURES = 0.01, 2.0
"""Least and largest temperature of vLLM; it raises lower ones, noted only in its log, and refuses higher."""
MODEL_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
"""Form of ``owner/name`` on the hub."""


def check_recipe(loaded: Loaded) -> None:
    """Refuse a recipe that contradicts itself; imports the recipe's plugins, and nothing heavy.

    Raises:
        RecipeError: every contradiction, one finished sentence per line, at most 20.
        PluginError: a plugin cannot be imported.
    """
    recipe = loaded.recipe
    refuse(loaded.path, _plugin_problems(recipe))
    load_plugins(recipe.plugins)
    stages = [list(_stage_problems(recipe, index, stage)) for index, stage in enumerate(recipe.stages)]
    refuse(loaded.path, chain(_run_problems(recipe), unread_problems(recipe), _with_stage(loaded, stages)))


def _with_stage(loaded: Loaded, problems: Sequence[Sequence[str]]) -> Sentences:
    """Prefix each stage's problems with its name; those of all stages appear once and without."""
    for index, own in enumerate(problems):
        for problem in own:
            if all(problem in other for other in problems):
                yield problem
            else:
                yield f"{where_in(loaded.recipe, index)}{problem}{_for_one_stage(loaded, problem)}"


def _for_one_stage(loaded: Loaded, problem: str) -> str:
    """The next move if an override of all stages is a problem in some."""
    key = problem.partition(":")[0]
    origins = {loaded.origins.get(f"stages.{stage.name}.{key}") for stage in loaded.recipe.stages}
    return for_one_stage(key.split(".")) if origins == {"override"} else ""


def _plugin_problems(recipe: Recipe) -> Sentences:
    for module in recipe.plugins:
        if not all(part.isidentifier() for part in module.split(".")) or module.endswith(".py"):
            yield f"plugins: expected the name of a module, such as 'my_losses', got {shown(module)}."


def _run_problems(recipe: Recipe) -> Sentences:
    folder = recipe.folder
    nearest = next(path for path in (folder, *folder.parents) if path.exists())
    if not nearest.is_dir():
        yield f"run.folder: {shown(str(nearest))} is a file, so no folder can be made in it."


def _stage_problems(recipe: Recipe, index: int, stage: Stage) -> Sentences:
    first = recipe.stages[0]
    here = {"": stage}
    before = {f" of stage '{earlier.name}'": earlier for earlier in recipe.stages[:index]}
    yield from _start_problems(stage) if index == 0 else _later_problems(stage, first)
    yield from source_problems(stage, alphabet=first.model.characters)
    yield from held_out_problems(stage, here | before)
    yield from part_problems(stage)
    yield from role_problems(recipe, index, stage)
    for problems in (_model, _lengths, _optimizer, _policy, _engines, _weights, _evaluation, _cluster):
        yield from problems(stage)


def _start_problems(stage: Stage) -> Sentences:
    model = stage.model
    if (model.path is None) == (model.config is None):
        got = "neither" if model.path is None else "both"
        yield (
            "model: exactly one of path (a folder or hub name) and config (build a small one) is needed, "
            f"got {got}."
        )
    if model.config is not None and not isinstance(model.config.get("model_type"), str):
        yield 'model.config.model_type: this key is missing; transformers needs it, such as "qwen3".'
    yield from head_problems(model.config or {})
    if model.config is not None and not model.characters:
        yield (
            "model.characters: this key is missing; "
            "a model built from model.config needs the alphabet of its tokenizer."
        )
    if model.config is None and model.characters is not None:
        yield "model.characters: only a model built from model.config has a character tokenizer; remove it."


def _later_problems(stage: Stage, first: Stage) -> Sentences:
    for key in ("path", "config", "characters"):
        mine, theirs = (table.model_dump()[key] for table in (stage.model, first.model))
        if mine not in (None, theirs):
            yield (
                f"model.{key}: only the first stage starts from a model, "
                "the others go on from the one before; remove it."
            )
    mine, theirs = stage.cluster.address, first.cluster.address
    if mine != theirs:
        yield (
            f"cluster.address: all stages run on one cluster, that of the first, {shown(theirs)}, "
            f"got {shown(mine)}; say it once, in the [cluster] that they share."
        )


def _model(stage: Stage) -> Sentences:
    model = stage.model
    for character, count in Counter(model.characters or "").items():
        if count > 1:
            yield (
                f"model.characters: {shown(character)} appears {count} times; each character needs one token."
            )
    if model.chat and model.characters is not None:
        yield (
            "model.chat: the character tokenizer of model.characters has no chat template; "
            "expected false, got true."
        )
    if model.trust_remote_code not in (None, model.path):
        yield (
            f"model.trust_remote_code: expected model.path {shown(model.path)} once more, "
            f"so that no other code is run by accident, got {shown(model.trust_remote_code)}."
        )
    longest = (model.config or {}).get("max_position_embeddings")
    if isinstance(longest, int) and longest < model.context_tokens:
        yield (
            f"model.context_tokens: {model.context_tokens} exceeds "
            f"model.config.max_position_embeddings = {longest}."
        )
    if model.path is not None:
        yield from _model_path(model.path)


def _model_path(path: str) -> Sentences:
    folder = Path(path).expanduser()
    if not is_local(path):
        if not MODEL_NAME.fullmatch(path):
            yield f"model.path: {shown(path)} is neither a folder here nor a hub name such as 'owner/name'."
    elif not folder.is_dir():
        yield f"model.path: {missing_path(path, 'folder')}"
    elif not (folder / "config.json").is_file():
        yield f"model.path: {shown(path)} has no config.json; give a folder that transformers can load."


def _lengths(stage: Stage) -> Sentences:
    prompt, response = stage.prompts.max_tokens, stage.rollouts.max_tokens
    context = stage.model.context_tokens
    if prompt + response > context:
        yield (
            f"model.context_tokens: prompts.max_tokens + rollouts.max_tokens = {prompt} + {response} = "
            f"{prompt + response} do not fit into {context}; raise it, or lower one of them."
        )
    if stage.policy.tokens_per_microbatch < context:
        yield (
            f"policy.tokens_per_microbatch: expected at least model.context_tokens = {context}, "
            f"so that the longest response fits, got {stage.policy.tokens_per_microbatch}; "
            "policy.sequence_parallel shares that many tokens among several ranks."
        )


def _optimizer(stage: Stage) -> Sentences:
    table = stage.optimizer
    if table.minibatches > stage.prompts.per_step:
        yield (
            f"optimizer.minibatches: {table.minibatches} parts of prompts.per_step = "
            f"{stage.prompts.per_step} groups cannot all have one; lower it."
        )
    if table.warmup_steps > table.steps:
        yield f"optimizer.warmup_steps: {table.warmup_steps} exceeds optimizer.steps = {table.steps}."
    if table.schedule == "constant" and table.final_lr_fraction:
        yield (
            f"optimizer.final_lr_fraction: has no effect with optimizer.schedule = 'constant', "
            f"got {table.final_lr_fraction:g}; use 'linear' or 'cosine', or remove it."
        )


def _policy(stage: Stage) -> Sentences:
    table = stage.policy
    if table.ranks % table.sequence_parallel:
        yield (
            f"policy.sequence_parallel: expected a divisor of policy.ranks = {table.ranks}, as every rank "
            f"shares its tokens with equally many others, got {table.sequence_parallel}."
        )
    if table.offload != "none" and table.zero_stage == 0:
        yield f"policy.offload: '{table.offload}' needs policy.zero_stage 1, 2 or 3, got 0."
    if table.offload == "nvme" and table.zero_stage != 3:
        yield (
            f"policy.offload: 'nvme' needs policy.zero_stage 3 in DeepSpeed, got {table.zero_stage}; "
            "use 'cpu' or 3."
        )
    if table.offload == "nvme" and table.nvme_folder is None:
        yield (
            "policy.nvme_folder: this key is missing; policy.offload = 'nvme' needs a folder on an NVMe disk."
        )
    if table.offload == "nvme" and stage.checkpoints.every_steps:
        yield (
            "checkpoints.every_steps: DeepSpeed cannot restore a checkpoint with policy.offload = 'nvme', "
            f"got {stage.checkpoints.every_steps}; use 'cpu', or remove the key and run the stage in one go."
        )
    if table.offload != "nvme" and table.nvme_folder is not None:
        yield (
            f"policy.nvme_folder: has no effect with policy.offload = '{table.offload}'; "
            "use 'nvme', or remove it."
        )


def _engines(stage: Stage) -> Sentences:
    table = stage.engines
    if table.kind == "vllm":
        yield from _temperatures(stage)
    if table.tensor_parallel > 1 and (table.kind == "torch" or stage.cluster.device == "cpu"):
        why = "engines.kind = 'torch'" if table.kind == "torch" else "cluster.device = 'cpu'"
        yield (
            f"engines.tensor_parallel: expected 1 with {why}, got {table.tensor_parallel}; "
            "more needs vLLM on GPUs."
        )
    if table.kind == "torch" and stage.rollouts.stop:
        got = as_toml(list(stage.rollouts.stop))
        yield f"rollouts.stop: engines.kind = 'torch' looks for no text, got {got}; use 'vllm', or remove it."
    if table.update == "abort" and stage.rollouts.stop:
        yield (
            "engines.update: 'abort' would miss a text of rollouts.stop that spans two requests; "
            "use 'keep' or 'drain'."
        )


def _temperatures(stage: Stage) -> Sentences:
    """Problems of temperatures that vLLM would raise silently, or refuse at the first prompt."""
    least, most = VLLM_TEMPERATURES
    sampled, evaluated = stage.rollouts.temperature, stage.evaluation.temperature
    if not least <= sampled <= most:
        yield f"rollouts.temperature: vLLM samples at {least} to {most}, got {as_toml(sampled)}."
    if evaluated and not least <= evaluated <= most:
        yield f"evaluation.temperature: vLLM samples at {least} to {most}, or 0, got {as_toml(evaluated)}."


def _weights(stage: Stage) -> Sentences:
    table = stage.weights
    if table.transport == "folder" and table.folder is None:
        yield (
            "weights.folder: this key is missing; weights.transport = 'folder' needs one that all "
            "machines share."
        )
    if table.transport in ("memory", "broadcast") and table.folder is not None:
        yield (
            f"weights.folder: has no effect with weights.transport = '{table.transport}'; "
            "use 'folder', or remove it."
        )
    if table.delta is True and stage.model.lora is not None:
        yield "weights.delta: has no effect with model.lora, whose adapters travel alone; remove it."


def _evaluation(stage: Stage) -> Sentences:
    table = stage.evaluation
    if table.every_steps and not table.sources:
        yield f"evaluation.every_steps: {table.every_steps} has no effect without [[evaluation.sources]]."
    for k in table.k:
        if k > table.per_prompt:
            yield (
                f"evaluation.k: pass@{k} needs evaluation.per_prompt of at least {k}, got {table.per_prompt}."
            )
    if table.temperature == 0 and table.per_prompt > 1:
        yield (
            f"evaluation.temperature: at 0 all {table.per_prompt} responses to a prompt are equal; "
            f"use a temperature above 0, or evaluation.per_prompt = 1."
        )
    if table.sources and not stage.rewards:
        yield (
            "evaluation.sources: a reward must decide what is correct, and there is none; "
            "add [rewards.<name>]."
        )
    elif table.reward is not None and table.reward not in stage.rewards:
        yield (
            f"evaluation.reward: no reward named {shown(table.reward)}."
            f"{did_you_mean(table.reward, stage.rewards)}"
        )
    rows = sum(source.rows or math.inf for source in table.sources)
    if table.sources and table.prompts is not None and table.prompts > rows:
        yield f"evaluation.prompts: {table.prompts} is more than the {rows} rows of evaluation.sources."


def _shared(stage: Stage) -> Sentences:
    engines, ranks = stage.engines, stage.policy.ranks
    if engines.max_lag:
        yield (
            "engines.max_lag: expected 0 with cluster.placement = 'shared', where the engines sleep while "
            f"the policy trains, got {engines.max_lag}; remove it."
        )
    if engines.count * engines.tensor_parallel != ranks:
        yield (
            "policy.ranks: expected engines.count x engines.tensor_parallel = "
            f"{engines.count} x {engines.tensor_parallel} with cluster.placement = 'shared', where both "
            f"take turns on the same devices, got {ranks}."
        )
    if stage.weights.transport == "broadcast":
        yield (
            "weights.transport: 'broadcast' needs engines and ranks at work at once, and with "
            "cluster.placement = 'shared' they take turns; use 'memory'."
        )


def _cluster(stage: Stage) -> Sentences:
    if not ADDRESS.fullmatch(stage.cluster.address):
        yield f"cluster.address: expected 'local', 'auto' or 'host:port', got {shown(stage.cluster.address)}."
    if stage.cluster.placement == "shared":
        yield from _shared(stage)
    for name in stage.cluster.environment:
        if not VARIABLE.fullmatch(name):
            yield f"cluster.environment: {shown(name)} is not a name for an environment variable."
