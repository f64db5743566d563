"""Memory of a rank and of an engine, by hand-worked numbers and against what torch keeps."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from llmrl.footprint import CUDA_RESIDUE
from llmrl.plan.architecture import architecture_of
from llmrl.plan.hardware import Machines, find_machines
from llmrl.plan.memory import engine_needs, kv_cache, rank_needs, slots
from llmrl.plan.placement import Placement
from llmrl.plan.workload import Workload

GB = 1e9


@pytest.fixture
def machines() -> Machines:
    return find_machines("8xH100", nodes=1, default=1)


@pytest.mark.parametrize(
    ("stage", "per_parameter"),
    # Weights, gradients (float32 from ZeRO 2 on), 12 bytes of master weight and moments; divided by 4 ranks
    # where sharded.
    [(0, 2 + 2 + 12), (1, 2 + 2 + 12 / 4), (2, 2 + (4 + 12) / 4), (3, (2 + 4 + 12) / 4)],
)
def test_zero_divides_more_with_every_stage(
    stage: int, per_parameter: float, work: Workload, place: Placement, machines: Machines
) -> None:
    needs = rank_needs(work, replace(place, zero_stage=stage), machines)

    states = sum(needs.parts[name].value for name in ("weights", "gradients", "optimizer"))
    assert states == pytest.approx(per_parameter * work.architecture.parameters)


def test_in_float32_a_sharded_optimizer_keeps_a_copy_of_the_weights(
    work: Workload, place: Placement, machines: Machines
) -> None:
    single = replace(work, dtype="float32")
    plain = rank_needs(single, replace(place, zero_stage=0), machines).parts["optimizer"].value
    sharded = rank_needs(single, replace(place, zero_stage=1, ranks=1), machines).parts["optimizer"].value

    assert plain == 8 * work.architecture.parameters
    assert sharded == 12 * work.architecture.parameters


def test_an_update_without_zero_copies_all_gradients_to_float32(
    work: Workload, place: Placement, machines: Machines
) -> None:
    alone = replace(place, zero_stage=0, ranks=1, tokens_per_microbatch=64)
    half, single = (
        rank_needs(replace(work, dtype=dtype), alone, machines).parts for dtype in ("bfloat16", "float32")
    )

    assert half["float32 gradients"].value == 4 * work.architecture.parameters
    assert "float32 gradients" not in single


def test_adapters_need_states_and_the_frozen_rest_needs_none(
    work: Workload, place: Placement, machines: Machines
) -> None:
    parts = rank_needs(replace(work, adapters=10_000_000), replace(place, ranks=1), machines).parts

    assert parts["gradients"].value == 2 * 10_000_000
    assert parts["optimizer"].value == 12 * 10_000_000
    assert parts["weights"].value == 2 * work.architecture.parameters


def test_offloading_moves_states_to_the_host_and_with_zero_3_the_weights_too(
    work: Workload, place: Placement, machines: Machines
) -> None:
    states = rank_needs(work, replace(place, offload="cpu", zero_stage=2), machines).parts
    everything = rank_needs(work, replace(place, offload="cpu", zero_stage=3), machines).parts

    assert "optimizer" not in states
    assert {"weights", "gradients"} <= states.keys()
    assert not {"weights", "gradients", "optimizer"} & everything.keys()


def test_without_a_gpu_only_a_disk_takes_something_out_of_the_memory(
    work: Workload, place: Placement
) -> None:
    cores = find_machines("cpu", nodes=1, default=8)
    here, host, disk = (
        rank_needs(work, replace(place, offload=offload, zero_stage=3), cores).parts
        for offload in ("none", "cpu", "nvme")
    )

    assert host == here
    assert disk == {name: part for name, part in here.items() if name != "optimizer"}


@pytest.mark.parametrize(("adapters", "layers"), [(0, 2), (10_000_000, 0)])
def test_zero_3_makes_a_layer_and_its_gradients_whole_at_once(
    adapters: int, layers: int, work: Workload, place: Placement, machines: Machines
) -> None:
    sharded = replace(place, zero_stage=3, bucket_mib=1)
    wide = replace(work.architecture, vocabulary=1000)

    parts = rank_needs(replace(work, architecture=wide, adapters=adapters), sharded, machines).parts
    alone = rank_needs(work, replace(sharded, ranks=1), machines).parts

    # Of Qwen2.5 7B: four projections with three biases, an MLP, two norms.
    layer = 2 * 3584 * 128 * (28 + 4) + 128 * (28 + 2 * 4) + 3 * 3584 * 18944 + 2 * 3584
    assert parts["gathered"].value == max(layers * 2 * layer, 2 * 1000 * 3584)
    assert "gathered" not in alone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "qwen3", "qwen3_moe"])
def test_activations_are_what_autograd_keeps(
    kind: str, dtype: str, work: Workload, place: Placement, machines: Machines
) -> None:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 192,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "vocab_size": 100,
    }
    if kind == "qwen3_moe":
        sizes |= {"num_experts": 8, "num_experts_per_tok": 4, "moe_intermediate_size": 96}
    shape = architecture_of({"model_type": kind, **sizes}, where="here")

    planned = rank_needs(
        replace(work, architecture=shape, dtype=dtype), replace(place, tokens_per_microbatch=128), machines
    )

    assert planned.parts["activations"].value == pytest.approx(kept(kind, sizes, dtype, tokens=128), rel=0.05)


def kept(kind: str, sizes: dict[str, int], dtype: str, *, tokens: int) -> float:
    """Bytes of all tensors that the layers save for their backward pass, each memory once."""
    config = cast("Any", CONFIG_MAPPING[kind])(**sizes, pad_token_id=0)
    model: Any = (
        cast("Any", AutoModelForCausalLM)
        .from_config(config, attn_implementation="sdpa", dtype=getattr(torch, dtype))
        .base_model
    )
    own = {p.untyped_storage().data_ptr() for p in [*model.parameters(), *model.buffers()]}
    alive: list[torch.Tensor] = []

    def save(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(save, lambda tensor: tensor):
        out = model(input_ids=torch.zeros(1, tokens, dtype=torch.int64), use_cache=False)
    assert out.last_hidden_state.requires_grad
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in alive}
    return sum(size for at, size in storages.items() if at not in own)


def test_recomputing_keeps_the_input_of_each_layer_and_one_layer(
    work: Workload, place: Placement, machines: Machines
) -> None:
    whole = rank_needs(work, place, machines).parts["activations"].value
    less = rank_needs(work, replace(place, recomputes=True), machines).parts["activations"].value

    inputs = 8192 * 28 * 2 * 3584
    assert less == pytest.approx(inputs + whole / 28)


def test_ranks_that_share_sequences_share_their_activations(
    work: Workload, place: Placement, machines: Machines
) -> None:
    alone = rank_needs(work, place, machines).parts
    shared = rank_needs(work, replace(place, ranks=8, sequence_parallel=4), machines).parts

    assert shared["activations"].value == alone["activations"].value / 4


def test_what_an_engine_leaves_becomes_cache_and_limits_how_many_are_generated(
    work: Workload, place: Placement, machines: Machines
) -> None:
    needs = engine_needs(work, place, machines, context=2000)
    cache = kv_cache(needs)
    held = slots(cache, work, replace(place, max_sequences=10_000))

    left = 0.9 * 85 * GB - needs.parts["weights"].value - needs.parts["workspace"].value
    assert cache.value == pytest.approx(left)
    # Responses of 500 tokens are 250 long on average while they are made, after a prompt of 100.
    assert held.value == pytest.approx(left / 57_344 / (100 + 250))
    assert slots(cache, work, place).value == 256


def test_a_cache_of_a_size_of_its_own_takes_that_much_of_each_gpu_and_looks_at_no_share(
    work: Workload, place: Placement, machines: Machines
) -> None:
    said = replace(place, kv_cache_mib=40_000, tensor_parallel=2)
    free, fixed = (engine_needs(work, made, machines, context=2000) for made in (place, said))
    small = engine_needs(work, place, find_machines("cpu", nodes=1, default=8), context=2000)

    assert (free.limit, fixed.limit) == (0.9 * 85 * GB, 85 * GB - CUDA_RESIDUE)
    assert kv_cache(fixed).value == fixed.parts["KV cache"].value == 40_000 * 2**20
    assert fixed.fits
    assert not engine_needs(work, replace(said, kv_cache_mib=76_000), machines, context=2000).fits
    assert small.parts["KV cache"].value == 256 * 2**20


def test_on_cpu_deepspeed_reduces_few_gradients_at_once(
    work: Workload, place: Placement, machines: Machines
) -> None:
    sharded = replace(place, zero_stage=2)
    cpu = find_machines("cpu", nodes=1, default=8)

    assert rank_needs(work, sharded, machines).parts["buckets"].value == 2 * 500e6
    assert rank_needs(work, sharded, cpu).parts["buckets"].value == 2 * 4e6


def test_an_engine_of_many_responses_has_a_token_of_each_in_a_forward_pass(
    work: Workload, place: Placement, machines: Machines
) -> None:
    few, many = (
        engine_needs(work, replace(place, max_sequences=most), machines, context=2000).parts["workspace"]
        for most in (256, 20_000)
    )

    assert (few.inputs["tokens"], many.inputs["tokens"]) == (8192, 20_001)


def test_an_opponents_caches_are_beside_what_vllm_may_take(
    work: Workload, place: Placement, machines: Machines
) -> None:
    opposed = replace(work, opponent_width=2, generated=work.samples + 128)
    few, many = (
        engine_needs(opposed, replace(place, max_sequences=most, gpu_share=0.98), machines, context=4000)
        for most in (16, 256)
    )

    # 128 opponents a step, those of two steps under way, on four engines: 64 on each.
    longest = (work.prompt_tokens + work.longest) * 57_344
    taken = {needs.parts["opponent's caches"].value / longest: needs.limit for needs in (few, many)}
    assert taken == {16: 0.98 * 85 * GB + 16 * longest, 64: 85 * GB - CUDA_RESIDUE}


def test_the_reference_of_an_opponent_stays_where_its_engine_sleeps(
    work: Workload, place: Placement, machines: Machines
) -> None:
    shared = replace(place, shared=True)
    alone, opposed = (
        rank_needs(replace(work, opponent_width=width), shared, machines).parts["sleeping engine"].value
        for width in (0, 2)
    )

    assert opposed - alone == work.width * work.architecture.parameters
    assert "sleeping engine" not in rank_needs(work, place, machines).parts
    torch_engine = rank_needs(replace(work, opponent_width=2), replace(shared, engine="torch"), machines)
    assert torch_engine.parts["sleeping engine"].value == CUDA_RESIDUE  # it waits on the host


def test_a_moving_average_is_a_model_in_float32_with_caches_of_its_own(
    work: Workload, place: Placement, machines: Machines
) -> None:
    frozen, average = (
        engine_needs(
            replace(work, opponent_width=width, generated=2 * work.samples), place, machines, context=600
        ).parts
        for width in (2, 4)
    )

    assert average["opponent"].value == 4 * work.architecture.parameters
    assert average["opponent's caches"].value == 2 * frozen["opponent's caches"].value


def test_a_key_value_head_is_never_cut_in_two(work: Workload, place: Placement, machines: Machines) -> None:
    four, eight = (
        engine_needs(work, replace(place, tensor_parallel=width), machines, context=2000) for width in (4, 8)
    )

    # Qwen2.5 7B has four of them.
    assert four.parts["one response"].value == eight.parts["one response"].value == 2000 * 57_344 / 4


@pytest.mark.parametrize(
    ("stage", "dtype", "per_parameter"),
    [(1, "bfloat16", 2 + 2 + 4), (1, "float32", 4 + 4), (2, "float32", 4 + 4)],
)
def test_an_update_copies_the_gradients_twice_and_may_need_more_than_the_backward_pass(
    stage: int, dtype: str, per_parameter: int, work: Workload, place: Placement, machines: Machines
) -> None:
    short = replace(place, zero_stage=stage, ranks=1, tokens_per_microbatch=128, recomputes=True)
    parts = rank_needs(replace(work, dtype=dtype), short, machines).parts
    offloaded = rank_needs(replace(work, dtype=dtype), replace(short, offload="cpu"), machines).parts

    states = {"weights", "optimizer"}
    update = sum(part.value for name, part in parts.items() if name not in states)
    assert update == pytest.approx(per_parameter * work.architecture.parameters)
    assert "activations" not in parts
    assert "activations" in offloaded


def test_float32_attention_on_a_gpu_has_keys_and_values_for_every_head(
    work: Workload, place: Placement, machines: Machines
) -> None:
    exact, cores = replace(work, dtype="float32"), find_machines("cpu", nodes=1, default=8)
    gpu, cpu = (rank_needs(exact, place, where).parts["activations"].value for where in (machines, cores))

    # Of Qwen2.5 7B: 24 of 28 heads have no key and value of their own.
    assert gpu - cpu == 8192 * 28 * 4 * 2 * 24 * 128


def test_a_rank_keeps_the_weights_for_an_engine_beside_it_unless_they_are_to_pass_the_host(
    work: Workload, place: Placement, machines: Machines
) -> None:
    beside = replace(place, engines=1, tensor_parallel=1, ranks=1, shared=True)
    host = rank_needs(work, replace(beside, may_stay=False), machines).parts

    assert rank_needs(work, beside, machines).parts["copies for engines"].value == (
        2 * work.architecture.parameters
    )
    assert "copies for engines" not in host
