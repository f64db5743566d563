"""The whole plan of a recipe: what it assumes, advises and refuses."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from io import StringIO
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console

from llmrl.errors import DataError, PlacementError, RecipeError
from llmrl.plan.figure import Figure
from llmrl.plan.plan import Assumptions, Plan, make_plan
from llmrl.plan.show import figures, plan_json, show_plan
from llmrl.plan.split import best_shared
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import load_recipe

from .conftest import QWEN

ROOT = Path(__file__).resolve().parents[3]
LARGE = ROOT / "recipes" / "gsm8k" / "qwen2.5-7b.toml"
"""For eight GPUs, and a model that is not here."""
SHIPPED = [
    path
    for path in sorted((ROOT / "recipes").rglob("*.toml"))
    if "plugins = [" not in path.read_text("utf-8") and path != LARGE
]
"""Those with plugins register names that other tests do not expect."""

RECIPE = """
[model]
path = "{model}"
dtype = "bfloat16"
context_tokens = 4608
gradient_checkpointing = true

[prompts]
sources = [{{ task = "digit_sum", rows = 5000 }}]
per_step = 128
max_tokens = 512

[rollouts]
per_prompt = 16
max_tokens = 4096

[engines]
count = 4

[rewards.answer]
kind = "number"

[objective]
name = "grpo"

[optimizer]
steps = 100

[policy]
ranks = 4
zero_stage = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", **QWEN["7B"]}))
    path = tmp_path / "seven.toml"
    path.write_text(RECIPE.format(model=tmp_path))
    return path


OPPOSED = [
    'opponent={ kind = "reference" }',
    'rewards.answer={ kind = "versus", options = { kind = "number" } }',
]
"""Overrides."""


def planned(path: Path, *overrides: str, gpus: str = "8xH100", **others: object) -> Plan:
    loaded = load_recipe(path, list(overrides))
    check_recipe(loaded)
    (plan,) = make_plan(loaded.recipe, Assumptions(gpus=gpus, **others))  # pyright: ignore[reportArgumentType]
    return plan


def said(plan: Plan, *, explain: bool = False, dollars: float | None = None) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(show_plan([plan], explain=explain, dollars_per_hour=dollars))
    return console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_every_shipped_recipe_is_planned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_recipe(path).recipe

    plans = make_plan(recipe, Assumptions())

    assert [plan.stage for plan in plans] == [stage.name for stage in recipe.stages]
    assert all(0 < plan.recipe.step_s < 60 for plan in plans)


@pytest.mark.parametrize(
    ("nodes", "overrides"),
    [(1, []), (4, ["engines.count=16", "policy.ranks=16", "prompts.per_step=256"])],
)
def test_the_large_recipe_fits_the_machines_that_it_is_for(
    nodes: int, overrides: list[str], tmp_path: Path
) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"model_type": "qwen2", **QWEN["7B"]}))

    plan = planned(LARGE, *overrides, nodes=nodes, config=config)

    assert plan.recipe.placement.devices == 8 * nodes
    assert plan.recipe.placed
    assert 25 < plan.recipe.step_s < 70
    rank = next(needs for needs in plan.recipe.needs if needs.role == "rank")
    assert rank.total < 48e9


def test_a_stage_that_generates_nothing_has_no_engines(tmp_path: Path) -> None:
    text = RECIPE.format(model=tmp_path).replace('"grpo"', '"sft"')
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2", **QWEN["1.5B"]}))
    path = tmp_path / "sft.toml"
    path.write_text(text)

    plan = planned(path, "policy.ranks=8")

    assert plan.recipe.placement.devices == 8
    assert [needs.role for needs in plan.recipe.needs] == ["rank"]
    with pytest.raises(PlacementError, match=r"^policy\.ranks = 9 = 9 GPUs, and --gpus says 8; lower policy"):
        planned(path, "policy.ranks=9")


def test_engines_that_only_evaluate_need_their_memory_and_heads_too(recipe: Path) -> None:
    sft = ["objective.name=sft", 'evaluation.sources=[{ task = "digit_sum", rows = 9, skip = 5000 }]']

    plan = planned(recipe, *sft)

    assert [needs.role for needs in plan.recipe.needs] == ["engine", "rank"]
    assert "KV cache" in said(plan)
    assert plan.recipe.sync.value == 0
    with pytest.raises(PlacementError, match=r"^engines\.tensor_parallel: 3 devices cannot share the 28"):
        planned(recipe, *sft, "engines.count=1", "engines.tensor_parallel=3")
    with pytest.raises(PlacementError, match=r"^an engine needs .*_utilization = 0\.95 would fit\.$"):
        planned(recipe, *sft, "engines.gpu_memory_utilization=0.1")


@pytest.mark.parametrize(
    ("overrides", "rows"),
    [
        (["objective.name=grpo"], 128 * 16),
        (["objective.name=grpo", *OPPOSED], 128 * 16),
        (["objective.name=online_dpo"], 128 * 2),  # the best and the worst
        (["objective.name=xpo", "rollouts.per_prompt=1"], 128 * (1 + 1)),  # and the opponent's
    ],
)
def test_only_what_is_in_a_pair_is_trained_on(overrides: list[str], rows: int, recipe: Path) -> None:
    work = planned(recipe, *overrides, "policy.tokens_per_microbatch=9216", gpus="8xH200").job.workload

    assert work.rows == rows
    assert work.tokens == pytest.approx(rows * (256 + 2048))


def test_the_workload_is_that_of_the_recipe(recipe: Path) -> None:
    work = planned(recipe).job.workload

    assert (work.samples, work.per_prompt, work.prompt_tokens) == (2048, 16, 256)
    assert work.lengths.mean == pytest.approx(2048)
    assert work.tokens == pytest.approx(2048 * (256 + 2048))
    assert work.train_flops == pytest.approx(4 * work.forward_flops)  # forward, backward, and forward again
    assert not work.scores_old


def test_several_updates_score_the_step_first_and_a_reference_scores_it_too(recipe: Path) -> None:
    two = planned(recipe, "optimizer.minibatches=2", "optimizer.epochs=2").job.workload
    kl = planned(recipe, "objective.options.kl_weight=0.01").job.workload

    assert (two.updates, two.scores_old, two.scores_reference) == (4, True, False)
    assert two.train_flops == pytest.approx(2 * 4 * two.forward_flops)
    assert kl.scores_reference


def test_an_objective_of_the_whole_step_scans_it_once_more_for_every_further_update(recipe: Path) -> None:
    work = planned(recipe, "objective.name=clip_cov", "optimizer.minibatches=4").job.workload

    assert work.scores_old
    assert work.scans == 3 / 4


@pytest.mark.parametrize("update", ["keep", "drain", "abort"])
def test_the_reasons_add_up_to_what_the_best_split_saves(update: str, recipe: Path) -> None:
    plan = planned(recipe, f"engines.update={update}")

    assert plan.best is not None
    assert plan.shared is not None
    saved = sum(reason.value for reason in plan.reasons.values())
    assert saved == pytest.approx(plan.shared.step_s - plan.best.step_s)
    assert list(plan.reasons) == ["tail", "scaling", "offload", "old pass", "precision"]
    assert (plan.reasons["tail"].value > 0) == (update != "drain")
    assert ("generation, with a sync" in figures(plan.recipe)) == (update != "keep")


def test_the_best_split_takes_all_devices_and_is_no_slower_than_the_recipe(recipe: Path) -> None:
    plan = planned(recipe)

    assert plan.best is not None
    assert plan.best.placement.devices == 8
    assert plan.best.fits
    assert plan.best.step_s <= plan.recipe.step_s * (1 + 1e-9)


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        (["weights.transport=broadcast", "policy.zero_stage=3"], "8xH100"),
        (["policy.sequence_parallel=4", "policy.ranks=4", "engines.count=2"], "6xH100"),
        (['engines.kind="torch"', "engines.count=2"], "6xH100"),
        ([*OPPOSED, 'opponent.kind="mixture"'], "8xH200"),
    ],
)
def test_whatever_is_advised_is_a_recipe_that_fits(overrides: list[str], gpus: str, recipe: Path) -> None:
    plan = planned(recipe, *overrides, gpus=gpus)

    for advised in (plan.best, plan.shared):
        assert advised is not None
        keys = [f"{key}={value}" for key, value in advised.placement.keys.items()]
        assert planned(recipe, *overrides, *keys, gpus=gpus).recipe.step_s == advised.step_s


def test_long_tails_favour_overlap_and_equal_lengths_do_not(recipe: Path) -> None:
    tailed, even = planned(recipe, mean=400.0, cv=1.2), planned(recipe, mean=400.0, cv=0.0)

    gains = [plan.shared.step_s / plan.best.step_s for plan in (tailed, even) if plan.shared and plan.best]
    assert gains[0] > gains[1]
    assert even.reasons["tail"].value == pytest.approx(0, abs=1e-6)


def test_a_rank_that_does_not_fit_is_refused_with_the_smallest_change(recipe: Path) -> None:
    with pytest.raises(PlacementError) as refused:
        planned(recipe, "policy.zero_stage=0")

    text = str(refused.value)
    assert text.startswith("a policy rank needs 1")
    assert " and may use 84.4 GB of one H100 (weights 15.2 GB, optimizer 91.4 GB, gradients 15.2 GB, " in text
    assert text.endswith("; policy.zero_stage = 1 would fit.")


def test_a_lower_stage_of_zero_is_a_cure_too(recipe: Path) -> None:
    # One rank has all gradients whatever the stage, and from 2 on they are in float32.
    alone = ["policy.ranks=1", "policy.tokens_per_microbatch=20000", "model.gradient_checkpointing=false"]
    config = recipe.parent / "small.json"
    config.write_text(json.dumps({"model_type": "qwen2", **QWEN["1.5B"]}))

    with pytest.raises(PlacementError, match=r"^a policy rank needs .*; policy\.zero_stage = 1 would fit\.$"):
        planned(recipe, *alone, config=config)


def test_more_gpus_are_no_cure_where_each_holds_a_whole_model(recipe: Path) -> None:
    config = recipe.parent / "large.json"
    config.write_text(json.dumps({"model_type": "qwen2", **QWEN["7B"], "num_hidden_layers": 140}))
    compared = ["objective.options.kl_weight=0.01", "engines.tensor_parallel=4", "policy.zero_stage=3"]

    with pytest.raises(PlacementError) as refused:
        planned(recipe, *compared, gpus="20xL40S", config=config)

    assert str(refused.value).endswith(
        "; more GPUs would not help, as each policy rank holds the whole reference; use larger ones."
    )


@pytest.mark.parametrize(
    ("one_gpu", "cure"),
    [
        (["engines.count=4"], r"engines\.tensor_parallel = 2 \(with engines\.count = 2\) would fit"),
        (['engines.kind="torch"'], "more GPUs would not help, as such an engine has one; use larger ones"),
        (OPPOSED, "more GPUs .* has one; lower engines.max_sequences, or use"),
    ],
)
def test_no_engine_is_widened_that_can_have_one_gpu_only(one_gpu: list[str], cure: str, recipe: Path) -> None:
    config = recipe.parent / "large.json"
    config.write_text(json.dumps({"model_type": "qwen2", **QWEN["7B"], "num_hidden_layers": 180}))
    adapted = ["model.lora.rank=8", "policy.zero_stage=3", "policy.tokens_per_microbatch=4608"]

    with pytest.raises(PlacementError, match=f"^an engine needs .*; {cure}"):
        planned(recipe, *adapted, *one_gpu, config=config)


def test_a_cache_that_does_not_fit_is_refused_with_a_cure(recipe: Path) -> None:
    with pytest.raises(
        PlacementError,
        match=r"^an engine needs .* may use 84.4 GB of one H100 .*KV cache 83.9 GB.*; the default of engines",
    ):
        planned(recipe, "engines.kv_cache_mib=80000")
    text = said(planned(recipe, "engines.kv_cache_mib=20000"))

    assert text.count("KV cache ") == 1 + text.count("KV cache a token")


def test_an_engine_that_does_not_fit_is_refused_with_a_cure(recipe: Path) -> None:
    small = ["engines.gpu_memory_utilization=0.3", "policy.ranks=60", "policy.tokens_per_microbatch=4608"]

    with pytest.raises(
        PlacementError, match=r"^an engine needs .* may use 14.3 GB of one L40S .* = 0.95 would fit"
    ):
        planned(recipe, *small, gpus="64xL40S")


def test_no_change_is_offered_that_pairs_would_not_fit_into(recipe: Path) -> None:
    whole_groups = "policy.tokens_per_microbatch=80000"  # 16 responses of the policy, and one to compare with
    job = planned(recipe, "objective.name=xpo", whole_groups, gpus="16xH200").job

    assert job.connected == 17 * job.context
    assert planned(recipe).job.connected == job.context


def test_more_processes_than_gpus_are_refused(recipe: Path) -> None:
    with pytest.raises(PlacementError) as refused:
        planned(recipe, "policy.ranks=8")

    assert str(refused.value) == (
        "engines.count x engines.tensor_parallel + policy.ranks = 4 x 1 + 8 = 12 GPUs, and --gpus says 8; "
        "lower one of them, share them with cluster.placement = 'shared', or add GPUs."
    )


SMALL = {"model_type": "qwen2", **QWEN["0.5B"], "num_hidden_layers": 1, "vocab_size": 100}
"""Fits beside itself into the memory of any machine."""


def test_cores_that_are_counted_are_a_limit_as_gpus_are(recipe: Path) -> None:
    config = recipe.parent / "small.json"
    config.write_text(json.dumps(SMALL))

    with pytest.raises(PlacementError) as refused:
        planned(recipe, gpus="2xcpu", config=config)

    assert str(refused.value) == (
        "engines.count x engines.tensor_parallel + policy.ranks = 4 x 1 + 4 = 8 CPU cores, and --gpus says "
        "2; lower one of them, share them with cluster.placement = 'shared', or add CPU cores."
    )
    assert planned(recipe, gpus="8xcpu", config=config).job.machines.devices == 8
    assert planned(recipe, gpus="cpu", config=config).job.machines.devices == 8


def test_fewer_devices_than_share_a_sequence_cannot_take_turns(recipe: Path) -> None:
    plan = planned(recipe, "policy.sequence_parallel=4")
    few = replace(plan.job, machines=replace(plan.job.machines, per_node=3))

    assert best_shared(few, plan.recipe.placement) is None


def test_one_gpu_is_enough_where_engines_and_ranks_take_turns(recipe: Path) -> None:
    one = ["engines.count=1", "policy.ranks=1", "policy.zero_stage=2", "model.lora.rank=16"]

    with pytest.raises(PlacementError, match=r"= 1 x 1 \+ 1 = 2 GPUs, and --gpus says 1; .* = 'shared'"):
        planned(recipe, *one, gpus="1xH100")
    plan = planned(recipe, *one, "cluster.placement=shared", gpus="1xH100")

    engine, rank = plan.recipe.needs
    assert rank.parts["sleeping engine"].value == 1.6e9  # CUDA graphs and a context
    assert engine.limit == 0.85 * 85e9
    # All that a rank keeps goes through the link to the host twice a step.
    kept = rank.parts["weights"].value + rank.parts["optimizer"].value
    assert plan.recipe.swap.value == pytest.approx(2 * kept / plan.job.rates.host)
    assert plan.recipe.pace.binds == "the sum of both"
    assert plan.recipe.placement.devices == 1


@pytest.mark.parametrize(
    ("overrides", "gpus", "nodes", "sentence"),
    [
        (
            ["engines.count=1", "engines.tensor_parallel=4", "policy.ranks=8"],
            "3xH100",
            4,
            "1 x 4 + 8 = 12 GPUs are there, but 3 on each node, and no engine or role goes over two nodes; "
            "lower engines.tensor_parallel, or use larger nodes.",
        ),
        (
            ["engines.count=1", "engines.tensor_parallel=7", "policy.ranks=5"],
            "4xH100",
            3,
            "engines.tensor_parallel: 7 devices cannot share the 28 attention heads of this model, "
            "which have 4 key heads; use one of 1, 2, 4, 28.",
        ),
        (
            ["policy.ranks=3", "policy.sequence_parallel=3"],
            "8xH100",
            1,
            "policy.sequence_parallel: 3 devices cannot share the 28 attention heads of this model, "
            "which have 4 key heads; use one of 1, 2, 4, 28.",
        ),
    ],
)
def test_what_no_node_or_no_head_can_hold_is_refused(
    overrides: list[str], gpus: str, nodes: int, sentence: str, recipe: Path
) -> None:
    with pytest.raises(PlacementError) as refused:
        planned(recipe, *overrides, gpus=gpus, nodes=nodes)

    assert str(refused.value).endswith(sentence)


def test_the_key_of_a_role_that_is_wider_than_a_node_is_named(recipe: Path) -> None:
    judge = 'roles.judge={ path = "judge", kind = "generate", tensor_parallel = 16 }'
    asks = 'rewards.judge={ kind = "judge", options = { role = "judge", template = "{response}" } }'
    loaded = load_recipe(recipe, ["engines.count=8", "policy.ranks=8", judge, asks])

    with pytest.raises(
        PlacementError, match=r"; lower roles\.judge\.tensor_parallel, or use larger nodes\.$"
    ):
        make_plan(loaded.recipe, Assumptions(gpus="8xH100", nodes=4))


def test_the_gpus_of_roles_are_not_dealt_out(recipe: Path) -> None:
    judge = 'roles.judge={ path = "judge", kind = "generate", count = 1, tensor_parallel = 2 }'
    asks = 'rewards.judge={ kind = "judge", options = { role = "judge", template = "{response}" } }'
    loaded = load_recipe(recipe, ["engines.count=2", "policy.ranks=4", judge, asks])

    (plan,) = make_plan(loaded.recipe, Assumptions(gpus="8xH100"))
    with pytest.raises(PlacementError, match=r"= 2 x 1 \+ 4 \+ 2 of roles = 8 GPUs, and --gpus says 4; "):
        make_plan(loaded.recipe, Assumptions(gpus="4xH100"))

    assert plan.best is not None
    place = plan.best.placement
    assert place.engines * place.tensor_parallel + place.ranks == 6


def test_a_role_that_nobody_asks_has_no_gpus(recipe: Path) -> None:
    judge = 'roles.judge={ path = "judge", kind = "generate", count = 1, tensor_parallel = 2 }'
    loaded = load_recipe(recipe, ["engines.count=2", "policy.ranks=4", judge])

    (plan,) = make_plan(loaded.recipe, Assumptions(gpus="8xH100"))

    assert plan.recipe.placement.devices == 6


def test_what_would_fit_is_what_the_recipe_may_say(recipe: Path) -> None:
    small = ["engines.count=1", "policy.ranks=1", "policy.zero_stage=0", "policy.tokens_per_microbatch=4608"]

    with pytest.raises(PlacementError) as refused:
        planned(recipe, *small, gpus="2xL40S")

    assert 'policy.offload = "cpu" and policy.zero_stage = 1 would fit' in str(refused.value)
    cured = planned(recipe, *small, "policy.zero_stage=1", 'policy.offload="cpu"', gpus="2xL40S")
    assert cured.recipe.placement.offload == "cpu"


def test_offload_is_tried_beside_every_stage_of_zero(recipe: Path) -> None:
    tight = ["policy.zero_stage=0", "model.gradient_checkpointing=true", "policy.tokens_per_microbatch=4608"]
    config = recipe.parent / "large.json"
    config.write_text(json.dumps({"model_type": "qwen2", **QWEN["7B"], "num_hidden_layers": 80}))

    with pytest.raises(
        PlacementError, match=r'policy\.zero_stage = [23] and .*policy\.offload = "cpu" would fit'
    ):
        planned(recipe, *tight, "engines.tensor_parallel=1", gpus="8xL40S", config=config)


def test_an_opponent_takes_the_room_of_a_model_beside_the_engines(recipe: Path) -> None:
    alone = planned(recipe)
    opposed = planned(recipe, *OPPOSED)

    assert alone.recipe.cache is not None
    assert opposed.recipe.cache is not None
    weights = opposed.recipe.needs[0].parts["opponent"].value
    assert weights == opposed.job.workload.width * opposed.job.workload.architecture.parameters
    # 128 opponents of each of two steps on four engines, which vLLM's share of 0.85 leaves no room for.
    work = opposed.job.workload
    caches = 64 * (work.prompt_tokens + work.longest) * 57_344
    less = weights + 0.85 * 85e9 - (85e9 - 0.6e9 - caches)
    assert alone.recipe.cache.value - opposed.recipe.cache.value == pytest.approx(less)
    assert opposed.assumed[-1] == (
        "Caches of the opponent take up to 16.0 GB of an engine's GPU beside vLLM's share: "
        "engines.gpu_memory_utilization is taken for 0.80, and the recipe should say so."
    )


def test_the_torch_engine_has_no_share_of_a_gpu_to_lower(recipe: Path) -> None:
    average = [one.replace("reference", "average") for one in OPPOSED]

    plan = planned(recipe, *average, "engines.kind=torch")

    engine = plan.recipe.needs[0]
    assert engine.parts["opponent"].value == 4 * plan.job.workload.architecture.parameters
    assert engine.limit == 85e9 - 0.6e9
    assert not any("gpu_memory_utilization" in one for one in plan.assumed)


def test_a_cache_without_room_for_one_response_is_refused(recipe: Path) -> None:
    with pytest.raises(PlacementError) as refused:
        planned(recipe, "engines.kv_cache_mib=100")

    assert str(refused.value) == (
        "engines.kv_cache_mib: 100 MiB hold less than one response of model.context_tokens = 4,608; "
        "use at least 252."
    )


def test_the_smallest_cache_that_is_said_to_be_enough_is(recipe: Path) -> None:
    longer = "model.context_tokens=4612"  # 252.2 MiB

    with pytest.raises(PlacementError, match=r"; use at least 253\.$"):
        planned(recipe, longer, "engines.kv_cache_mib=252")
    assert planned(recipe, longer, "engines.kv_cache_mib=253").recipe.holds_a_response


def test_responses_of_one_token_need_no_mean(recipe: Path) -> None:
    assert planned(recipe, "rollouts.max_tokens=1").job.workload.lengths.mean == 1


@pytest.mark.parametrize(
    ("gpus", "sentence"),
    [
        ("8xH1000", "--gpus: no device named 'H1000'. Did you mean 'H100'? Known: A100, B200, "),
        ("eight", "--gpus: no device named 'eight'. Known: "),
        ("8*H100", "--gpus: expected a number and a name such as 8xH100, got '8*H100'."),
    ],
)
def test_an_unknown_device_is_refused(gpus: str, sentence: str, recipe: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        planned(recipe, gpus=gpus)

    assert str(refused.value).startswith(sentence)


@pytest.mark.parametrize("mean", [-5.0, 0.0, 513.0])
def test_prompts_that_cannot_be_are_refused(mean: float, recipe: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        planned(recipe, mean_prompt=mean)

    assert str(refused.value) == (
        f"--mean-prompt: expected tokens between 1 and prompts.max_tokens = 512, got {mean:g}."
    )


def test_an_option_that_would_be_ignored_is_refused(recipe: Path, tmp_path: Path) -> None:
    loaded = load_recipe(recipe, [])
    (tmp_path / "lengths").write_text("100 200")

    with pytest.raises(RecipeError) as nodes:
        make_plan(loaded.recipe, Assumptions(nodes=4))
    with pytest.raises(RecipeError) as mean:
        planned(recipe, lengths=tmp_path / "lengths", mean=900.0)
    with pytest.raises(RecipeError, match=r"^--cv: got 0\.8 together with --lengths "):
        planned(recipe, lengths=tmp_path / "lengths", cv=0.8)

    assert str(nodes.value) == (
        "--nodes: got 4 without --gpus, and without it the plan is for this machine; say what each node has, "
        "such as --gpus 8xH100."
    )
    assert str(mean.value) == (
        f"--mean: got 900 together with --lengths '{tmp_path / 'lengths'}', which says how long responses "
        "are; leave one of the two out."
    )
    assert planned(recipe, lengths=tmp_path / "lengths").job.workload.lengths.mean == 150


def test_a_broken_calibration_is_refused(recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{}")

    with pytest.raises(DataError, match=r"--calibration: .* cannot be read .* make it again with --measure"):
        planned(recipe, calibration=tmp_path / "broken.json")


def test_people_read_sentences_and_why(recipe: Path) -> None:
    plan = planned(recipe)
    text, why = said(plan, dollars=2.0), said(plan, explain=True)

    assert "qwen2 with 7.62 B parameters, 7.07 B of them in matrix products, 57,344 bytes of KV cache" in text
    assert "2,048 tokens on average, half of rollouts.max_tokens (--mean), lognormal with cv 0.6" in text
    assert "dollars, without evaluation and start." in text
    assert "g P / W; g = 4, P = 7.62e+09" in why
    assert "prefill + t0 (L + max(0, n r / B - r))" in why
    assert "w P / W" not in text


PROSE = re.compile(
    r"( of (ZeRO 3|rank 0|engines\.kv_cache_mib)| from ZeRO 2 on|, which stay|, not shar(ed|ded)|, c = .*)$"
)
WORDS = {"nothing is generated", "nothing reads it", "the default on CPU"}
"""Formulas of numbers that are not computed."""


def computed(figure: Figure) -> float:
    """The formula, read as a person reads it, on the numbers that are printed beside it."""
    tokens = re.findall(r"[A-Za-z]\w*|\d+|[-+/^(),]", PROSE.sub("", figure.formula))
    text = tokens[0]
    for before, token in pairwise(tokens):
        follows = re.match(r"[\w)]", before) and before not in ("max", "min") and re.match(r"[\w(]", token)
        text += f"{' * ' if follows else ' '}{token}"
    names = {"max": max, "min": min, **figure.inputs}
    return eval(text.replace("^", "**"), {"__builtins__": {}}, names)


@pytest.mark.parametrize(
    ("overrides", "gpus"),
    [
        ([], "8xH100"),
        (["policy.zero_stage=0", "model.lora.rank=16", "engines.max_lag=0"], "8xH100"),
        (["policy.zero_stage=3", "policy.sequence_parallel=2", "objective.options.kl_weight=0.01"], "8xH100"),
        (["policy.zero_stage=1", "optimizer.minibatches=2", "model.gradient_checkpointing=false"], "8xH200"),
        (
            ["cluster.placement=shared", "policy.ranks=8", "engines.tensor_parallel=4", "engines.count=2"],
            "8xH200",
        ),
        ([*OPPOSED, "engines.kv_cache_mib=10000", "engines.update=drain"], "8xH200"),
        (["policy.zero_stage=3", "policy.offload=cpu", "engines.update=abort"], "8xH200"),
    ],
)
def test_every_number_is_its_formula_on_the_numbers_beside_it(
    overrides: list[str], gpus: str, recipe: Path
) -> None:
    made = planned(recipe, *overrides, gpus=gpus).recipe
    parts = [part for needs in made.needs for part in needs.parts.values()]

    for figure in [*parts, made.cache, made.slots, *figures(made).values()]:
        assert figure is not None
        if figure.formula not in WORDS:
            assert computed(figure) == pytest.approx(figure.value, rel=1e-6), figure.because


def test_programs_read_json_in_plain_units(recipe: Path) -> None:
    plan = planned(recipe)
    read = json.loads(plan_json([plan], None))["train"]["placements"]["this recipe"]

    assert read["time"]["step"]["value"] == plan.recipe.step_s
    assert read["memory"]["engine"]["weights"]["value"] == 2 * plan.job.workload.architecture.parameters
    assert read["keys"]["policy.ranks"] == 4
