"""Environments of verifiers, the library itself, in a virtual environment of its own: recipes/agents."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.rollouts.worker import RolloutWorker

FOLDER = Path(__file__).parents[2] / "recipes" / "agents"
INSTALL_S = 120
FOR_UV = ("PATH", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR", "UV_DEFAULT_INDEX", "UV_FIND_LINKS")
"""What uv needs to find packages where there is no direct way to them."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with uv."""
    folder = tmp_path_factory.mktemp("tools")
    installed(sys.executable, "-m", "pip", "install", "--quiet", "--target", str(folder), "uv", tools=folder)
    return folder


@pytest.fixture(scope="module")
def python(tools: Path) -> str:
    return python_with("verifiers==0.2.1", tools)


@pytest.fixture(scope="module")
def newer(tools: Path) -> str:
    return python_with("verifiers==0.4.0", tools)


def python_with(package: str, tools: Path) -> str:
    """Of an environment that has it and not llmrl."""
    made = tools / package
    uv = sys.executable, "-m", "uv"
    installed(*uv, "venv", "--quiet", "--python", sys.executable, str(made), tools=tools)
    found = str(made / "bin" / "python")
    installed(*uv, "pip", "install", "--quiet", "--python", found, package, tools=tools)
    return found


def installed(*command: str, tools: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(tools)}
    try:
        subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=INSTALL_S, env=environment
        )
    except subprocess.CalledProcessError as error:
        pytest.skip(f"verifiers cannot be installed here: {error.stderr[-300:]}")
    except subprocess.TimeoutExpired:
        pytest.skip(f"verifiers is not installed within {INSTALL_S} s; is a package index in reach?")


def command(python: str, *arguments: str) -> list[str]:
    return [python, str(FOLDER / "verifiers_agent.py"), "--environment", "verifiers_sums", *arguments]


def exported(program: list[str], rows: Path) -> Path:
    """The file, with the rows that it writes."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    ended = subprocess.run(program, capture_output=True, timeout=120, check=True, env=environment)
    rows.write_bytes(ended.stdout)
    return rows


def stage_of(model: Path, rows: Path, program: list[str], **more: object) -> Stage:
    variables = {"PYTHONPATH": str(FOLDER)}
    options = {"command": program, "rows": "many", "at_once": 1, "variables": variables, "max_turn_tokens": 4}
    options |= more
    return Stage(
        model=Model(path=str(model), context_tokens=256),
        prompts=Prompts(sources=(Source(dataset=str(rows), fields={"prompt": "text", "answer": "*"}),)),
        rollouts=Rollouts(max_tokens=40),
        engines=Engines(kind="torch", max_sequences=16),
        environment=Choice(name="program", options=options),
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )


async def rollouts_of(stage: Stage, *budgets: int) -> list[RolloutGroup]:
    """Those of one draw, once for each budget of tokens."""
    worker = RolloutWorker(stage, "cpu", 0)
    await worker.start()
    draw = PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0).at(0)
    groups = [
        await worker.generate(
            draw, Sampling(purpose="train", per_prompt=8, temperature=1.0, max_tokens=max_tokens)
        )
        for max_tokens in budgets
    ]
    await worker.close()
    return groups


def right(text: str, total: int) -> float:
    """What the rubric says of a conversation, as the environment is described."""
    lines, first, correct = text.split("\n"), total, 0
    for turn, said in enumerate(lines[::2], start=1):
        correct += said.strip() == str(total)
        total += (first + 3 * turn) % 10
    return correct / len(lines[::2])


async def test_the_policy_plays_an_environment_of_verifiers_and_its_rubric_says_what_that_is_worth(
    python: str, tiny_model: Path, tmp_path: Path
) -> None:
    dataset = exported(command(python, "--rows", "-1"), tmp_path / "rows.jsonl")

    whole, cut = await rollouts_of(stage_of(tiny_model, dataset, command(python)), 40, 7)

    assert dataset.read_text() == (FOLDER / "verifiers_sums.jsonl").read_text()
    first = int(json.loads(whole.prompt.answer or "")["answer"])
    judged = [one for one in whole.rollouts if one.stop != "abort"]
    assert judged
    assert {one.outcome for one in judged} == {right(one.text, first) for one in judged}
    assert any(one.text.count("\n> +") == 2 for one in judged)
    # An answer without a word is what verifiers calls an error.
    assert all("EmptyModelResponseError" in one.abort for one in whole.rollouts if one.stop == "abort")
    # The end of the budget is none: the rubric judges what there is.
    assert "length" in {one.stop for one in cut.rollouts}
    assert all(one.outcome is not None for one in cut.rollouts if one.stop == "length")


async def test_an_environment_of_one_turn_is_one_turn_of_the_policy(python: str, tiny_model: Path) -> None:
    rows = FOLDER / "verifiers_sums.jsonl"

    (single,) = await rollouts_of(
        stage_of(tiny_model, rows, command(python, "--arguments", '{"turns": 1}')), 40
    )

    assert {int(one.turn.max()) for one in single.rollouts if one.tokens.size} == {0}
    assert {one.outcome for one in single.rollouts} <= {0.0, 1.0, None}


@pytest.mark.slow
async def test_a_taskset_of_newer_verifiers_is_played_through_its_own_harness(
    newer: str, tools: Path, tiny_model: Path, tmp_path: Path
) -> None:
    program = [newer, str(FOLDER / "verifiers_v1_agent.py"), "--taskset", "verifiers_v1_sums"]
    dataset = exported([*program, "--rows"], tmp_path / "rows.jsonl")
    variables = {"PYTHONPATH": str(FOLDER), "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ['PATH']}"}

    (single,) = await rollouts_of(
        stage_of(tiny_model, dataset, program, variables=variables, inherit=FOR_UV), 40
    )

    answer = json.loads(single.prompt.answer or "")["answer"]
    assert len(dataset.read_text().splitlines()) == 200
    assert {one.stop for one in single.rollouts} <= {"stop", "length"}
    assert [one.outcome for one in single.rollouts] == [
        float(one.text.strip() == answer) for one in single.rollouts
    ]
