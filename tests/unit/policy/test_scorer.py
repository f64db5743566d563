"""The scorer gives what the model's own logits give, and refuses models of which that is not true."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from llmrl.errors import ModelError
from llmrl.plan.architecture import architecture_of
from llmrl.policy.scorer import TokenScorer


def scores_one_by_one(model, inputs, temperature: float) -> tuple[Tensor, Tensor]:
    """Brute force: every target from the model's own logits on the sequence up to it."""
    logp, entropy = [], []
    for at, target in zip(inputs.predict_at.tolist(), inputs.targets.tolist(), strict=True):
        start = int(inputs.cu_seqlens[inputs.cu_seqlens <= at].max())
        prefix = inputs.tokens[:, start : at + 1]
        row = (model(prefix, use_cache=False).logits[0, -1] / temperature).log_softmax(-1)
        logp.append(row[target])
        entropy.append(-(row.exp() * row).sum())
    return torch.stack(logp), torch.stack(entropy)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_each_token_is_scored_as_the_model_alone_scores_it_after_its_prefix(
    tied, temperature, make_model, make_inputs
):
    model = make_model("qwen3", head_dim=16, tie_word_embeddings=tied)
    judge = make_model("qwen3", head_dim=16, tie_word_embeddings=tied, attention="eager")
    inputs = make_inputs(7, 2, 5)

    logp, entropy = TokenScorer(model)(inputs, temperature=temperature)
    wanted_logp, wanted_entropy = scores_one_by_one(judge, inputs, temperature)

    assert_close(logp, wanted_logp, rtol=1e-5, atol=1e-5)
    assert_close(entropy, wanted_entropy, rtol=1e-5, atol=1e-5)
    (logp.sum() + 2 * entropy.sum()).backward()
    (wanted_logp.sum() + 2 * wanted_entropy.sum()).backward()
    wanted = {name: p.grad for name, p in judge.named_parameters()}
    for name, parameter in model.named_parameters():
        assert_close(parameter.grad, wanted[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("qwen3", {"head_dim": 16, "tie_word_embeddings": False}),
        ("qwen2", {"tie_word_embeddings": True}),
        ("mixtral", {"num_local_experts": 8, "num_experts_per_tok": 2, "tie_word_embeddings": False}),
    ],
)
def test_a_row_costs_what_the_plan_says_of_the_models_config(kind, options, make_model):
    model = make_model(kind, **options)
    tokens, squares = np.array([100, 30]), np.array([100**2, 30**2])

    flops = TokenScorer(model).work.of(tokens=tokens, scored=tokens, squares=squares)

    # Norms and biases are left out on both sides.
    plan = architecture_of(model.config.to_dict(), where="here")
    assert flops.tolist() == [plan.forward_flops(n, n**2) for n in (100, 30)]


def test_a_token_that_is_not_scored_does_not_cost_the_head(make_model):
    work, tokens = TokenScorer(make_model("llama")).work, np.array([100])

    whole, half = (work.of(tokens=tokens, scored=tokens // n, squares=tokens**2) for n in (1, 2))

    assert (whole - half).tolist() == [50 * 2 * 23 * 32]


def test_wrapping_changes_neither_parameters_nor_their_names(make_model):
    model = make_model("llama", tie_word_embeddings=True)
    before = {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()}

    scorer = TokenScorer(model)

    assert {name: id(tensor) for name, tensor in model.state_dict(keep_vars=True).items()} == before
    assert [name for name, _ in scorer.named_parameters()] == [
        f"model.{name}" for name, _ in model.named_parameters()
    ]
    assert scorer.head.weight is model.get_input_embeddings().weight
    assert scorer.vocabulary == 23


def test_no_targets_give_a_gradient_of_zero_to_every_parameter(make_model, make_inputs):
    """What a rank without rows contributes: the same collectives, and nothing else."""
    scorer = TokenScorer(make_model("qwen2", tie_word_embeddings=False))
    inputs = make_inputs(1)

    logp, entropy = scorer(inputs, temperature=1.0)
    (logp.sum() + entropy.sum()).backward()

    assert logp.numel() == 0
    for parameter in scorer.parameters():
        assert parameter.grad is not None
        assert parameter.grad.eq(0).all()


def test_checkpointed_activations_give_the_same_gradient(make_model, make_inputs):
    inputs = make_inputs(7, 5)
    plain, saving = make_model("qwen3", head_dim=16).train(), make_model("qwen3", head_dim=16).train()
    saving.gradient_checkpointing_enable({"use_reentrant": False})

    for model in (plain, saving):
        TokenScorer(model)(inputs, temperature=1.0, entropy=False)[0].sum().backward()

    for ours, theirs in zip(saving.parameters(), plain.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad, rtol=1e-6, atol=1e-6)


def test_entropy_is_not_computed_unasked(make_model, make_inputs):
    assert TokenScorer(make_model("llama"))(make_inputs(3), temperature=1.0, entropy=False)[1] is None


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("granite", {"logits_scaling": 2.0}),
        ("cohere", {"logit_scale": 0.0625}),
        ("gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0, "attn_logit_softcapping": None}),
        ("nanochat", {}),
    ],
)
def test_logits_that_change_after_the_head_are_refused(kind, options, make_model):
    model = make_model(kind, **options)

    with pytest.raises(ModelError, match="ForCausalLM cannot be trained here: it changes its logits after"):
        TokenScorer(model)


def test_the_same_models_without_their_extras_are_taken(make_model):
    TokenScorer(make_model("granite", logits_scaling=1.0))
    TokenScorer(make_model("gemma2", head_dim=8, final_logit_softcapping=None, attn_logit_softcapping=None))


def test_states_that_change_before_the_head_are_refused(make_model):
    model = make_model("minicpm3", dim_model_base=16)

    with pytest.raises(ModelError, match="hidden states change before the head"):
        TokenScorer(model)


def test_layers_that_carry_a_state_across_sequences_are_refused(make_model):
    model = make_model("mamba")

    with pytest.raises(
        ModelError, match="MambaForCausalLM cannot be trained here: packed sequences see each"
    ):
        TokenScorer(model)


def test_layers_that_the_proof_is_too_short_for_are_refused_by_kind(make_model):
    model = make_model("lfm2", layer_types=["conv", "full_attention"])

    with pytest.raises(ModelError, match="its layers use conv"):
        TokenScorer(model)


def test_a_router_that_draws_at_random_is_refused(make_model):
    with pytest.raises(ModelError, match="its router draws experts at random while it trains"):
        TokenScorer(make_model("phimoe", num_local_experts=4, router_jitter_noise=0.01))
    assert TokenScorer(make_model("phimoe", num_local_experts=4, router_jitter_noise=0.0)).vocabulary == 23


def test_a_head_that_is_not_linear_is_refused(make_model):
    model = make_model("llama")
    model.set_output_embeddings(nn.Sequential(nn.Linear(32, 23)))

    with pytest.raises(ModelError, match="its head is Sequential, not a plain linear layer"):
        TokenScorer(model)
