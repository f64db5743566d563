"""The policy as a module: packed tokens in, logprobs and entropies of the chosen tokens out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrl.batches.collate import Inputs
from llmrl.batches.work import Work
from llmrl.errors import ModelError
from llmrl.policy.head import TokenHead

if TYPE_CHECKING:
    from llmrl.policy.ulysses import Ulysses

LEAK = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Relative difference that rounding explains, by dtype; 2e-2 in half precision."""


PLAIN_LAYERS = {"full_attention", "sliding_attention"}


class TokenScorer(nn.Module):
    """A causal language model of transformers that scores tokens instead of returning logits."""

    def __init__(self, model: PreTrainedModel, ulysses: Ulysses | None = None) -> None:
        """Wrap ``model`` without changing it; Parameters and their names stay its own.

        Args:
            model: a model of transformers.
            ulysses: the ranks that share the tokens of every input; all of them score the same ones.

        Raises:
            ModelError: the model does more than apply a linear head to its last hidden states, or its
                packed sequences see each other.
        """
        super().__init__()
        _refuse_layers(model)
        linear = _head_of(model)
        _prove(model, linear)
        self.model = model
        self.head = TokenHead(linear)
        self._ulysses = ulysses

    @property
    def vocabulary(self) -> int:
        """Rows of the head; every token id is smaller."""
        return int(self.head.weight.shape[0])

    @property
    def work(self) -> Work:
        """The cost of rows, from the sizes of the matrices; only valid while no parameter is sharded.

        Of fused experts, [E, ., .], a token meets the config's ``num_experts_per_tok``. Every layer counts as
        one that attends to the whole past.
        """
        config = cast("Any", self.model.config)
        sizes = cast("dict[str, Any]", config.to_dict())
        width = sizes.get("head_dim") or config.hidden_size // config.num_attention_heads
        apart = {id(self.model.get_input_embeddings().weight), id(self.head.weight)}
        body = 0.0
        for weight in self.model.parameters():
            if weight.ndim >= 2 and id(weight) not in apart:
                share = config.num_experts_per_tok / weight.shape[0] if weight.ndim == 3 else 1.0
                body += share * weight.numel()
        return Work(
            per_token=2 * body,
            per_scored=2.0 * self.head.weight.numel(),
            per_square=2.0 * config.num_hidden_layers * config.num_attention_heads * width,
        )

    def forward(
        self, inputs: Inputs, *, temperature: float, entropy: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """[M] nats of the targets under softmax(logits / temperature), and [M] entropies of it if wanted."""
        if self._ulysses is None:
            hidden = _hidden(self.model, inputs).index_select(0, inputs.predict_at)
            return self.head(hidden, inputs.targets, temperature, entropy)
        return self._shared(self._ulysses, inputs, temperature, entropy)

    def _shared(
        self, ulysses: Ulysses, inputs: Inputs, temperature: float, entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        part, mine = ulysses.share(inputs)
        hidden = _hidden(self.model, part, ulysses=ulysses).index_select(0, part.predict_at)
        logp, spread = self.head(hidden, part.targets, temperature, entropy)
        targets = inputs.targets.shape[0]
        joined = ulysses.join(logp, mine, targets)
        return joined, None if spread is None else ulysses.join(spread, mine, targets)


def _hidden(model: PreTrainedModel, inputs: Inputs, **others: Ulysses) -> Tensor:
    """[N, H] last hidden states of a packed row; ``others`` are passed on to attention."""
    return model.base_model(**_arguments(inputs), **others).last_hidden_state[0]


def _arguments(inputs: Inputs) -> dict[str, Any]:
    """Packed inputs under the names that transformers has for them."""
    return {
        "input_ids": inputs.tokens,
        "position_ids": inputs.positions,
        "cu_seq_lens_q": inputs.cu_seqlens,
        "cu_seq_lens_k": inputs.cu_seqlens,
        "max_length_q": inputs.max_length,
        "max_length_k": inputs.max_length,
        "use_cache": False,
    }


def _head_of(model: PreTrainedModel) -> nn.Linear:
    head = cast("object", model.get_output_embeddings())
    if not isinstance(head, nn.Linear):
        _refuse(
            model,
            f"its head is {type(head).__name__}, not a plain linear layer",
            "leave the head out of model.lora.targets, or use a plain causal language model",
        )
    return head


def _refuse_layers(model: PreTrainedModel) -> None:
    """Refuse layers whose kind shows only on sequences longer than the proof's."""
    kinds = cast("list[str] | None", model.config.to_dict().get("layer_types")) or []
    if other := sorted(set(kinds) - PLAIN_LAYERS):
        _refuse(model, f"its layers use {other[0]}", "use one whose layers are all plain attention")
    if getattr(model.config, "router_jitter_noise", 0.0):
        _refuse(
            model,
            "its router draws experts at random while it trains (router_jitter_noise)",
            "use one whose router is always the same",
        )


def _prove(model: PreTrainedModel, head: nn.Linear) -> None:
    """Check on two tiny sequences that scoring them apart from the model's own logits is right.

    The head's output is replaced by known numbers, so that whatever changes logits after it (caps,
    scales, offsets) is seen, however small it would be for this model's weights.
    """
    seen: list[Tensor] = []
    known = torch.linspace(-100, 100, head.out_features, dtype=head.weight.dtype, device=head.weight.device)

    def replace_output(_: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
        seen.append(arguments[0])
        return known.expand_as(output)

    handle = head.register_forward_hook(replace_output)
    try:
        with torch.no_grad():
            logits = model(**_arguments(_two_sequences(0, head.weight.device))).logits
            other = _hidden(model, _two_sequences(1, head.weight.device))
    finally:
        handle.remove()
    if not torch.equal(logits.to(known.dtype), known.expand_as(logits)):
        _refuse(model, "it changes its logits after the head", "use one without a cap or scale on its logits")
    ours, theirs = seen[0][0, 3:], other[3:]
    if (ours - theirs).abs().max() > LEAK.get(ours.dtype, 2e-2) * ours.abs().max():
        _refuse(
            model,
            "packed sequences see each other, or hidden states change before the head",
            "use one whose layers are all plain attention",
        )


def _two_sequences(first: int, device: torch.device) -> Inputs:
    """Pack two sequences: three times the token ``first``, then three other tokens."""
    none = torch.zeros(0, dtype=torch.int64)
    return Inputs(
        tokens=torch.tensor([[first, first, first, 0, 1, 0]]),
        positions=torch.tensor([[0, 1, 2, 0, 1, 2]]),
        cu_seqlens=torch.tensor([0, 3, 6], dtype=torch.int32),
        max_length=3,
        predict_at=none,
        targets=none,
    ).to(device)


def _refuse(model: PreTrainedModel, why: str, instead: str) -> NoReturn:
    raise ModelError(f"{type(model).__name__} cannot be trained here: {why}; {instead}.")
