"""Rollouts from vLLM: its asynchronous engine behind our protocol. The only file that generates with vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from dataclasses import asdict
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
from vllm import AsyncEngineArgs, SamplingParams
from vllm.config import WeightTransferConfig
from vllm.distributed.weight_transfer.base import WeightTransferInitRequest
from vllm.exceptions import VLLMValidationError
from vllm.inputs import tokens_input
from vllm.logprobs import FlatLogprobs, Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine import PauseMode
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from llmrl.errors import DisconnectedError, EngineError, WeightSyncError
from llmrl.footprint import CPU_KV_CACHE_MIB, forward_tokens
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Opponent
from llmrl.rollouts.engines.continuation import joined, rest_of
from llmrl.rollouts.engines.engine import Completion, Request
from llmrl.rollouts.engines.serving import Serving
from llmrl.rollouts.engines.vllm_opponent import PROCESSOR, REFERENCE_WEIGHT
from llmrl.rollouts.engines.vllm_scheduler import FIRST
from llmrl.rollouts.rollout import Stop
from llmrl.weights.backend import BACKEND, told
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.device import share_beside
from llmrl.weights.proof import Stored, check_names, stored_tensors
from llmrl.weights.seat import ABANDONED, Seat

T = TypeVar("T")

WORKER_EXTENSION = "llmrl.weights.receive.WorkerExtension"
SCHEDULER = "llmrl.rollouts.engines.vllm_scheduler.Whole"
PAUSES: dict[str, tuple[PauseMode, ...]] = {"keep": ("keep",), "drain": ("wait",), "abort": ("keep", "abort")}
"""vLLM's words for ``engines.update``; what is aborted is kept first, so that all its tokens have arrived."""

LOOK_S = 1.0
"""Seconds between two looks at whether vLLM's process is alive."""


class VllmEngine:
    """Owns one AsyncLLM; every method may run while responses are being generated."""

    def __init__(self, serving: Serving, *, device: str) -> None:
        self._serving = serving
        self._stop_ids = list(load_tokenizer(serving.model).stop_ids)
        self._stored = stored_tensors(serving.model.folder)
        self._llm = AsyncLLM.from_engine_args(_arguments(serving, device, self._stored))
        self._version = 0
        self._broken: str | None = None
        self._asleep = False
        self._door = asyncio.Event()
        self._door.set()
        self._scored = 0
        self._transfer_ready = False

    async def open(self) -> None:
        """Make the query now that the first request would otherwise wait for."""
        await self._answered(self._llm.get_supported_tasks(), doing="started")

    async def generate(self, request: Request) -> Completion:
        """Generate one response, its logprobs, and the version of each token as vLLM reports it."""
        completion = await self._sample(request)
        while completion.stop == "abort" and self._serving.engines.update == "abort":
            completion = joined(completion, await self._sample(rest_of(request, completion)))
        return completion

    async def score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Prompt logprobs of ``tokens``."""
        self._refuse_if_broken()
        self._scored += 1
        sampling = SamplingParams(
            max_tokens=1, prompt_logprobs=0, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
        )
        name = f"score-{self._scored}"
        output = await self._run(name, tokens, sampling, salt="score", priority=FIRST)
        listed = cast("Sequence[dict[int, Logprob] | None]", output.prompt_logprobs)
        return np.array([0.0, *_chosen(listed[1:], tokens[1:])], dtype=np.float32)

    async def join(self, seat: Seat) -> None:
        """Make every worker a member."""
        await self._answered(self._agree({"seat": asdict(seat)}), doing="joined the group of a broadcast")

    async def load(self, bundle: WeightBundle) -> None:
        """Run one update session of vLLM; ``engines.update`` says what becomes of the requests."""
        check_names(bundle, self._stored)
        self._door.clear()
        self._broken = f"a sync of weights {bundle.version} failed half-way and must be repeated first"
        try:
            await self._answered(self._update(bundle), doing=f"took weights {bundle.version}")
            self._version, self._broken = bundle.version, None
        except Exception as error:  # vLLM knows no other class for what a worker has raised
            raise _failed(bundle.version, error) from error
        finally:
            self._door.set()

    async def _sample(self, request: Request) -> Completion:
        # Wait while weights change, so that the salt below is that of the weights that will be used. Whom one
        # sync wakes up may find the next one under way.
        while not self._door.is_set():
            await self._door.wait()
        self._refuse_if_broken()
        sampling = SamplingParams(
            temperature=request.temperature,
            max_tokens=request.max_tokens,
            seed=request.seed,
            logprobs=0,
            flat_logprobs=True,
            detokenize=bool(self._serving.stop),
            stop=list(self._serving.stop),
            skip_special_tokens=False,  # a stop text may be one, such as the end of a turn
            stop_token_ids=self._stop_ids,
            include_stop_str_in_output=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
            extra_args=self._opponent_arguments(request),
        )
        # The salt keeps a new request away from the KV cache of older weights. From the door to vLLM's queue
        # nothing gives way to another task, or a sync could come between, and the salt would be an old one.
        salt = f"v{self._version}"
        output = await self._run(request.id, request.tokens, sampling, salt=salt, priority=request.order)
        return _completion(output.outputs[0])

    def _refuse_if_broken(self) -> None:
        if self._broken:
            raise EngineError(self._broken)

    def _opponent_arguments(self, request: Request) -> dict[str, float] | None:
        if request.sampler == "policy":
            return None
        weight = _reference_weight(self._serving.opponent)
        if weight is None:
            raise EngineError(
                f"request {request.id} is for the opponent, but vLLM plays none of opponent.kind "
                f"'{self._serving.opponent.kind}'"
            )
        return {REFERENCE_WEIGHT: weight}

    async def _agree(self, init: dict[str, Any]) -> None:
        await self._llm.init_weight_transfer_engine(WeightTransferInitRequest(init_info=init))
        self._transfer_ready = True

    async def sleep(self) -> None:
        """Drop weights and KV cache (vLLM's level 2), as the next weights are complete.

        vLLM's CPU build keeps both, and only stops.
        """
        await self._answered(self._llm.sleep(level=2), doing="fell asleep")
        self._asleep, self._broken = True, "the engine sleeps and needs weights first"

    async def _answered(self, call: Coroutine[Any, Any, T], *, doing: str) -> T:
        """Wait for an answer of vLLM's process; if that is gone, vLLM itself would wait for ever.

        Raises:
            EngineError: it is gone.
        """
        answer = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait({answer}, timeout=LOOK_S))[0]:
                if self._llm.errored:
                    raise EngineDeadError
            return answer.result()
        except EngineDeadError as error:
            raise EngineError(f"vLLM died while it {doing}") from error
        finally:
            answer.cancel()

    async def _update(self, bundle: WeightBundle) -> None:
        if not self._transfer_ready:
            await self._agree({})
        if self._asleep:
            await self._llm.wake_up(["weights"])
        # Not pause_generation(), which goes on to sleep for 20 ms for the sake of the order of outputs.
        for mode in PAUSES[self._serving.engines.update]:
            await self._llm.engine_core.pause_scheduler_async(mode=mode, clear_cache=False)
        await self._llm.collective_rpc("take_weights", args=(told(bundle),))
        onward: list[Awaitable[object]] = [self._llm.update_weight_version(str(bundle.version))]
        if self._asleep:
            # Not earlier: the weights come in without the cache's memory.
            onward.append(self._llm.wake_up(["kv_cache"]))
        onward.append(self._llm.resume_generation())
        # At once, as each answer wakes this process up; vLLM's process takes them in this order.
        await asyncio.gather(*onward)
        self._asleep = False

    async def close(self) -> None:
        """Stop the engine's processes."""
        await asyncio.to_thread(self._llm.shutdown)

    async def _run(
        self, name: str, tokens: NDArray[np.int32], sampling: SamplingParams, *, salt: str, priority: int
    ) -> RequestOutput:
        # What vLLM calls rendered: anything else first queues for a thread of its own.
        prompt = tokens_input(tokens.tolist(), cache_salt=salt)
        last: RequestOutput | None = None
        try:
            async for output in self._llm.generate(prompt, sampling, request_id=name, priority=priority):
                last = output
        except EngineDeadError as error:
            raise EngineError(f"vLLM died while it worked on request {name}: {error}") from error
        except VLLMValidationError as error:
            raise EngineError(
                f"vLLM refused request {name} of {tokens.size} prompt tokens: {error}"
            ) from error
        if last is None:
            raise EngineError(f"vLLM ended request {name} without an answer")
        return last


def _share(serving: Serving, stored: Stored, device: str) -> float:
    """Share of the GPU's memory: the recipe's, or less beside a copy of the policy's weights."""
    most = serving.engines.gpu_memory_utilization
    beside = device == "cuda" and serving.beside_copy
    return share_beside(stored, dtype=serving.model.dtype, most=most) if beside else most


def _arguments(serving: Serving, device: str, stored: Stored) -> AsyncEngineArgs:
    engines, cpu = serving.engines, device == "cpu"
    kv_cache_mib = engines.kv_cache_mib or (CPU_KV_CACHE_MIB if cpu else None)
    return AsyncEngineArgs(
        model=str(serving.model.path),
        # Config, weights and tokenizer as the policy reads them, also where Mistral's own format lies beside.
        config_format="hf",
        load_format="hf",
        tokenizer_mode="hf",
        skip_tokenizer_init=not serving.stop,
        trust_remote_code=serving.model.trusts_code,
        dtype=serving.model.dtype,
        max_model_len=serving.model.context_tokens,
        # The last place is for what is scored, which waits for none.
        max_num_seqs=engines.max_sequences + 1,
        max_num_active_seqs=engines.max_sequences,
        scheduling_policy="priority",
        tensor_parallel_size=engines.tensor_parallel,
        # Left to itself vLLM would ask Ray for its workers, in a placement group that has no room for them:
        # this process holds all GPUs of the engine.
        distributed_executor_backend="uni" if engines.tensor_parallel == 1 else "mp",
        gpu_memory_utilization=_share(serving, stored, device),
        kv_cache_memory_bytes=kv_cache_mib * 2**20 if kv_cache_mib else None,
        # On CPU vLLM cannot take back the draw of a seeded request whose prompt it has read in part.
        enable_chunked_prefill=not cpu,
        max_num_batched_tokens=forward_tokens(
            device, sequences=engines.max_sequences, context=serving.model.context_tokens
        ),
        enforce_eager=cpu if engines.eager is None else engines.eager,
        # As the policy's head: logits rounded to bfloat16 are off by 0.06 nats at 20. On CPU vLLM would copy
        # the matrix to float32 for every token.
        hf_overrides={} if cpu else {"head_dtype": "float32"},
        # Off-policy ratios need log-softmax of (logits / temperature), not of the raw logits.
        logprobs_mode="processed_logprobs",
        scheduler_cls=f"{SCHEDULER}{'' if cpu else 'Async'}Scheduler",
        enable_sleep_mode=serving.takes_turns and not cpu,
        worker_extension_cls=WORKER_EXTENSION,
        weight_transfer_config=WeightTransferConfig(backend=BACKEND),
        logits_processors=None if _reference_weight(serving.opponent) is None else [PROCESSOR],
        enable_log_requests=False,
        disable_log_stats=True,
    )


def _failed(version: int, error: Exception) -> WeightSyncError:
    if isinstance(error, EngineError):
        return WeightSyncError(str(error))
    kind = DisconnectedError if ABANDONED in str(error) else WeightSyncError
    return kind(f"vLLM did not take weights {version}: {error}")


def _reference_weight(opponent: Opponent) -> float | None:
    """Weight of the reference in the opponent's logits; None without an opponent that vLLM can play."""
    return {"reference": 1.0, "mixture": opponent.mixture}.get(opponent.kind)


def _completion(output: CompletionOutput) -> Completion:
    tokens = np.asarray(output.token_ids, dtype=np.int32)
    version = np.zeros(tokens.size, dtype=np.int32)
    for span in output.weight_versions or ():
        version[span.start : span.end] = 0 if span.version == "default" else int(span.version)
    stop: Stop = (
        "length"
        if output.finish_reason == "length"
        else "stop"
        if output.finish_reason == "stop"
        else "abort"
    )
    flat = cast("FlatLogprobs", output.logprobs)
    return Completion(
        tokens=tokens, logp=np.asarray(flat.logprobs, dtype=np.float32), version=version, stop=stop
    )


def _chosen(listed: Sequence[dict[int, Logprob] | None], tokens: NDArray[np.int32]) -> list[float]:
    return [entry[token].logprob for entry, token in zip(listed, tokens.tolist(), strict=True) if entry]
