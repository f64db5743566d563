"""Packed attention is each sequence's own attention, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from llmrl.batches.collate import Inputs
from llmrl.errors import ModelError
from llmrl.policy.attention import packed_attention

KINDS = {
    "qwen3": {"head_dim": 16},
    "qwen2": {},
    "llama": {},
    "llama, one key head": {"num_key_value_heads": 1},
    "llama, no groups": {"num_key_value_heads": 4},
    "mistral, a window of 4": {"sliding_window": 4},
    "mistral, a window longer than all": {"sliding_window": 100},
    "qwen3_moe": {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma3_text, windows in some layers": {
        "head_dim": 8,
        "sliding_window": 3,
        "layer_types": ["sliding_attention", "full_attention"],
    },
}


def hidden_of(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    return model.base_model(
        input_ids=inputs.tokens,
        position_ids=inputs.positions,
        cu_seq_lens_q=inputs.cu_seqlens,
        max_length_q=inputs.max_length,
        use_cache=False,
    ).last_hidden_state[0]


def hidden_one_by_one(model: PreTrainedModel, inputs: Inputs) -> Tensor:
    sequences = inputs.tokens[0].tensor_split(inputs.cu_seqlens[1:-1].tolist())
    return torch.cat(
        [model.base_model(input_ids=s[None], use_cache=False).last_hidden_state[0] for s in sequences]
    )


def gradients(model: nn.Module, hidden: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    generator = torch.Generator().manual_seed(1)
    (hidden * torch.randn(hidden.shape, generator=generator)).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).detach().norm() / theirs.detach().norm().clamp(min=1e-12))


@pytest.mark.parametrize("case", KINDS)
@pytest.mark.parametrize("lengths", [(9, 3, 1, 12), (5,), (6, 6)], ids=str)
def test_packed_sequences_equal_eager_attention_on_each_alone(case, lengths, make_model, make_inputs):
    kind, options = case.split(",")[0], KINDS[case]
    packed = make_model(kind, **options)
    eager = make_model(kind, attention="eager", **options)
    inputs = make_inputs(*lengths)

    ours, theirs = hidden_of(packed, inputs), hidden_one_by_one(eager, inputs)

    assert relative(ours, theirs) < 1e-5
    got, wanted = gradients(packed, ours), gradients(eager, theirs)
    assert got.keys() == wanted.keys()
    assert max(relative(got[name], wanted[name]) for name in wanted) < 1e-5


def test_a_window_that_is_one_token_too_long_would_be_noticed(make_model, make_inputs):
    inputs = make_inputs(9)
    right = make_model("mistral", attention="eager", sliding_window=4)
    wrong = make_model("mistral", sliding_window=5)

    assert relative(hidden_of(wrong, inputs), hidden_one_by_one(right, inputs)) > 1e-3


def test_changing_one_sequence_leaves_the_others_bitwise_alone(make_model, make_inputs):
    model, inputs = make_model("qwen3", head_dim=16), make_inputs(5, 7, 4)
    changed = inputs._replace(tokens=inputs.tokens.clone())
    changed.tokens[0, 5:12] = (changed.tokens[0, 5:12] + 1) % 23

    before, after = hidden_of(model, inputs), hidden_of(model, changed)

    assert torch.equal(before[:5], after[:5])
    assert torch.equal(before[12:], after[12:])
    assert not torch.equal(before[5:12], after[5:12])


def test_without_sequence_borders_each_row_is_one_sequence(make_model):
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])

    ours = make_model("llama")(tokens, use_cache=False).logits
    theirs = make_model("llama", attention="eager")(tokens, use_cache=False).logits

    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ({"dropout": 0.1}, "dropout"),
        ({"softcap": 50.0}, "capped scores"),
        ({"s_aux": torch.zeros(2)}, "sinks"),
        ({"position_bias": torch.zeros(1)}, "position biases"),
        ({"is_causal": False}, "tokens that see the future"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_attention_of_another_kind_is_refused_by_name(option, named):
    x = torch.zeros(1, 2, 3, 4)

    with pytest.raises(ModelError, match=f"Identity uses attention with {named}, which cannot be trained"):
        packed_attention(nn.Identity(), x, x, x, None, **option)


def test_a_mask_is_refused():
    x = torch.zeros(1, 2, 3, 4)

    with pytest.raises(ModelError, match="a mask of its own"):
        packed_attention(nn.Identity(), x, x, x, torch.ones(3, 3))


def test_a_key_value_cache_is_refused():
    x = torch.zeros(1, 2, 3, 4)

    with pytest.raises(ModelError, match="knows no key-value cache"):
        packed_attention(nn.Identity(), x[:, :, -1:], x, x, None)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [(90, 3, 1, 120), (64,)], ids=str)
@pytest.mark.parametrize("window", [None, 16])
def test_the_gpu_kernel_equals_padding(lengths, window):
    starts = torch.tensor([0, *lengths], device="cuda").cumsum(0).to(torch.int32)
    total = sum(lengths)

    def attend(dtype: torch.dtype) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shapes = ((1, 4, total, 40), (1, 2, total, 40), (1, 2, total, 40))
        q, k, v = (torch.randn(s, generator=generator).to("cuda", dtype).requires_grad_() for s in shapes)
        out, _ = packed_attention(
            nn.Identity(),
            q,
            k,
            v,
            None,
            sliding_window=window,
            cu_seq_lens_q=starts,
            max_length_q=max(lengths),
        )
        return [out, *torch.autograd.grad(out.float().square().sum(), (q, k, v))]

    for half, full in zip(attend(torch.bfloat16), attend(torch.float32), strict=True):
        assert relative(half.float(), full) < 2e-2
