"""Completion tokens per CPU second: our rollout worker over raw vLLM.

    .venv/bin/python -m tests.speed.table rollouts

Ours delivers Rollout records: tokens, logprobs, a weight version per token, and text. Raw is
``vllm.LLM.generate(logprobs=0)`` with the very engine arguments, prompts, seeds and lengths of ours. Every
response has exactly ``TOKENS`` tokens, because in this model the end of a sequence has a logit far below
all others. Both sides must sample the same tokens with the same logprobs.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
from safetensors.torch import load_file, save_file

from llmrl.prompts.prompt import Draw, Prompt
from llmrl.recipe.schema import Stage
from llmrl.rollouts.engines import Serving
from llmrl.rollouts.engines.kinds import CPU_ENVIRONMENT, QUIET_ENVIRONMENT
from llmrl.rollouts.responder import Setting, SingleTurn
from llmrl.rollouts.rollout import RolloutGroup
from llmrl.rollouts.worker import RolloutWorker, Sampling
from tests.speed.compare import Outcome, Row, Run, in_turns, must_agree, speed_ratios, started
from tests.speed.model import VOCABULARY, build_model, stage_for

PROMPTS, PER_PROMPT, PROMPT_TOKENS, TOKENS = 16, 8, 16, 64
SAMPLING = Sampling(purpose="train", per_prompt=PER_PROMPT, temperature=1.0, max_tokens=TOKENS)
SEED = 0
TARGET = 0.97
END = 2
"""Id of the end of a sequence."""


def draws() -> list[Draw]:
    rng = np.random.default_rng(SEED)
    listed = rng.integers(3, VOCABULARY, (PROMPTS, PROMPT_TOKENS), dtype=np.int32)
    return [
        Draw(ordinal=n, prompt=Prompt(id=f"p/{n}", tokens=tokens, text="", answer=None, source="p"))
        for n, tokens in enumerate(listed)
    ]


def silence_the_end(model: Path) -> None:
    """One channel is large for every token, and only the row of the end of a sequence looks at it."""
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors["model.embed_tokens.weight"][:, 0] = 1.0
    tensors["lm_head.weight"][:, 0] = 0.0
    tensors["lm_head.weight"][END, 0] = -100.0
    save_file(tensors, file, metadata={"format": "pt"})


def fitting(model: Path) -> Stage:
    """A KV cache that holds all responses at once: the 256 MiB of a CPU's default would hold 102."""
    stage = stage_for(model)
    return stage.model_copy(update={"engines": stage.engines.model_copy(update={"kv_cache_mib": 512})})


def raw_options(stage: Stage, device: str = "cpu") -> dict[str, Any]:
    """Our engine's arguments for a bare ``vllm.LLM``."""
    # vLLM reads the environment when it is imported.
    from llmrl.rollouts.engines.vllm_engine import _arguments  # noqa: PLC0415

    options = dict(vars(_arguments(Serving.of(stage), device, {})))
    del options["enable_log_requests"]  # only the asynchronous engine has it
    del options["scheduler_cls"]  # ours
    return options


@contextmanager
def ours(model: Path) -> Generator[Run]:
    """The rollout worker of a run, in this process."""
    worker = RolloutWorker(fitting(model), "cpu", SEED)

    async def generate() -> list[RolloutGroup]:
        return await asyncio.gather(*(worker.generate(draw, SAMPLING) for draw in draws()))

    with asyncio.Runner() as runner:
        # Not Runner.run(): it sets a signal handler, and Python then writes out what the last run returned.
        wait = runner.get_loop().run_until_complete
        wait(worker.start())

        def run() -> Any:
            groups = wait(generate())
            return lambda: _delivered(groups)

        try:
            yield run
        finally:
            wait(worker.close())


def _delivered(groups: list[RolloutGroup]) -> Outcome:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    return {
        "tokens": np.stack([r.tokens for r in rollouts]),
        "logp": np.stack([r.logp for r in rollouts]),
        "version": np.stack([r.version for r in rollouts]),
    }


@contextmanager
def raw(model: Path) -> Generator[Run]:
    """vLLM's synchronous front door, in one process, as a script would use it."""
    os.environ.update({**CPU_ENVIRONMENT, **QUIET_ENVIRONMENT})
    # vLLM reads the environment when it is imported.
    from vllm import LLM, SamplingParams  # noqa: PLC0415

    stage = fitting(model)
    llm = LLM(**raw_options(stage))
    nothing = cast("Any", None)  # requests are written down, not sent
    ours = SingleTurn(setting=Setting(stage=stage, engine=nothing, tokenizer=nothing, seed=SEED))
    requests = [ours.request(draw, SAMPLING, n) for draw in draws() for n in range(PER_PROMPT)]
    prompts: Any = [{"prompt_token_ids": request.tokens.tolist()} for request in requests]
    sampling = [
        SamplingParams(temperature=r.temperature, max_tokens=r.max_tokens, seed=r.seed, logprobs=0)
        for r in requests
    ]

    def run() -> Any:
        outputs = llm.generate(prompts, sampling, use_tqdm=False)
        return lambda: _answered([output.outputs[0] for output in outputs])

    yield run


def _answered(completions: list[Any]) -> Outcome:
    tokens = np.array([list(c.token_ids) for c in completions], np.int32)
    logp = [[at[t].logprob for t, at in zip(c.token_ids, c.logprobs, strict=True)] for c in completions]
    return {"tokens": tokens, "logp": np.array(logp, np.float32), "version": np.zeros_like(tokens)}


def rows(pairs: int) -> list[Row]:
    """The rollout ratio.

    Raises:
        WrongResultError: the sides sampled different tokens or report different logprobs.
    """
    with TemporaryDirectory(prefix="llmrl-speed-") as folder:
        model = build_model(Path(folder))
        silence_the_end(model)
        with started({"raw": (raw, model), "ours": (ours, model)}) as sides:
            found = in_turns(sides, rounds=pairs)
    must_agree(found["raw"], found["ours"], tolerance={"tokens": 0, "version": 0, "logp": 1e-4})
    assert found["ours"].outcomes[0]["tokens"].shape == (PROMPTS * PER_PROMPT, TOKENS)  # forced by the model
    rate = 2 * pairs * PROMPTS * PER_PROMPT * TOKENS / sum(found["raw"].seconds)
    what = f"rollout tokens per CPU s over raw vLLM ({PROMPTS * PER_PROMPT} responses; raw {rate:,.0f}/s)"
    return [Row(what=what, ratios=speed_ratios(found["raw"], found["ours"]), target=TARGET)]
