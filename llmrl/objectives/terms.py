"""Terms: the formulas that policy-gradient objectives share, all of them on [B, T] tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, get_args

from llmrl.objectives.contract import Mean, MeanOver, Metric, Unit

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores

Estimator = Literal["k1", "abs", "k2", "k3", "k1+", "k3+"]
"""Estimators of a token's KL from the sampled token alone; a ``+`` takes the gradient of k2."""

LARGEST = 20.0
"""Log-ratios beyond this, in nats, count as this and give no gradient, as in the public code of PPO."""


def require(allowed: bool, sentence: str, got: object) -> None:
    """Refuse an option that makes no sense.

    Raises:
        ValueError: ``allowed`` is False; the message is the sentence and the value.
    """
    if not allowed:
        raise ValueError(f"{sentence}, got {got!r}" if isinstance(got, str) else f"{sentence}, got {got}")


def require_token_mean(mean_over: MeanOver) -> None:
    """Refuse a reduction that has no meaning for a loss of tokens.

    Raises:
        ValueError: it is pairs, or a constant below 1.
    """
    units = ", ".join(unit for unit in get_args(Unit) if unit != "pairs")
    allowed = mean_over >= 1 if isinstance(mean_over, int) else mean_over != "pairs"
    require(allowed, f"mean_over must be one of {units}, or a number from 1 on", mean_over)


def log_ratio(current: TokenScores, batch: Batch) -> Tensor:
    """Log-ratio of the policy to ``old``, in nats; exactly 0 outside the mask, with its gradient."""
    return (current.logp - batch.old.logp).where(batch.mask, 0.0)


def ratio_of(log_ratio: Tensor) -> Tensor:
    """The importance ratio, finite whatever the log-ratio."""
    return log_ratio.clamp(-LARGEST, LARGEST).exp()


def clipped(ratio: Tensor, advantage: Tensor, low: float, high: float) -> Tensor:
    """PPO's loss: the ratio times the advantage, which stops paying outside ``1 - low`` .. ``1 + high``.

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    return -(ratio * advantage).minimum(ratio.clamp(1 - low, 1 + high) * advantage)


def gently_clipped(
    ratio: Tensor, advantage: Tensor, low: float, high: float, *, low_weight: float, high_weight: float
) -> Tensor:
    """The ratio times the advantage, but a token that PPO clips has the bound times a weight instead.

    Its gradient is the bound's, with respect to the logp, where PPO's is 0.
    Source: Su et al. 2025, "CE-GPPO", arXiv:2509.20712.
    """
    # 1 in value, with the gradient of the log-ratio.
    one = ratio / ratio.detach()
    below, above = beyond(ratio, advantage, low, high)
    held = ratio.where(~below, low_weight * (1 - low) * one).where(~above, high_weight * (1 + high) * one)
    return -held * advantage


def beyond(ratio: Tensor, advantage: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """Bool masks of the tokens that PPO clips: bad ones already too rare, good ones already too likely."""
    return (ratio < 1 - low) & (advantage < 0), (ratio > 1 + high) & (advantage > 0)


def dual_clipped(loss: Tensor, advantage: Tensor, most: float | None) -> Tensor:
    """Limit the loss of a bad token to ``most`` times its advantage, however likely it became.

    Source: Ye et al. 2020, "Mastering Complex Control in MOBA Games", arXiv:1912.09729.
    """
    return loss if most is None else loss.where(advantage >= 0, loss.minimum(-most * advantage))


def token_kl(log_ratio: Tensor, estimator: Estimator) -> Tensor:
    """Estimate KL(policy || reference) of each token from the sampled token alone.

    The values of ``k1`` and ``k3`` are unbiased. As a loss on the policy's own samples, ``k1`` has an
    expected gradient of 0, that of ``k2`` is exactly the gradient of the token's KL, and that of ``k3`` is
    so only near the reference.

    Args:
        log_ratio: log-ratio of the policy to the reference, in nats; carries the gradient.
        estimator: ``abs`` is the absolute log-ratio; ``k1+`` and ``k3+`` have their own value and the
            gradient of k2.
    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html.
    """
    if estimator.endswith("+"):
        k2 = token_kl(log_ratio, "k2")
        return token_kl(log_ratio.detach(), "k1" if estimator == "k1+" else "k3") + (k2 - k2.detach())
    if estimator == "k1":
        return log_ratio
    if estimator == "abs":
        return log_ratio.abs()
    if estimator == "k2":
        return log_ratio.square() / 2
    held = log_ratio.clamp(-LARGEST, LARGEST)
    return (-held).exp() + held - 1


def covariance(logp: Tensor, advantage: Tensor, mask: Tensor) -> Tensor:
    """Each token's part in the covariance of logp and advantage; float64, detached, 0 outside the mask.

    Source: Cui et al. 2025, "The Entropy Mechanism", arXiv:2505.22617.
    """
    return _centred(advantage, mask) * _centred(logp, mask)


def _centred(values: Tensor, mask: Tensor) -> Tensor:
    # In float64 a sum of float32 numbers hardly depends on the order of the rows.
    kept = values.detach().double().where(mask, 0.0)
    return (kept - kept.sum() / mask.sum().clamp(min=1)).where(mask, 0.0)


def drawn(among: Tensor, noise: Tensor, count: int) -> Tensor:
    """Bool: ``count`` of the tokens in ``among``, at least 1, at random, or all if they are fewer.

    They are those with the smallest noise, whatever the order of the rows; equal noise is drawn together.
    """
    lots = noise.where(among, float("inf"))
    return among & (lots <= lots.flatten().sort().values[min(count, lots.numel()) - 1])


def topmost(values: Tensor, mask: Tensor, noise: Tensor, count: int) -> Tensor:
    """Bool: the ``count`` tokens with the largest values, at least 1; among equal ones the noise decides."""
    kept = values.where(mask, -float("inf"))
    least = kept.flatten().sort(descending=True).values[min(count, kept.numel()) - 1]
    above, equal = kept > least, (kept == least) & mask
    return above | drawn(equal, noise, count - int(above.sum()))


def share(flags: Tensor, mask: Tensor) -> Mean:
    """The share of tokens that are flagged, as a metric."""
    return Mean(value=flags.detach().float(), where=mask)


def ratio_metrics(log_ratio: Tensor, mask: Tensor) -> Mapping[str, Metric]:
    """Distance of the policy from ``old``: its mean ratio, and the mean of old minus current."""
    detached = log_ratio.detach()
    return {"ratio": Mean(value=ratio_of(detached), where=mask), "kl_old": Mean(value=-detached, where=mask)}
