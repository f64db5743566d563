"""The engines that a recipe can name. Each is imported only where it is started."""

from __future__ import annotations

import os
from dataclasses import dataclass

from llmrl.rollouts.engines.engine import Engine, engine
from llmrl.rollouts.engines.serving import Serving

CPU_ENVIRONMENT = {
    # One process per engine besides its owner, no binding of all engines to the same core, and no
    # compilation of sampling code that takes longer than a short run.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCH_COMPILE_DISABLE": "1",
}
CUDA_ENVIRONMENT = {
    # In float32 vLLM's attention is a Triton kernel, which would multiply with mantissas of 10 bits, and
    # disagree with the policy about every token.
    "TRITON_F32_DEFAULT": "ieee",
}
OPPONENT_ENVIRONMENT = {
    # The opponent is a logits processor of the kind that only vLLM's first model runner takes, which is
    # everybody's on CPU; on a GPU vLLM would choose the second, and refuse to start.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
QUIET_ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1"}


@engine("vllm")
@dataclass(frozen=True, slots=True, kw_only=True)
class Vllm:
    """vLLM's asynchronous engine, on GPUs or on CPU."""

    async def start(self, serving: Serving, *, device: str) -> Engine:
        """Load the model at ``serving.model.path`` and serve it."""
        for key, value in _environment(serving, device).items():
            os.environ.setdefault(key, value)
        # Importing it takes 6 s and reads the environment.
        from llmrl.rollouts.engines.vllm_engine import VllmEngine  # noqa: PLC0415

        made = VllmEngine(serving, device=device)
        await made.open()
        return made


def _environment(serving: Serving, device: str) -> dict[str, str]:
    return {
        **(CPU_ENVIRONMENT if device == "cpu" else CUDA_ENVIRONMENT),
        **({} if serving.opponent.kind == "none" else OPPONENT_ENVIRONMENT),
        **QUIET_ENVIRONMENT,
    }


@engine("torch")
@dataclass(frozen=True, slots=True, kw_only=True)
class Torch:
    """A small engine on plain torch and transformers, for machines without vLLM."""

    async def start(self, serving: Serving, *, device: str) -> Engine:
        """Load the model at ``serving.model.path`` and serve it."""
        # torch is loaded where it is used.
        from llmrl.rollouts.engines.torch_engine import TorchEngine  # noqa: PLC0415

        return TorchEngine(serving, device=device)
