"""A process that owns a vLLM engine: it says when that has started, and waits to be killed."""

from __future__ import annotations

import asyncio
import sys

from llmrl.recipe.schema import Engines, Model
from llmrl.rollouts.engines import Serving
from llmrl.rollouts.engines.kinds import Vllm


async def own(folder: str, width: int) -> None:
    serving = Serving(
        model=Model(path=folder, context_tokens=256),
        engines=Engines(kind="vllm", tensor_parallel=width, max_sequences=16, kv_cache_mib=64),
    )
    _engine = await Vllm().start(serving, device="cpu")
    sys.stdout.write("started\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(own(sys.argv[1], int(sys.argv[2])))
