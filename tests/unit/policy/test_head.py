"""The chunked head is log-softmax, gather and entropy: values and gradients, without the logits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from llmrl.policy.head import TokenHead, score_tokens


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, bias: Tensor | None = None):
    logp = (nn.functional.linear(hidden, weight, bias) / temperature).log_softmax(-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def example(tokens: int, *, width: int = 8, vocabulary: int = 37, dtype=torch.float64, scale: float = 1.0):
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, width, generator=generator, dtype=torch.float64) * scale
    weight = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    return hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_(), targets


def gradients(logp: Tensor, entropy: Tensor | None, *inputs: Tensor) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    loss = (logp * torch.randn(logp.shape, generator=generator, dtype=torch.float64).to(logp.dtype)).sum()
    if entropy is not None:
        loss = loss + (entropy * torch.randn(entropy.shape, generator=generator).to(entropy.dtype)).sum()
    return list(torch.autograd.grad(loss, inputs))


def test_three_tokens_worked_by_hand():
    # Logits 0 and log 3, so probabilities 1/4 and 3/4.
    hidden, weight = torch.ones(2, 1), torch.tensor([[1.0], [3.0]]).log()

    logp, entropy = score_tokens(hidden, weight, torch.tensor([0, 1]), temperature=1.0, entropy=True)

    assert logp.exp().tolist() == pytest.approx([0.25, 0.75])
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([0.562335] * 2)


@pytest.mark.parametrize("entropy", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_the_gradient_is_the_numerical_one(entropy, temperature):
    hidden, weight, targets = example(5, width=4, vocabulary=7)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True)

    def scores(hidden: Tensor, weight: Tensor, bias: Tensor):
        found = score_tokens(
            hidden, weight, targets, temperature=temperature, entropy=entropy, bias=bias, chunk=2
        )
        return tuple(x for x in found if x is not None)

    assert torch.autograd.gradcheck(scores, (hidden, weight, bias))


@pytest.mark.parametrize("chunk", [1, 2, 3, 10, 11, 1000, None])
@pytest.mark.parametrize("entropy", [True, False])
def test_values_and_gradients_are_the_naive_ones_in_every_chunk_size(chunk, entropy):
    hidden, weight, targets = example(11)
    wanted_logp, wanted_entropy = naive(hidden, weight, targets, 0.6)

    logp, found = score_tokens(hidden, weight, targets, temperature=0.6, entropy=entropy, chunk=chunk)

    torch.testing.assert_close(logp, wanted_logp, rtol=1e-12, atol=1e-12)
    assert (found is not None) == entropy
    if found is not None:
        torch.testing.assert_close(found, wanted_entropy, rtol=1e-12, atol=1e-12)
    wanted = gradients(wanted_logp, wanted_entropy if entropy else None, hidden, weight)
    for ours, theirs in zip(gradients(logp, found, hidden, weight), wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_float32_gradients_are_within_1e_5_of_float64():
    hidden, weight, targets = example(200, width=64, vocabulary=500)
    exact = gradients(*naive(hidden, weight, targets, 1.0), hidden, weight)
    h, w = (x.detach().float().requires_grad_() for x in (hidden, weight))

    found = gradients(*score_tokens(h, w, targets, temperature=1.0, entropy=True, chunk=32), h, w)

    for ours, theirs in zip(found, exact, strict=True):
        assert (ours.double() - theirs).norm() / theirs.norm() < 1e-5


def test_bfloat16_keeps_float32_statistics_and_gradients_of_the_inputs_dtype():
    hidden, weight, targets = example(64, width=32, vocabulary=300, dtype=torch.bfloat16, scale=0.3)
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    wanted_logp, wanted_entropy = naive(h, w, targets, 1.0)

    logp, entropy = score_tokens(hidden, weight, targets, temperature=1.0, entropy=True, chunk=16)

    assert logp.dtype == torch.float32
    assert entropy is not None
    # Products are rounded to 8 bits on a CPU; sums over the vocabulary are not.
    torch.testing.assert_close(logp.double(), wanted_logp, rtol=0, atol=0.02)
    torch.testing.assert_close(entropy.double(), wanted_entropy, rtol=0, atol=0.02)
    found = gradients(logp, entropy, hidden, weight)
    for ours, theirs in zip(found, gradients(wanted_logp, wanted_entropy, h, w), strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - theirs).norm() / theirs.norm() < 0.02


@pytest.mark.gpu
def test_on_a_gpu_bfloat16_products_are_not_rounded():
    hidden, weight, targets = (
        x.detach().to("cuda") for x in example(300, width=64, vocabulary=1000, dtype=torch.bfloat16)
    )
    hidden.requires_grad_()
    weight.requires_grad_()
    h, w = (x.detach().double().requires_grad_() for x in (hidden, weight))
    wanted_logp, wanted_entropy = naive(h, w, targets, 0.7)

    logp, entropy = score_tokens(hidden, weight, targets, temperature=0.7, entropy=True, chunk=64)

    assert entropy is not None
    torch.testing.assert_close(logp.double(), wanted_logp, rtol=0, atol=1e-4)
    torch.testing.assert_close(entropy.double(), wanted_entropy, rtol=0, atol=1e-4)
    wanted = torch.autograd.grad((wanted_logp + wanted_entropy).sum(), (h, w))
    for ours, theirs in zip(
        torch.autograd.grad((logp + entropy).sum(), (hidden, weight)), wanted, strict=True
    ):
        assert (ours.double() - theirs).norm() / theirs.norm() < 0.01


def test_extreme_logits_stay_finite():
    hidden = torch.tensor([[1e4], [-1e4], [0.0]], requires_grad=True)
    weight = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    targets = torch.tensor([0, 0, 2])

    logp, entropy = score_tokens(hidden, weight, targets, temperature=1.0, entropy=True)

    assert logp.tolist() == pytest.approx([0, -2e4, -1.0986123])
    assert entropy is not None
    assert entropy.tolist() == pytest.approx([0, 0, 1.0986123])
    for gradient in gradients(logp, entropy, hidden, weight):
        assert gradient.isfinite().all()


def test_no_tokens_have_no_scores_but_a_gradient_of_zero():
    hidden = torch.zeros(0, 4, requires_grad=True)
    weight, bias = torch.ones(6, 4, requires_grad=True), torch.ones(6, requires_grad=True)

    logp, entropy = score_tokens(
        hidden, weight, torch.zeros(0, dtype=torch.int64), temperature=1.0, entropy=True, bias=bias
    )
    assert entropy is not None
    (logp.sum() + entropy.sum()).backward()

    assert logp.shape == entropy.shape == (0,)
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros(6, 4))
    assert bias.grad is not None
    assert torch.equal(bias.grad, torch.zeros(6))


def test_a_frozen_head_gets_no_gradient_and_changes_none_of_the_others():
    hidden, weight, targets = example(6)
    wanted = gradients(*naive(hidden, weight, targets, 1.0), hidden)

    found = score_tokens(hidden, weight.detach(), targets, temperature=1.0, entropy=True)

    torch.testing.assert_close(gradients(*found, hidden), wanted)


def test_an_entropy_that_no_loss_reads_takes_no_part_in_the_gradient():
    hidden, weight, targets = example(6)
    # The last word cannot be: its share of the entropy is 0 times infinity.
    bias = torch.zeros(37, dtype=torch.float64)
    bias[-1] = -torch.inf
    wanted, _ = score_tokens(hidden, weight, targets % 36, temperature=1.0, entropy=False, bias=bias)

    logp, entropy = score_tokens(hidden, weight, targets % 36, temperature=1.0, entropy=True, bias=bias)

    assert entropy is not None
    assert entropy.isnan().all()
    for ours, theirs in zip(
        gradients(logp, None, hidden, weight), gradients(wanted, None, hidden, weight), strict=True
    ):
        assert ours.isfinite().all()
        assert torch.equal(ours, theirs)


def test_a_loss_of_the_entropy_alone_has_its_gradient():
    hidden, weight, targets = example(6)
    wanted = torch.autograd.grad(naive(hidden, weight, targets, 0.7)[1].sum(), (hidden, weight))

    _, entropy = score_tokens(hidden, weight, targets, temperature=0.7, entropy=True)

    assert entropy is not None
    torch.testing.assert_close(torch.autograd.grad(entropy.sum(), (hidden, weight)), wanted)


def test_the_head_shares_the_parameters_of_the_layer_it_is_made_from():
    linear = nn.Linear(4, 6)
    head = TokenHead(linear)

    logp, _ = head(torch.randn(3, 4), torch.tensor([0, 1, 5]), 1.0, False)
    logp.sum().backward()

    assert head.weight is linear.weight
    assert linear.weight.grad is not None
    assert linear.bias.grad is not None


def test_a_weight_that_comes_and_goes_between_passes_is_read_when_it_is_there():
    """What ZeRO-3 does: the Parameter's data is released after each pass and gathered before the next."""
    hidden, weight, targets = example(6)
    wanted = gradients(*naive(hidden, weight, targets, 1.0), hidden, weight)
    parameter = nn.Parameter(weight.detach().clone())
    whole = parameter.data
    logp, entropy = score_tokens(hidden, parameter, targets, temperature=1.0, entropy=True)

    parameter.data = torch.empty(0, dtype=whole.dtype)
    parameter.data = whole

    for ours, theirs in zip(gradients(logp, entropy, hidden, parameter), wanted, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("targets", [torch.zeros(4, dtype=torch.int64), torch.zeros(3, 1, dtype=torch.int64)])
def test_targets_of_another_shape_are_refused(targets):
    with pytest.raises(ValueError, match=r"hidden \(3, 8\), weight \(9, 8\) and targets \(.*\) must be"):
        score_tokens(torch.zeros(3, 8), torch.zeros(9, 8), targets, temperature=1.0, entropy=False)


def test_states_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"must be \[M, H\], \[V, H\] and \[M\]"):
        score_tokens(
            torch.zeros(3, 8), torch.zeros(9, 7), torch.zeros(3).long(), temperature=1.0, entropy=False
        )
