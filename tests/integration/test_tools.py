"""Tools on real parts: a model that calls by chance, and programs in the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from llmrl.prompts.prompt import Prompt
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.load import load_recipe
from llmrl.recipe.schema import Choice, Engines, Model, Optimizer, Prompts, Rollouts, Source, Stage
from llmrl.report.journal import read_journal
from llmrl.rollouts.engines import Sampling
from llmrl.rollouts.environment import Turn
from llmrl.rollouts.environments.tools import Tools
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.rollouts.tools import ToolError
from llmrl.rollouts.tools.python import Python
from llmrl.rollouts.worker import RolloutWorker
from llmrl.run.start import train_recipe
from llmrl.sandbox import survey

ROOT = Path(__file__).parents[2]
CALLS = Choice(
    name="tools",
    options={
        "call": ["8", "+"],
        "result": [",", ","],
        "failure": "#",
        "calls": 3,
        "characters": 6,
        "max_turn_tokens": 12,
    },
)


def stage_of(folder: Path) -> Stage:
    return Stage(
        model=Model(path=str(folder), context_tokens=256),
        prompts=Prompts(sources=(Source(task="digit_sum", rows=50),)),
        rollouts=Rollouts(max_tokens=60),
        engines=Engines(kind="torch", max_sequences=16),
        environment=CALLS,
        objective=Choice(name="grpo"),
        optimizer=Optimizer(steps=1),
    )


async def conversations(stage: Stage) -> list[RolloutGroup]:
    worker = RolloutWorker(stage, "cpu", 0)
    await worker.start()
    stream = PromptStream(stage.prompts, load_tokenizer(stage.model), seed=0)
    sampling = Sampling(purpose="train", per_prompt=8, temperature=1.0, max_tokens=60)
    groups = await asyncio.gather(*(worker.generate(stream.at(ordinal), sampling) for ordinal in range(8)))
    await worker.close()
    return groups


def results_in(rollout: Rollout, text: str) -> list[str]:
    """What the tools must have answered to this conversation, from its own words."""
    made, turns = Tools(call=("8", "+"), result=(",", ","), failure="#", characters=6), text.split("\n")
    said = [line for line in turns if not line.startswith("> ")]
    asked = [made.calls_in(line) for line in said[: int(rollout.turn.max()) + 1]]
    return [asyncio.run(made.result_of(call)) for calls in asked[:-1] for call in calls]


@torch.no_grad()
def check_logp(folder: Path, prompt: Prompt, rollout: Rollout) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.as_tensor(np.concatenate([prompt.tokens, rollout.tokens]), dtype=torch.long)[None]
    logp = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])
    expected = logp[prompt.tokens.size - 1 :, 0].numpy()
    np.testing.assert_allclose(rollout.logp[rollout.trained], expected[rollout.trained], atol=1e-5)


def test_what_a_tool_says_is_heard_word_for_word_and_never_trained(tiny_model: Path) -> None:
    stage = stage_of(tiny_model)
    tokenizer = load_tokenizer(stage.model)

    groups = asyncio.run(conversations(stage))

    heard = 0
    for group in groups:
        for rollout in group.rollouts:
            if rollout.trained.all():
                continue
            heard += 1
            told = tokenizer.decode(rollout.tokens[~rollout.trained])
            assert told == "".join(results_in(rollout, rollout.text))
            assert not rollout.logp[~rollout.trained].any()
            check_logp(tiny_model, group.prompt, rollout)
    # Of 64 conversations of a model that knows nothing, some call.
    assert heard >= 8


@pytest.fixture(params=["kernel", "process"])
def python(request: pytest.FixtureRequest) -> Iterator[Python]:
    refusals = {level.isolation: level.refusal for level in survey()}
    if refusals[request.param]:
        pytest.skip(f"this machine allows no sandbox of isolation '{request.param}'")
    made = Python(isolation=request.param, seconds=1.0)
    made.warm_up()
    yield made
    made.close()


def test_a_program_answers_what_it_prints_and_fails_with_its_last_words(python: Python) -> None:
    async def ask() -> list[str]:
        programs = [f"print({number}**2)" for number in range(20)]
        return await asyncio.gather(
            *map(python.answer, [*programs, "```python\nprint('a')\nprint('b')\n```"])
        )

    assert asyncio.run(ask()) == [*(f"{number**2}" for number in range(20)), "a\nb"]
    for program, sentence in [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("import os; os.fork()", "PermissionError"),
        ("open('/etc/passwd')", "Error"),
        ("while True: pass", "no end within 1 s"),
        ("print('x' * 10**6)", "more than 64 KiB of output"),
        ("x = 1", ""),
        ("print(x)", "NameError: name 'x' is not defined"),
    ]:
        try:
            said = asyncio.run(python.answer(program))
        except ToolError as error:
            said = str(error)
        assert sentence in said, program
        assert "root:" not in said


def test_python_is_a_tool_like_any_other(python: Python) -> None:
    tools = {"python": Choice(name="python", options={"isolation": python.isolation, "seconds": 1.0})}
    episode = Tools(tools=tools).start(
        Prompt(id="p", tokens=np.array([1], np.int32), text="", answer=None, source="p"), seed=0
    )

    said = "<tool>python: print(sum(range(10)))</tool>"
    reply = asyncio.run(episode.reply(Turn(text=said, tokens=9, finished=True)))

    assert reply.text == "<result>45</result>"


def test_the_recipe_trains_a_policy_that_calls_the_calculator(tmp_path: Path) -> None:
    reduced = (
        f"run.folder={tmp_path}",
        "report.trackers=[]",
        "cluster.threads_per_process=1",
        "evaluation.sources=[]",
        "stages.warm.optimizer.steps=150",
        "stages.grpo.optimizer.steps=4",
        "stages.grpo.optimizer.warmup_steps=0",
    )

    train_recipe(load_recipe(ROOT / "recipes" / "tools" / "calculator.toml", reduced))

    journal = read_journal(tmp_path / "calculator" / "1-grpo" / "metrics.jsonl")
    assert len(journal.steps) == 4
    for step in journal.steps:
        assert step.metrics["judgement/error_rate"] == 0
        assert step.metrics["policy/grad_norm"] > 0
    # Who cannot multiply is right only where the calculator was asked, and its result copied.
    assert max(step.metrics["reward/mean"] for step in journal.steps) > 0.1
