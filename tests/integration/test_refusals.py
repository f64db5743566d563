"""What is wrong with data, model or rewards is said before Ray starts, and nothing is left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import ray

from llmrl.cluster.placement import choose_device, note_idle_gpus
from llmrl.errors import DataError, LlmrlError, ModelError, PlacementError, PluginError, RecipeError
from llmrl.recipe.load import load_recipe
from llmrl.run.start import train_recipe

RECIPE = """
[run]
name = "refused"
folder = "{folder}/runs"
[model]
path = "{folder}/model"
context_tokens = 64
[prompts]
sources = [{{ dataset = "{folder}/rows.jsonl" }}]
per_step = 2
max_tokens = 16
[rollouts]
per_prompt = 2
max_tokens = 8
[rewards.answer]
kind = "number"
[objective]
name = "grpo"
[optimizer]
steps = 1
"""


@pytest.fixture
def given(tmp_path: Path, tiny_model: Path) -> Path:
    """A recipe, data and a model that are all right."""
    shutil.copytree(tiny_model, tmp_path / "model")
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1)} for n in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.toml").write_text(RECIPE.format(folder=tmp_path))
    return tmp_path


def write(name: str, text: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(text)

    return apply


def drop(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def cut(name: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:100])

    return apply


def change(key: str, value: object) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        path = folder / "model" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))

    return apply


CASES: list[tuple[str, Callable[[Path], None], type[LlmrlError], str]] = [
    ("broken line", write("rows.jsonl", '{"prompt": "1+1="\n'), DataError, r"rows\.jsonl.*line 1"),
    ("no prompt", write("rows.jsonl", '{"ask": "1+1=", "answer": "2"}\n'), DataError, r"prompt.*ask"),
    ("empty prompt", write("rows.jsonl", '{"prompt": " ", "answer": "2"}\n'), DataError, "line 1"),
    ("empty file", write("rows.jsonl", ""), DataError, r"rows\.jsonl"),
    ("no file", drop("rows.jsonl"), RecipeError, r"rows\.jsonl"),
    ("unknown character", write("rows.jsonl", '{"prompt": "one", "answer": "2"}\n'), DataError, "rows/0"),
    (
        "gold is no number",
        write("rows.jsonl", '{"prompt": "1+1=", "answer": "#"}\n'),
        DataError,
        "gold answers",
    ),
    ("no gold", write("rows.jsonl", '{"prompt": "1+1="}\n'), DataError, "no answer"),
    (
        "all too long",
        write("rows.jsonl", json.dumps({"prompt": "1" * 40, "answer": "1"})),
        DataError,
        "16 tokens",
    ),
    ("no config", drop("model/config.json"), RecipeError, r"config\.json"),
    ("broken config", write("model/config.json", "{"), ModelError, "is not JSON"),
    ("unknown model type", change("model_type", "qwen33"), ModelError, "qwen33"),
    (
        "remote code",
        change("auto_map", {"AutoModelForCausalLM": "evil.Model"}),
        ModelError,
        "trust_remote_code",
    ),
    ("no weights", drop("model/model.safetensors"), ModelError, "safetensors"),
    ("cut weights", cut("model/model.safetensors"), ModelError, r"model\.safetensors"),
    ("no tokenizer", drop("model/tokenizer.json"), ModelError, "tokenizer"),
]


@pytest.mark.parametrize(("name", "spoil", "kind", "words"), CASES, ids=[case[0] for case in CASES])
def test_one_sentence_before_ray_starts(
    given: Path, name: str, spoil: Callable[[Path], None], kind: type[LlmrlError], words: str
) -> None:
    spoil(given)

    with pytest.raises(kind, match=words) as caught:
        train_recipe(load_recipe(given / "recipe.toml"))

    assert "Traceback" not in str(caught.value)
    assert not ray.is_initialized()
    assert not (given / "runs").exists()


def test_what_the_environment_of_a_later_stage_misses_is_said_before_the_first_one_trains(
    given: Path,
) -> None:
    recipe = (given / "recipe.toml").read_text()
    later = (
        '\n[[stages]]\nname = "first"\n[[stages]]\nname = "second"\n[stages.environment]\nname = "program"\n'
    )
    (given / "recipe.toml").write_text(f'{recipe}{later}options = {{ command = ["no-such-program"] }}\n')

    with pytest.raises(
        RecipeError, match=r"environment\.options\.command: there is no program 'no-such-program'"
    ):
        train_recipe(load_recipe(given / "recipe.toml"))

    assert not ray.is_initialized()
    assert not (given / "runs").exists()


def test_a_plugin_that_cannot_be_imported_stops_the_run_with_its_own_traceback(given: Path) -> None:
    with pytest.raises(PluginError, match="No module named 'no_such_losses'"):
        train_recipe(load_recipe(given / "recipe.toml", ['plugins=["no_such_losses"]']))

    assert not (given / "runs").exists()


def test_a_run_folder_that_is_there_is_never_overwritten_by_accident(given: Path) -> None:
    (given / "runs" / "refused").mkdir(parents=True)
    (given / "runs" / "refused" / "precious").write_text("x")

    with pytest.raises(RecipeError, match="go on with --resume, replace it with --fresh"):
        train_recipe(load_recipe(given / "recipe.toml"))

    assert (given / "runs" / "refused" / "precious").exists()


@pytest.mark.parametrize(
    ("key", "name"), [("model.path", "model"), ("prompts.sources.0.dataset", "rows.jsonl")]
)
def test_a_run_does_not_delete_what_it_starts_from(given: Path, key: str, name: str) -> None:
    stage = given / "runs" / "refused" / "0-warm"
    stage.mkdir(parents=True)
    (given / name).rename(stage / name)

    where = rf"^{key}: '.*/0-warm/{name}' lies in .*/runs/refused"
    with pytest.raises(RecipeError, match=f"{where}, which --fresh would delete; rename the run"):
        train_recipe(load_recipe(given / "recipe.toml", [f"{key}={stage / name}"]), existing="fresh")

    assert (stage / name).exists()


STAGES = """
[evaluation]
sources = []
[[stages]]
name = "first"
[[stages]]
name = "second"
cluster = { cpus_per_process = 65 }
"""


def test_a_later_stage_without_room_is_refused_before_the_first_trains_and_an_older_run_stays(
    given: Path,
) -> None:
    with (given / "recipe.toml").open("a") as recipe:
        recipe.write(STAGES)
    old = given / "runs" / "refused" / "precious"
    old.parent.mkdir(parents=True)
    old.write_text("x")

    with pytest.raises(PlacementError, match=r"stages\[1\] 'second': .*cannot hold 2 of 2") as caught:
        train_recipe(load_recipe(given / "recipe.toml"), existing="fresh")

    assert "engine-0                     65 CPU   <- missing" in str(caught.value)
    assert not ray.is_initialized()
    assert old.exists()


def test_an_installation_for_cpu_leaves_a_gpu_alone_and_says_so(given: Path) -> None:
    stage = load_recipe(given / "recipe.toml").recipe.stages[0]
    chosen = load_recipe(given / "recipe.toml", ["cluster.device=cpu"]).recipe.stages[0]
    for_cpu = "+cpu" in version("torch")
    ray.init(address="local", num_cpus=1, num_gpus=1, log_to_driver=False, include_dashboard=False)
    try:
        assert choose_device(stage) == ("cpu" if for_cpu else "cuda")
        told = "the cluster has 1 GPU and llmrl is installed for CPU, so it computes there; "
        assert note_idle_gpus(stage).startswith(told) == for_cpu
        assert note_idle_gpus(chosen) == ""
    finally:
        ray.shutdown()
