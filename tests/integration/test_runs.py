"""Whole runs on real Ray, vLLM and DeepSpeed: several of everything, two nodes, kill and resume, GSM8K."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrl.errors import CheckpointError, TrainingError
from llmrl.recipe.load import load_recipe
from llmrl.report.journal import read_journal
from llmrl.run.checkpoint import read_state
from llmrl.run.crew import Crew
from llmrl.run.export import export_model
from llmrl.run.start import train_recipe

ROOT = Path(__file__).resolve().parents[2]

RECIPE = """
[run]
name = "{name}"
folder = "{folder}"

[model]
characters = "0123456789+=,#"
context_tokens = 32

[model.config]
model_type = "qwen3"
hidden_size = 32
intermediate_size = 64
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
head_dim = 32
tie_word_embeddings = true

[prompts]
sources = [{{ task = "digit_sum", rows = 64 }}]
per_step = 8
max_tokens = 8

[rollouts]
per_prompt = 4
max_tokens = 16

[rewards.ended]
kind = "finished"

[rewards.short]
kind = "length"
weight = 0.1
options = {{ max_tokens = 16 }}

[report]
trackers = []

[objective]
name = "grpo"

[optimizer]
steps = {steps}
lr = 3e-3
{more}
"""


def recipe(folder: Path, name: str, *, steps: int, more: str = "") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(RECIPE.format(name=name, folder=folder / "runs", steps=steps, more=more))
    return path


def command(path: Path, *flags: str) -> list[str]:
    return llmrl("train", str(path), *flags)


def llmrl(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "llmrl.cli", *arguments]


def metrics_of(run: Path) -> list[dict[str, float]]:
    return [dict(step.metrics) for step in read_journal(run / "0-train" / "metrics.jsonl").steps]


def test_two_engines_and_two_ranks_share_the_work_and_say_so(tmp_path: Path) -> None:
    more = (
        "[engines]\ncount = 2\nmax_lag = 1\n[policy]\nranks = 2\nzero_stage = 3\ntokens_per_microbatch = 64\n"
    )
    train_recipe(load_recipe(recipe(tmp_path, "pairs", steps=4, more=more)))
    run = tmp_path / "runs" / "pairs"

    steps = metrics_of(run)
    model = AutoModelForCausalLM.from_pretrained(run / "0-train" / "model")
    start = load_file(run / "model" / "model.safetensors")

    assert len(steps) == 4
    assert sum(m["rollout/engine/0"] for m in steps) > 0
    assert sum(m["rollout/engine/1"] for m in steps) > 0
    assert all(m["policy/rank/0"] + m["policy/rank/1"] == m["policy/tokens"] for m in steps)
    assert all(m["policy/rank/0"] > 0 and m["policy/rank/1"] > 0 for m in steps)
    assert max(m["lag/max"] for m in steps) <= 1
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(model.state_dict()[name], start[name])
    assert AutoTokenizer.from_pretrained(run / "0-train" / "model").decode([3, 4]) == "01"
    assert (run / "report.html").stat().st_size > 10_000

    sealed = export_model(run, tmp_path / "exported")
    again = load_file(tmp_path / "exported" / "model.safetensors")
    assert (sealed.stage.name, sealed.step) == ("train", 4)
    last = load_file(run / "0-train" / "model" / "model.safetensors")
    assert all(torch.equal(again[name], tensor) for name, tensor in last.items())
    assert AutoTokenizer.from_pretrained(tmp_path / "exported").decode([3, 4]) == "01"


def test_spare_groups_let_stragglers_go_and_draw_them_again(tmp_path: Path) -> None:
    more = '[engines]\nkind = "torch"\nmax_lag = 0\n'
    path = recipe(tmp_path, "spare", steps=5, more=more)
    train_recipe(load_recipe(path, ["rollouts.oversample=0.5", "report.timeline_steps=2"]))
    stage = tmp_path / "runs" / "spare" / "0-train"

    ledger = [json.loads(line) for line in (stage / "ledger.jsonl").read_text().splitlines()]
    late = [one["ordinal"] for one in ledger if one["event"] == "late"]
    trained = [ordinal for one in ledger if one["event"] == "trained" for ordinal in one["ordinals"]]
    assert len(late) == 5 * 4
    assert len(trained) == len(set(trained)) == 5 * 8
    assert set(late[:12]) & set(trained)
    assert {m["lag/max"] for m in metrics_of(stage.parent)} == {0}
    timeline = (stage / "timeline.json").read_text()
    assert all(f'"name": "{name}"' in timeline for name in ("step 1", "step 2", "train 0", "version 1"))
    assert '"name": "step 3"' not in timeline


def test_the_same_recipe_runs_on_a_cluster_of_two_nodes(tmp_path: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1}, shutdown_at_exit=False)
    cluster.add_node(num_cpus=1)
    try:
        more = (
            f"[engines]\ncount = 2\nmax_lag = 0\n[policy]\nranks = 2\n"
            f'[cluster]\naddress = "{cluster.address}"\n'
            'cpus_per_process = 0.5\n[cluster.environment]\nLLMRL_TEST_WORD = "shipped"\n'
        )
        train_recipe(load_recipe(recipe(tmp_path, "nodes", steps=2, more=more)))
    finally:
        ray.shutdown()
        cluster.shutdown()

    steps = metrics_of(tmp_path / "runs" / "nodes")
    assert len(steps) == 2
    assert all(m["rollout/engine/0"] + m["rollout/engine/1"] == 32 for m in steps)


def weights(run: Path) -> dict[str, np.ndarray]:
    return {n: t.numpy() for n, t in load_file(run / "0-train" / "model" / "model.safetensors").items()}


def check_export(run: Path, out: Path) -> None:
    """A run without a model has one, and it is what the newest checkpoint has."""
    newest = max((run / "0-train" / "checkpoints").glob("step-*"))
    assert not (run / "0-train" / "model").exists()

    subprocess.run(llmrl("export", str(run), str(out)), check=True, timeout=200, cwd=ROOT)

    exported = AutoModelForCausalLM.from_pretrained(out).state_dict()
    held = torch.load(newest / "zero" / "mp_rank_00_model_states.pt", weights_only=False)["module"]
    assert all(torch.equal(tensor, held[f"model.{name}"]) for name, tensor in exported.items())
    assert f"{int(newest.name.removeprefix('step-'))} of 6 optimizer steps" in (out / "README.md").read_text()
    assert [path.name for path in out.parent.iterdir() if path.name.startswith(f".{out.name}")] == []


@pytest.mark.timeout(900)
def test_a_run_that_is_killed_and_resumed_ends_with_the_very_same_weights(tmp_path: Path) -> None:
    # The credit remembers quantiles from step to step, and the parts of a step are drawn.
    more = (
        "minibatches = 2\n[engines]\nmax_lag = 0\n[checkpoints]\nevery_steps = 2\n"
        '[credit]\nname = "riskpo"\noptions = { quantiles = "track" }\n'
    )
    whole, killed = (recipe(tmp_path, name, steps=6, more=more) for name in ("whole", "killed"))
    subprocess.run(command(whole), check=True, timeout=400, cwd=ROOT)

    process = subprocess.Popen(command(killed), cwd=ROOT, start_new_session=True)
    saved = tmp_path / "runs" / "killed" / "0-train" / "checkpoints" / "step-000002"
    deadline = time.monotonic() + 400
    while not saved.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait(timeout=30)
    check_export(tmp_path / "runs" / "killed", tmp_path / "exported")
    subprocess.run(command(killed, "--resume"), check=True, timeout=400, cwd=ROOT)

    runs = tmp_path / "runs"
    # Whoever is scored with whom would depend on who was done first.
    assert "ahead" not in (runs / "whole" / "0-train" / "timeline.json").read_text()
    first, second = weights(runs / "whole"), weights(runs / "killed")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    memories = [
        read_state(runs / name / "0-train" / "checkpoints" / "step-000006").memory
        for name in ("whole", "killed")
    ]
    assert memories[0] == memories[1] != {}
    events = [
        json.loads(line) for line in (runs / "killed" / "0-train" / "ledger.jsonl").read_text().splitlines()
    ]
    resumed = max(i for i, event in enumerate(events) if event["event"] == "resumed")
    kept = events[resumed]["cursor"] // 8
    trained = [e["ordinals"] for e in events if e["event"] == "trained"]
    assert sorted(
        o for ordinals in [*trained[:kept], *trained[len(trained) - (6 - kept) :]] for o in ordinals
    ) == list(range(48))


UNHURRIED = """
import time
from dataclasses import dataclass
from typing import ClassVar

from llmrl.rewards import Sample, reward


@reward("unhurried")
@dataclass(frozen=True, slots=True, kw_only=True)
class Unhurried:
    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> float | None:
        time.sleep(0.05)
        return float(sample.tokens) if sample.tokens % 3 else None
"""


def test_while_a_step_waits_for_its_last_groups_the_policy_scores_the_others(tmp_path: Path) -> None:
    (tmp_path / "unhurried.py").write_text(UNHURRIED)
    more = (
        'minibatches = 2\n[engines]\nkind = "torch"\nmax_lag = 1\n[policy]\nranks = 2\nzero_stage = 2\n'
        '[scoring]\nprocesses = 1\ncheck_answers = false\n[rewards.unhurried]\nkind = "unhurried"\n'
    )
    asked = recipe(tmp_path, "early", steps=4, more=more)
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    flags = ('plugins=["unhurried"]', "report.timeline_steps=4")
    subprocess.run(command(asked, *flags), check=True, timeout=200, cwd=ROOT, env=env)

    stage = tmp_path / "runs" / "early" / "0-train"
    text = (stage / "timeline.json").read_text().rstrip()
    spans = [one for one in json.loads(text.removesuffix(",") + "]") if one["ph"] == "X"]
    steps = [one for one in spans if one["name"].startswith("step ")]
    early = [one for one in spans if one["name"].endswith("groups ahead")]
    ends = [0.0, *(one["ts"] + one["dur"] for one in steps)]
    waits = list(zip(ends, [one["ts"] for one in steps], strict=False))
    scored = [[one for one in early if a <= one["ts"] and one["ts"] + one["dur"] <= b] for a, b in waits]
    assert len(steps) == 4
    assert all(scored)
    assert sum(map(len, scored)) == len(early)  # never while a step is taken, which changes the scores
    ledger = [json.loads(line) for line in (stage / "ledger.jsonl").read_text().splitlines()]
    trained = [ordinal for one in ledger if one["event"] == "trained" for ordinal in one["ordinals"]]
    assert len(trained) == len(set(trained)) == 4 * 8
    assert {m["policy/skipped"] for m in metrics_of(stage.parent)} == {0}


STALLING = """
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from llmrl.rewards import Sample, reward


@reward("stalling")
@dataclass(frozen=True, slots=True, kw_only=True)
class Stalling:
    trained: Path

    reads_answer: ClassVar[bool] = False

    def __call__(self, sample: Sample) -> float:
        while '"trained"' in self.trained.read_text():
            time.sleep(0.1)
        return float(sample.tokens)
"""


def listening(process: psutil.Process) -> set[str]:
    """Addresses at which it, or what it started, takes connections."""
    sockets: list[Any] = []
    for one in [process, *process.children(recursive=True)]:
        with suppress(psutil.Error):  # it has just ended
            sockets += one.net_connections(kind="tcp")
    return {socket.laddr.ip for socket in sockets if socket.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize(("asked_by", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_asked_to_end_while_the_policy_waits_for_groups_a_run_saves_the_newest_step_and_leaves(
    asked_by: signal.Signals, status: int, tmp_path: Path
) -> None:
    (tmp_path / "stalling.py").write_text(STALLING)
    run = tmp_path / "runs" / "asked" / "0-train"
    more = (
        '[engines]\nkind = "torch"\n[scoring]\ndeadline_s = 600\ncheck_answers = false\n'
        f'[rewards.stalling]\nkind = "stalling"\noptions = {{ trained = "{run / "ledger.jsonl"}" }}\n'
    )
    asked = recipe(tmp_path, "asked", steps=400, more=more)

    env = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    flags = ('plugins=["stalling"]', "engines.max_lag=0")
    process = subprocess.Popen(
        command(asked, *flags), cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 150
    while not (run / "ledger.jsonl").exists() or '"trained"' not in (run / "ledger.jsonl").read_text():
        assert time.monotonic() < deadline, "no step within the deadline"
        time.sleep(0.1)
    heard_at = listening(psutil.Process(process.pid))
    # A terminal sends Ctrl-C to all that the command has started.
    ask = os.killpg if asked_by is signal.SIGINT else os.kill
    ask(process.pid, asked_by)
    said, _ = process.communicate(timeout=60)

    assert heard_at == {"127.0.0.1", "::ffff:127.0.0.1"}  # whoever reaches Ray may run code
    assert process.returncode == status
    assert f"stopped after step 1 on {asked_by.name}; go on with llmrl train ... --resume" in said
    (saved,) = (run / "checkpoints").iterdir()
    assert read_state(saved).step == len(metrics_of(run.parent)) == 1


def test_a_resumed_run_makes_the_evaluation_that_was_due_at_its_checkpoint(tmp_path: Path) -> None:
    more = (
        '[engines]\nkind = "torch"\n[evaluation]\nsources = [{ task = "digit_sum", rows = 4, skip = 64 }]\n'
    )
    path = recipe(tmp_path, "late", steps=2, more=more)
    train_recipe(load_recipe(path))
    journal = tmp_path / "runs" / "late" / "0-train" / "metrics.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # as if killed between the last checkpoint and its evaluation

    record = (journal.parents[1] / "recipe.json").read_text()
    with pytest.raises(CheckpointError, match=r"optimizer\.lr: 1.0 in the recipe.* was made with 0\.003"):
        train_recipe(load_recipe(path, ["optimizer.lr=1.0"]), existing="resume")
    assert (journal.parents[1] / "recipe.json").read_text() == record
    train_recipe(load_recipe(path), existing="resume")

    assert [entry.step for entry in read_journal(journal).evaluations] == [0, 2]
    assert len(journal.read_text().splitlines()) == len(lines)  # and no other one a second time
    assert "| held-out | 2 |" in (journal.parent / "model" / "README.md").read_text()


def cut_short_at(method: str, policy: Callable[..., Any]) -> Callable[..., Any]:
    async def cut(crew: Crew, called: str, *args: Any) -> Any:
        if called == method:
            raise TrainingError("no space left")
        return await policy(crew, called, *args)

    return cut


def test_a_run_that_is_given_more_steps_is_what_it_would_have_been_with_them_from_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The last bits of a logprob depend on who shares its batch, so each group has one of its own.
    more = '[engines]\nkind = "torch"\nmax_lag = 0\nmax_sequences = 4\n'
    whole, short = (recipe(tmp_path, name, steps=steps, more=more) for name, steps in (("a", 4), ("b", 2)))
    train_recipe(load_recipe(whole))
    train_recipe(load_recipe(short))
    runs, longer = tmp_path / "runs", load_recipe(short, ["optimizer.steps=4"])
    with monkeypatch.context() as patched:
        # All steps are taken then, and the model is still that of the second.
        patched.setattr(Crew, "policy", cut_short_at("export", Crew.policy))
        with pytest.raises(TrainingError, match="no space left"):
            train_recipe(longer, existing="resume")
    train_recipe(longer, existing="resume")

    first, second = weights(runs / "a"), weights(runs / "b")
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert len(metrics_of(runs / "b")) == 4
    with pytest.raises(CheckpointError, match=r"optimizer\.steps: 3 in the recipe, but .* has taken 4"):
        train_recipe(load_recipe(short, ["optimizer.steps=3"]), existing="resume")


def test_a_stage_that_is_done_starts_no_process_when_its_run_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = recipe(tmp_path, "done", steps=2, more='[engines]\nkind = "torch"\n')
    stage = tmp_path / "runs" / "done" / "0-train"
    (stage.parent / "model").mkdir(parents=True)  # of an older recipe, killed before its first checkpoint
    train_recipe(load_recipe(path), existing="resume")
    (stage / "logs").rename(stage / "logs-before")
    shards = stage / "checkpoints" / "step-000002" / "zero"
    shards.rename(stage / "zero-before")  # as if deleted to free the disk
    (stage.parent / "report.html").unlink()
    weights_before = weights(stage.parent)

    # Nor does it need any room.
    train_recipe(load_recipe(path, ["cluster.cpus_per_process=65"]), existing="resume")

    assert not (stage / "logs").exists()
    assert "stage train: done before, 2 steps" in capsys.readouterr().out
    assert (stage.parent / "report.html").exists()
    assert all(np.array_equal(weights_before[n], w) for n, w in weights(stage.parent).items())

    (stage / "zero-before").rename(shards)
    (stage / "model" / "README.md").unlink()  # as if killed while the model was written
    train_recipe(load_recipe(path), existing="resume")

    assert (stage / "logs").exists()
    assert (stage / "model" / "README.md").exists()


def test_gsm8k_runs_three_steps_from_its_own_files(tmp_path: Path, shared: Path) -> None:
    data = shared / "data" / "gsm8k"
    changes = [
        f"run.folder={tmp_path}",
        f"prompts.sources.0.dataset={data / 'train.jsonl'}",
        f"evaluation.sources.0.dataset={data / 'test.jsonl'}",
        "evaluation.sources.0.split=train",
    ]
    train_recipe(load_recipe(ROOT / "recipes" / "gsm8k" / "tiny.toml", changes))

    steps = metrics_of(tmp_path / "tiny")
    assert [m["rollout/responses"] for m in steps] == [32, 32, 32]
    assert all(m["policy/grad_norm"] > 0 for m in steps)
