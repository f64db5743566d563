"""The opponent inside vLLM: the frozen reference beside the policy, mixed in before the temperature.

vLLM hands a logits processor the tokens of each response so far, so each response of the opponent keeps a KV
cache of the reference and reads every token once. Exact, but one forward pass of transformers per token and
response: the opponent is as slow as that, the policy's own responses cost nothing more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from llmrl.rollouts.engines.opponent import geometric_mixture

PROCESSOR = "llmrl.rollouts.engines.vllm_opponent:OpponentProcessor"
REFERENCE_WEIGHT = "reference_weight"
"""Extra argument of a request for the opponent: the weight of the reference, 1 for the reference alone."""


class OpponentProcessor(AdapterLogitsProcessor):
    """Made by vLLM where it samples; requests without the extra argument are left as they are."""

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        config = vllm_config.model_config
        model: Any = AutoModelForCausalLM.from_pretrained(
            config.model, dtype=config.dtype, trust_remote_code=config.trust_remote_code
        )
        self._reference: Any = model.to(device).eval()

    def is_argmax_invariant(self) -> bool:
        """False, as the reference may prefer another token."""
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> _Voice | None:
        """The callable that changes a request's logits; None for the policy's own."""
        weight = (params.extra_args or {}).get(REFERENCE_WEIGHT)
        return None if weight is None else _Voice(self._reference, weight)


class _Voice:
    """The reference's part in one response."""

    def __init__(self, reference: Any, weight: float) -> None:
        self._reference, self._weight = reference, weight
        self._cache, self._read = DynamicCache(), 0
        self._logits = torch.empty(0)

    @torch.inference_mode()
    def __call__(self, prompt: list[int], written: list[int], logits: Tensor) -> Tensor:
        unread = [*prompt, *written][self._read :]
        # Nothing is new while vLLM has yet to read the rest of a long prompt.
        if unread:
            ids = torch.tensor([unread], device=logits.device)
            output = self._reference(
                input_ids=ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1
            )
            self._read, self._logits = self._read + len(unread), output.logits[0, -1].to(logits.dtype)
        return geometric_mixture(logits, self._logits, weight=self._weight)
