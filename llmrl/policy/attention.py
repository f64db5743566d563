"""Attention over packed rows: sequences end to end in one row, none of which sees another.

transformers calls it by the name ``llmrl_packed``; linear layers never see padding. On a GPU in half
precision it is torch's variable-length kernel, elsewhere the sequences are padded for this one operation.
No mask function is registered under the name, and transformers then makes no mask at all.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import pad, scaled_dot_product_attention
from transformers import AttentionInterface

from llmrl.errors import ModelError

if TYPE_CHECKING:
    from llmrl.policy.ulysses import Ulysses

PACKED = "llmrl_packed"
"""Name of this attention in transformers' ``attn_implementation``."""

LARGEST_RATIO = 1.2
"""Largest ratio between lengths of sequences that are padded together."""

LARGEST_HEAD = 256
"""Largest head dimension that the variable-length kernel supports."""

_ARGUMENTS = inspect.signature(varlen_attn).parameters.keys()
_KERNEL_HAS_WINDOWS = {"scale", "window_size", "enable_gqa"} <= _ARGUMENTS
"""Whether this torch's kernel takes the arguments used here; that of 2.13 does."""


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int | None = None,
    ulysses: Ulysses | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention of each sequence to itself, as transformers' attention interface calls it.

    Args:
        module: the attention layer; only its class is named.
        query: [1, heads, N, d].
        key: [1, key heads, N, d].
        value: [1, key heads, N, d].
        attention_mask: must be None.
        scaling: factor of the products; 1 / sqrt(d) by default.
        dropout: must be 0.
        sliding_window: number of tokens that a token sees, itself included.
        cu_seq_lens_q: [S + 1] int32 starts of the sequences, then N; None if each row is one sequence.
        max_length_q: length of the longest sequence in tokens.
        ulysses: the ranks that share the tokens; query, key and value are then this rank's slice of them.
        others: further arguments of the model; any that would change the result is refused.

    Returns:
        [1, N, heads, d], and None where transformers expects the weights.

    Raises:
        ModelError: the model asks for attention of another kind.
    """
    _refuse(module, attention_mask, dropout, others)
    if query.shape[2] != key.shape[2]:
        raise ModelError(f"{PACKED} attention trains on whole sequences and knows no key-value cache.")

    def whole(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        if cu_seq_lens_q is None or max_length_q is None:
            return _attend(query, key, value, scaling, sliding_window).transpose(1, 2)
        q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
        if _kernel_takes(q, v):
            return _with_kernel(q, k, v, cu_seq_lens_q, max_length_q, scaling, sliding_window)[None]
        return _with_padding(q, k, v, cu_seq_lens_q, scaling, sliding_window)[None]

    return ulysses.attend(whole, query, key, value) if ulysses else whole(query, key, value), None


def _refuse(module: nn.Module, mask: Tensor | None, dropout: float, others: dict[str, Any]) -> None:
    kinds = {
        "a mask of its own": mask is not None,
        "dropout": dropout > 0,
        "capped scores": others.get("softcap") is not None,
        "sinks": others.get("s_aux") is not None,
        "position biases": others.get("position_bias") is not None,
        "tokens that see the future": others.get("is_causal") is False,
    }
    if found := [kind for kind, is_so in kinds.items() if is_so]:
        raise ModelError(
            f"{type(module).__name__} uses attention with {' and '.join(found)}, which cannot be trained on "
            f"packed sequences yet; use a model with plain causal attention (Llama, Qwen, Mistral ...)."
        )


def _attend(query: Tensor, key: Tensor, value: Tensor, scaling: float | None, window: int | None) -> Tensor:
    """[B, heads, L, d] attention; a window shorter than the rows needs a mask."""
    band = _band(query.shape[2], window, query.device)
    # On a GPU the one kernel that takes the rest and does not keep [heads, L, L] wants equal heads.
    if query.is_cuda and not _kernel_takes(query, value):
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=band,
        is_causal=band is None,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _band(length: int, window: int | None, device: torch.device) -> Tensor | None:
    if window is None or window >= length:
        return None
    position = torch.arange(length, device=device)
    back = position[:, None] - position
    return (back >= 0) & (back < window)


def _with_padding(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """Attend to sequences of like lengths together, padded at the end, which causal attention ignores."""
    lengths = cu_seqlens.diff()
    order = lengths.argsort(descending=True, stable=True)
    counts = _alike(cast("list[int]", lengths[order].tolist()))
    reals: list[Tensor] = []
    places: list[Tensor] = []
    for rows in cast("tuple[Tensor, ...]", order.split(counts)):
        within = torch.arange(int(lengths[rows[0]]), device=query.device)
        reals.append(within < lengths[rows, None])
        places.append((cu_seqlens[rows, None] + within)[reals[-1]])
    moved = torch.cat(places)
    sizes = [part.numel() for part in places]

    def parted(x: Tensor) -> tuple[Tensor, ...]:
        # Moved at once: the gradient of a part's own index would be as large as that of the whole.
        return cast("tuple[Tensor, ...]", x.index_select(0, moved).split(sizes))

    out = [
        _padded(q, k, v, real, scaling, window)
        for q, k, v, real in zip(parted(query), parted(key), parted(value), reals, strict=True)
    ]
    return torch.cat(out).index_select(0, moved.argsort())


def _alike(lengths: Sequence[int]) -> list[int]:
    """Number of lengths, given longest first, that are padded together: padding costs their squares."""
    counts = [0]
    longest = lengths[0]
    for length in lengths:
        if longest > LARGEST_RATIO * length:
            counts.append(0)
            longest = length
        counts[-1] += 1
    return counts


def _padded(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    real: Tensor,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    """[n, heads, d] attention of the tokens that are ``real`` in [rows, width]."""
    slots = real.flatten().nonzero()[:, 0]

    def unpacked(x: Tensor) -> Tensor:
        flat = x.new_zeros(real.numel(), *x.shape[1:]).index_copy(0, slots, x)
        return flat.view(*real.shape, *x.shape[1:]).transpose(1, 2)

    out = _attend(unpacked(query), unpacked(key), unpacked(value), scaling, window)
    return out.transpose(1, 2).flatten(0, 1).index_select(0, slots)


def _with_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seqlens: Tensor,
    max_length: int,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    # The kernel wants equal head dimensions in multiples of eight.
    width = -(-query.shape[-1] // 8) * 8
    q, k, v = (pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        cu_seqlens,
        cu_seqlens,
        max_length,
        max_length,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        # The kernel counts the tokens before a token, transformers counts the token too.
        window_size=(-1 if window is None else window - 1, 0),
        enable_gqa=q.shape[1] != k.shape[1],
    )
    assert isinstance(out, Tensor)  # promised for return_aux = None
    return out[..., : value.shape[-1]]


def _kernel_takes(query: Tensor, value: Tensor) -> bool:
    return (
        query.is_cuda
        and query.dtype in (torch.bfloat16, torch.float16)
        and value.shape[-1] <= query.shape[-1] <= LARGEST_HEAD
        and _KERNEL_HAS_WINDOWS
    )


AttentionInterface.register(PACKED, packed_attention)
