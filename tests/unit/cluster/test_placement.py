"""What cannot fit is refused with a table before anything starts."""

from __future__ import annotations

import pytest

from llmrl.cluster.placement import Need, check_fit, needs
from llmrl.errors import PlacementError
from llmrl.recipe.schema import Choice, Cluster, Engines, Optimizer, Policy, Prompts, Role, Source, Stage


def stage(**tables: object) -> Stage:
    return Stage(
        prompts=Prompts(sources=(Source(task="digit_sum"),)),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
        **tables,  # type: ignore[arg-type]
    )


def test_each_process_is_one_need() -> None:
    listed = needs(
        stage(engines=Engines(count=2, tensor_parallel=4), policy=Policy(ranks=2)),
        device="cuda",
        engines=True,
    )

    assert [n.name for n in listed] == ["engine-0", "engine-1", "policy-0", "policy-1"]
    assert [n.resources["GPU"] for n in listed] == [4, 4, 1, 1]


def test_on_cpu_nothing_asks_for_a_gpu_and_offline_stages_have_no_engines() -> None:
    listed = needs(stage(policy=Policy(ranks=2)), device="cpu", engines=False)

    assert [n.name for n in listed] == ["policy-0", "policy-1"]
    assert all("GPU" not in n.resources for n in listed)


def test_a_tensor_parallel_engine_must_fit_on_one_node() -> None:
    listed = [Need(kind="engine", number=0, resources={"CPU": 1.0, "GPU": 8.0}, bundle=0)]

    check_fit(listed, {"a": {"CPU": 8.0, "GPU": 8.0}})
    with pytest.raises(PlacementError, match="cannot hold 1 of 1 processes") as caught:
        check_fit(listed, {"a": {"CPU": 8.0, "GPU": 4.0}, "b": {"CPU": 8.0, "GPU": 4.0}})
    assert "engine-0                     1 CPU, 8 GPU   <- missing" in str(caught.value)


def test_large_processes_are_placed_before_small_ones_fill_the_nodes() -> None:
    small = [Need(kind="policy", number=i, resources={"GPU": 1.0}, bundle=i) for i in range(4)]
    large = Need(kind="engine", number=0, resources={"GPU": 4.0}, bundle=4)

    check_fit([*small, large], {"a": {"GPU": 4.0}, "b": {"GPU": 4.0}})


def test_shared_devices_are_the_ranks_and_each_engine_is_beside_its_own() -> None:
    shared = stage(
        cluster=Cluster(placement="shared"),
        engines=Engines(count=2, tensor_parallel=2),
        policy=Policy(ranks=4),
        roles={"judge": Role(path="m", kind="generate", count=2)},
    )

    listed = needs(shared, device="cuda", engines=True)

    assert [(n.name, n.resources.get("GPU", 0), n.bundle) for n in listed] == [
        ("engine-0", 0, 0),
        ("engine-1", 0, 1),
        ("policy-0", 1, 0),
        ("policy-1", 1, 0),
        ("policy-2", 1, 1),
        ("policy-3", 1, 1),
        ("judge-0", 1, 2),
        ("judge-1", 1, 3),
    ]
    check_fit(listed, {"a": {"CPU": 8.0, "GPU": 4.0}, "b": {"CPU": 8.0, "GPU": 2.0}})
    with pytest.raises(PlacementError, match="cannot hold 3 of 8 processes") as caught:
        check_fit(listed, {"a": {"CPU": 8.0, "GPU": 3.0}, "b": {"CPU": 8.0, "GPU": 1.0}})
    assert "engine-1                     0.5 CPU   <- missing" in str(caught.value)
