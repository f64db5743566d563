"""Whether a run can go on from a checkpoint: the same data, and the same deciding tables of the recipe."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from pydantic.main import IncEx

from llmrl.errors import CheckpointError, shown
from llmrl.recipe.schema import Stage
from llmrl.recipe.tables import Tree, leaves
from llmrl.run.checkpoint import Checkpoint

MAY_CHANGE: IncEx = {
    **dict.fromkeys(("scoring", "weights", "checkpoints", "cluster", "report"), True),
    "model": {"gradient_checkpointing"},
    "engines": {
        "count",
        "tensor_parallel",
        "max_sequences",
        "kv_cache_mib",
        "gpu_memory_utilization",
        "eager",
    },
    "roles": {"__all__": {"count", "tensor_parallel"}},
    "policy": {"tokens_per_microbatch"},
    "optimizer": {"max_bad_steps"},
}
"""Keys that decide where or how fast a stage is computed or when it is given up: no result but its rounding.

Only ``tokens_per_microbatch`` decides more, where it is small: which rows of a dataset offline stages leave
out, and how many tokens a conversation with a rewritten past may take.
"""

STEPS, SCHEDULE = ("optimizer", "steps"), ("optimizer", "schedule")
"""Keys for where a stage ends, and for what may depend on that."""


def deciding(stage: Stage) -> Tree:
    """The tables of a stage without the keys that may change."""
    return stage.model_dump(mode="json", exclude=MAY_CHANGE)


def check_same_run(checkpoint: Checkpoint, *, data: str, tables: Tree, online: bool, last: bool) -> None:
    """Refuse to go on with another algorithm or other data than the checkpoint's.

    The last stage may get another end, if no step taken depends on the end and none is undone; any stage may
    end at the checkpoint itself.

    Args:
        data: fingerprint of the prompts.
        tables: the tables that decide what is computed.
        online: whether responses are generated to train on, or else a micro-batch must hold the dataset's.
        last: whether no other stage has gone on from this one's model.

    Raises:
        CheckpointError: data or tables differ; the message has the first differing key and both values.
    """
    before, now = dict(leaves(_as_now(checkpoint))), dict(leaves(tables))
    ends_here = now[STEPS] == checkpoint.state.step
    if now[SCHEDULE] == "constant" and (last or ends_here):
        _check_end(checkpoint, now[STEPS])
        before[STEPS] = now[STEPS]
    for keys in now | before:
        if now.get(keys) != before.get(keys):
            raise CheckpointError(
                f"{'.'.join(keys)}: {shown(now.get(keys))} in the recipe, but {checkpoint.path} was made "
                f"with {shown(before.get(keys))}; restore it, rename the run (run.name), or use --fresh."
            )
    if checkpoint.state.data != data:
        rows = "" if online else " or policy.tokens_per_microbatch, which leaves out longer rows"
        raise CheckpointError(
            f"the prompts differ from those of {checkpoint.path}; restore the dataset{rows}, or use --fresh."
        )


def _check_end(checkpoint: Checkpoint, steps: Any) -> None:
    taken = checkpoint.state.step
    if steps < taken:
        raise CheckpointError(
            f"optimizer.steps: {steps} in the recipe, but {checkpoint.path} has taken {taken}; "
            "give at least that many, rename the run (run.name), or use --fresh."
        )


def _as_now(checkpoint: Checkpoint) -> Tree:
    """The checkpoint's tables as this version has them: keys of newer versions get their defaults."""
    own = dict(checkpoint.state.tables)
    run = own.pop("run")
    try:
        stage = Stage.model_validate(own)
    except ValidationError as error:
        key = ".".join(map(str, error.errors()[0]["loc"]))
        raise CheckpointError(
            f"{key}: {checkpoint.path} is of another version of llmrl, where this key had another meaning; "
            "go on with that version, rename the run (run.name), or use --fresh."
        ) from error
    return {"run": run, **deciding(stage)}
