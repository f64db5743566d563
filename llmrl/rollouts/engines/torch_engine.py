"""A small engine on plain torch: the same promises as vLLM's, for machines that cannot install it.

Requests that wait are started together, left-padded, and decoded as one batch with a shared KV cache;
new weights and new requests get in between two tokens and two batches respectively. It also plays the
opponent, for which it keeps a second set of weights: the frozen reference or a moving average.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from llmrl.errors import EngineError
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.rollouts.engines.engine import Completion, Request, Sampler
from llmrl.rollouts.engines.opponent import geometric_mixture, move_average
from llmrl.rollouts.engines.serving import Serving
from llmrl.rollouts.rollout import Stop
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.layout import Layout
from llmrl.weights.proof import check_names, stored_tensors
from llmrl.weights.receiver import Receiver
from llmrl.weights.seat import Seat


@dataclass(slots=True, kw_only=True)
class _Answer:
    request: Request
    future: asyncio.Future[Completion]
    generator: torch.Generator
    tokens: list[int] = field(default_factory=list[int])
    logp: list[float] = field(default_factory=list[float])
    version: list[int] = field(default_factory=list[int])
    stop: Stop | None = None


class TorchEngine:
    """Owns its models; a task of the event loop decodes while there is something to decode."""

    def __init__(self, serving: Serving, *, device: str) -> None:
        self._serving, self._device = serving, torch.device(device)
        table, self._opponent = serving.model, serving.opponent
        self._stop_ids = frozenset(load_tokenizer(table).stop_ids)
        self._stored = stored_tensors(table.folder)
        dtype = torch.bfloat16 if table.dtype == "bfloat16" else torch.float32
        self._model: Any = self._loaded(dtype)
        # An average in bfloat16 would not move: its steps are smaller than the distance of two numbers.
        second = torch.float32 if self._opponent.kind == "average" else dtype
        self._second: Any = None if self._opponent.kind == "none" else self._loaded(second)
        self._layout = Layout(self._model, self._model.state_dict())
        self._receiver = Receiver(table.folder, dtype=table.dtype, device=self._device)
        self._version = 0
        self._asleep: list[torch.Size] = []
        self._between_tokens = asyncio.Lock()
        self._between_batches = asyncio.Lock()
        self._waiting: dict[Sampler, list[_Answer]] = {"policy": [], "opponent": []}
        self._decoder: asyncio.Task[None] | None = None

    async def generate(self, request: Request) -> Completion:
        """Generate one response."""
        if request.sampler == "opponent" and self._second is None:
            raise EngineError(f"request {request.id} is for the opponent, but opponent.kind is 'none'")
        if (
            request.tokens.size + request.max_tokens > self._serving.model.context_tokens
            or request.max_tokens < 1
        ):
            raise EngineError(
                f"request {request.id}: {request.tokens.size} prompt and {request.max_tokens} response "
                f"tokens do not fit model.context_tokens = {self._serving.model.context_tokens}"
            )
        self._check_awake(f"request {request.id}")
        future: asyncio.Future[Completion] = asyncio.get_running_loop().create_future()
        generator = torch.Generator().manual_seed(request.seed)
        self._waiting[request.sampler].append(_Answer(request=request, future=future, generator=generator))
        if self._decoder is None or self._decoder.done():
            self._decoder = asyncio.create_task(self._decode())
        return await future

    async def score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        """Logprobs of ``tokens`` at temperature 1."""
        self._check_awake(f"a score of {tokens.size} tokens")
        async with self._between_tokens:
            return await asyncio.to_thread(self._score, tokens)

    async def join(self, seat: Seat) -> None:
        """Join with this process as the one member."""
        await asyncio.to_thread(self._receiver.join, seat)

    async def load(self, bundle: WeightBundle) -> None:
        """Copy the tensors in place between two tokens or batches; a moving average takes its step."""
        check_names(bundle, self._stored)
        # A broadcast that breaks off leaves the old weights as they are.
        tensors = await asyncio.to_thread(lambda: list(self._receiver.tensors(bundle)))
        drains = self._serving.engines.update == "drain"
        async with self._between_batches if drains else nullcontext(), self._between_tokens:
            self._wake()
            await asyncio.to_thread(self._take, tensors, versions=bundle.version - self._version)
            self._version = bundle.version

    async def sleep(self) -> None:
        """Drop the weights; an opponent's, which no bundle brings back, wait on the host."""
        async with self._between_batches, self._between_tokens:
            for parameter in self._model.parameters():
                self._asleep.append(parameter.shape)
                parameter.data = parameter.data.new_empty(0)
            if self._second is not None:
                self._second.to("cpu")
            if self._device.type == "cuda":
                torch.cuda.empty_cache()

    async def close(self) -> None:
        """Stop decoding."""
        if self._decoder is not None:
            self._decoder.cancel()

    def _loaded(self, dtype: torch.dtype) -> Any:
        table = self._serving.model
        model: Any = AutoModelForCausalLM.from_pretrained(
            str(table.path), dtype=dtype, trust_remote_code=table.trusts_code
        )
        return model.to(self._device).eval()

    def _check_awake(self, what: str) -> None:
        if self._asleep:
            raise EngineError(f"{what} came while the engine slept; it needs weights first")

    def _wake(self) -> None:
        """Make room for the weights, in the shapes they had when the engine fell asleep."""
        if self._asleep:
            for parameter, shape in zip(self._model.parameters(), self._asleep, strict=True):
                parameter.data = parameter.data.new_empty(shape)
            self._asleep = []
            if self._second is not None:
                self._second.to(self._device)

    async def _decode(self) -> None:
        while any(self._waiting.values()):
            # Let every request of the same moment join the batch.
            await asyncio.sleep(0)
            waiting = max(self._waiting.values(), key=len)
            size = self._serving.engines.max_sequences
            waiting.sort(key=lambda answer: answer.request.order)
            taken, waiting[:size] = waiting[:size], []
            batch = [answer for answer in taken if not answer.future.cancelled()]
            try:
                if batch:
                    async with self._between_batches:
                        await self._answer(batch)
            except Exception as error:  # noqa: BLE001  whatever a model raises, nobody waits for it for ever
                failure = f"torch engine failed: {type(error).__name__}: {error}"
                for answer in batch:
                    if not answer.future.done():
                        answer.future.set_exception(EngineError(failure))

    async def _answer(self, batch: list[_Answer]) -> None:
        width = max(answer.request.tokens.size for answer in batch)
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        seen = torch.zeros(len(batch), width, dtype=torch.long)
        for row, answer in enumerate(batch):
            prompt = torch.as_tensor(answer.request.tokens, dtype=torch.long)
            ids[row, width - len(prompt) :], seen[row, width - len(prompt) :] = prompt, 1
        whole, version, played = ids, self._version, self._unread(batch)
        while any(answer.stop is None and not answer.future.cancelled() for answer in batch):
            async with self._between_tokens:
                if self._serving.engines.update == "abort" and self._version != version:
                    ids, version, played = whole, self._version, self._unread(batch)
                    _seed_again(batch)
                ids = await asyncio.to_thread(self._next_tokens, batch, ids, seen, played)
            whole = torch.cat([whole, ids], dim=1)
            seen = torch.cat([seen, torch.ones(len(batch), 1, dtype=torch.long)], dim=1)

    def _unread(self, batch: list[_Answer]) -> list[tuple[Any, DynamicCache]]:
        """The models that answer, each with an empty cache."""
        return [(model, DynamicCache()) for model in self._models(batch[0].request.sampler)]

    def _models(self, sampler: Sampler) -> list[Any]:
        """The models whose logits decide, together, what the sampler says next."""
        if sampler == "policy":
            return [self._model]
        return [self._model, self._second] if self._opponent.kind == "mixture" else [self._second]

    @torch.inference_mode()
    def _next_tokens(
        self, batch: list[_Answer], ids: Tensor, seen: Tensor, played: list[tuple[Any, DynamicCache]]
    ) -> Tensor:
        voices = [self._next_logits(model, ids, seen, cache) for model, cache in played]
        logits = voices[0]
        if len(voices) == 2:
            logits = geometric_mixture(voices[0], voices[1], weight=self._opponent.mixture)
        return torch.tensor([[self._extend(answer, row)] for answer, row in zip(batch, logits, strict=True)])

    def _next_logits(self, model: Any, ids: Tensor, seen: Tensor, cache: DynamicCache) -> Tensor:
        positions = (seen.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        logits = model(
            input_ids=ids.to(self._device),
            attention_mask=seen.to(self._device),
            position_ids=positions.to(self._device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        return logits.float().cpu()

    def _extend(self, answer: _Answer, logits: Tensor) -> int:
        if answer.stop is not None:
            return 0
        temperature = answer.request.temperature
        logp = (logits / temperature if temperature else logits).log_softmax(-1)
        # The exponential race: the argmin of E / p is a sample of p.
        race = torch.empty_like(logp).exponential_(generator=answer.generator).log() - logp
        token = int((race if temperature else -logp).argmin())
        answer.tokens.append(token)
        answer.logp.append(float(logp[token]))
        answer.version.append(self._version)
        if token in self._stop_ids or len(answer.tokens) == answer.request.max_tokens:
            answer.stop = "stop" if token in self._stop_ids else "length"
            answer.future.get_loop().call_soon_threadsafe(_deliver, answer)
        return token

    @torch.inference_mode()
    def _score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        ids = torch.as_tensor(tokens, dtype=torch.long, device=self._device)[None]
        logp = self._model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        return np.concatenate([[0.0], logp.gather(-1, ids[0, 1:, None])[:, 0].cpu().numpy()]).astype(
            np.float32
        )

    @torch.inference_mode()
    def _take(self, tensors: Sequence[tuple[str, Tensor]], *, versions: int) -> None:
        weights = self._layout.stored(self._model.state_dict())
        average = self._opponent.kind == "average"
        averages = self._layout.stored(self._second.state_dict()) if average else {}
        for name, tensor in tensors:
            weights[name].copy_(tensor)
            if averages:
                newest, decay = weights[name], self._opponent.decay
                move_average(averages[name], newest, decay=decay, versions=versions)


def _seed_again(batch: list[_Answer]) -> None:
    """Give each response the seed of the request that continues it, as in ``continuation``."""
    for answer in batch:
        answer.generator.manual_seed(derive_seed(answer.request.seed, len(answer.tokens)))


def _deliver(answer: _Answer) -> None:
    assert answer.stop is not None  # promised by _extend
    if not answer.future.done():
        answer.future.set_result(
            Completion(
                tokens=np.array(answer.tokens, dtype=np.int32),
                logp=np.array(answer.logp, dtype=np.float32),
                version=np.array(answer.version, dtype=np.int32),
                stop=answer.stop,
            )
        )
