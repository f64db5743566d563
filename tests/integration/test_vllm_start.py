"""What vLLM is told before it starts, where a machine without GPUs would start it either way; and its end."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import psutil
import pytest

from llmrl.footprint import BATCHED_TOKENS
from llmrl.recipe.schema import (
    NOBODY,
    Choice,
    Cluster,
    Engines,
    Model,
    Opponent,
    Optimizer,
    Prompts,
    Role,
    Source,
    Stage,
)
from llmrl.roles.kinds import Generate
from llmrl.rollouts.engines import Engine, Serving, engine
from llmrl.rollouts.engines.kinds import _environment
from llmrl.rollouts.engines.vllm_engine import _arguments

OWNER = Path(__file__).with_name("vllm_owner.py")


def is_running(process: psutil.Process) -> bool:
    """Neither gone nor a zombie that nobody has asked for."""
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def serving_of(folder: Path, *, tensor_parallel: int = 1, opponent: Opponent = NOBODY) -> Serving:
    return Serving(
        model=Model(path=str(folder), context_tokens=256),
        engines=Engines(kind="vllm", tensor_parallel=tensor_parallel, max_sequences=16, kv_cache_mib=64),
        opponent=opponent,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Starts nothing, and keeps what it is told."""

    heard: ClassVar[list[Serving]] = []

    async def start(self, serving: Serving, *, device: str) -> Engine:
        self.heard.append(serving)
        nobody: Any = None
        return nobody


@pytest.mark.parametrize(("width", "backend"), [(1, "uni"), (2, "mp")])
def test_an_engine_starts_its_workers_itself_and_asks_ray_for_none(
    tiny_model: Path, width: int, backend: str
) -> None:
    told = _arguments(serving_of(tiny_model, tensor_parallel=width), "cuda", {})

    assert told.distributed_executor_backend == backend


@pytest.mark.parametrize(("device", "sequences"), [("cuda", 16), ("cuda", 9000), ("cpu", 16), ("cpu", 9000)])
def test_a_forward_pass_has_room_for_what_the_plan_says_and_a_token_of_each_response_and_of_what_is_scored(
    tiny_model: Path, device: Literal["cpu", "cuda"], sequences: int
) -> None:
    serving = serving_of(tiny_model)
    many = serving.engines.model_copy(update={"max_sequences": sequences})

    told = _arguments(replace(serving, engines=many), device, {})

    assert told.max_num_batched_tokens == max(BATCHED_TOKENS[device], sequences + 1)


@pytest.mark.parametrize(
    ("device", "takes_turns", "sleeps"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_vllm_can_sleep_on_gpus_that_the_policy_has_in_turn_and_only_there(
    tiny_model: Path, device: str, takes_turns: bool, sleeps: bool
) -> None:
    told = _arguments(replace(serving_of(tiny_model), takes_turns=takes_turns), device, {})

    assert told.enable_sleep_mode is sleeps


async def test_a_role_has_its_gpu_for_itself_also_where_engine_and_policy_share_one(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(engine._classes, "listening", Listening)
    stage = Stage(
        model=Model(path=str(tiny_model), context_tokens=256),
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        roles={"judge": Role(path=str(tiny_model), kind="generate", context_tokens=64)},
        cluster=Cluster(placement="shared"),
    )
    assert stage.shares_one_device

    await Generate(engine="listening", gpu_memory_utilization=0.9).start(stage, "judge", device="cuda")
    told = _arguments(Listening.heard.pop(), "cuda", {"larger than any GPU": (10**12,)})

    assert told.max_model_len == 64
    assert not told.enable_sleep_mode
    assert told.gpu_memory_utilization == 0.9


def test_an_engine_reads_a_model_as_the_policy_does_where_mistrals_own_format_lies_beside(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "params.json").write_text("{}")
    (folder / "consolidated.safetensors").touch()

    told = _arguments(serving_of(folder), "cpu", {})

    assert told.create_model_config().hf_config.model_type == "qwen3"
    assert (told.load_format, told.tokenizer_mode) == ("hf", "hf")


@pytest.mark.parametrize(("kind", "runner"), [("none", None), ("reference", "0"), ("mixture", "0")], ids=str)
def test_only_an_opponent_keeps_vllm_on_its_first_model_runner(
    tiny_model: Path, kind: Literal["none", "reference", "mixture"], runner: str | None
) -> None:
    serving = serving_of(tiny_model, opponent=Opponent(kind=kind))

    assert _environment(serving, "cuda").get("VLLM_USE_V2_MODEL_RUNNER") == runner


def test_the_processes_of_an_engine_end_with_an_owner_that_is_killed(tiny_model: Path) -> None:
    owners: dict[int, subprocess.Popen[str]] = {}
    with ExitStack() as living:
        for width in (1, 2):
            command = [sys.executable, str(OWNER), str(tiny_model), f"{width}"]
            owners[width] = living.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
            living.callback(owners[width].kill)  # when all have started
        assert [owner.stdout and owner.stdout.readline() for owner in owners.values()] == ["started\n"] * 2
        families = {
            width: psutil.Process(owner.pid).children(recursive=True) for width, owner in owners.items()
        }

    for width, family in families.items():
        # vLLM's process, and its workers where there are several.
        assert len(family) >= (1 if width == 1 else 1 + width)
        until = time.monotonic() + 30
        while any(map(is_running, family)) and time.monotonic() < until:
            time.sleep(0.1)
        assert not any(map(is_running, family))
