"""The conformance kit names the fault: one wrong loss for each way of being wrong."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import pytest
import torch

from llmrl.objectives import Bundle, Loss, Mean, MeanOver, Objective, Reads
from llmrl.objectives.grpo import GRPO
from llmrl.recipe.schema import Choice
from llmrl.testing import CHECKS, check_objective, faults, outcome, tiny_update
from llmrl.testing.estimates import World

if TYPE_CHECKING:
    from torch import Tensor

    from llmrl.batches.batch import Batch, TokenScores


@dataclass(frozen=True, slots=True, kw_only=True)
class Wrong(Objective):
    """GRPO's formula, with a place to go wrong at each step."""

    clip_low: float = 0.2
    clip_high: float = 0.3
    mean_over: MeanOver = "responses"

    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old"})

    def ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        return (current.logp - batch.old.logp).clamp(-20, 20).exp()

    def clipped(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(1 - self.clip_low, 1 + self.clip_high)

    def per_token(self, current: TokenScores, batch: Batch) -> Tensor:
        ratio = self.ratio(current, batch)
        return -(ratio * batch.advantage).minimum(self.clipped(ratio) * batch.advantage)

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        return Loss(value=self.per_token(current, batch))


class MeanOfItsOwnCall(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        value = self.per_token(current, batch)
        return Loss(value=value / batch.mask.sum() * batch.mask.numel())


class TrainsPadding(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        per_token = self.per_token(current, replace(batch, advantage=batch.advantage - 0.1))
        return Loss(value=per_token.sum(-1) / batch.mask.sum(-1).clamp(min=1))


class Swapped(Wrong):
    def clipped(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(1 - self.clip_high, 1 + self.clip_low)


class DeadBound(Wrong):
    def clipped(self, ratio: Tensor) -> Tensor:
        return ratio.clamp(min=1 - self.clip_low)


class MeanOverWidth(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        return Loss(value=self.per_token(current, batch).where(batch.mask, 0.0).mean(-1))


class ByPlace(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        place = torch.arange(1, current.logp.shape[0] + 1, dtype=current.logp.dtype)[:, None]
        return Loss(value=self.per_token(current, batch) * place)


class Overflows(Wrong):
    def ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        return (current.logp - batch.old.logp).exp()


class PlainLogRatioPenalty(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        return Loss(value=self.per_token(current, batch) + 0.1 * (current.logp - batch.old.logp))


class Random(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        value = self.per_token(current, batch)
        return Loss(value=value * (torch.rand(value.shape) > 0.1))


class ReadsUndeclared(Wrong):
    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset()


class ReadsMissing(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        return Loss(value=self.per_token(current, batch) + batch.reference.logp)  # type: ignore[union-attr]


class Detached(Wrong):
    def ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        return (current.logp - batch.old.logp).detach().exp()


class MetricWithGraph(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        ratio = self.ratio(current, batch)
        return Loss(
            value=self.per_token(current, batch), metrics={"ratio": Mean(value=ratio, where=batch.mask)}
        )


class MetricOfItsOwnCall(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        mean = self.ratio(current, batch).detach().where(batch.mask, 0.0).sum() / batch.mask.sum().clamp(
            min=1
        )
        metric = Mean(value=mean.expand(len(batch.mask)), where=batch.mask.any(-1))
        return Loss(value=self.per_token(current, batch), metrics={"ratio": metric})


class MetricSometimes(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        metric = {"advantage": Mean(value=batch.advantage, where=batch.mask)} if batch.mask.any() else {}
        return Loss(value=self.per_token(current, batch), metrics=metric)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupScaledPairs(Wrong):
    """Counts the rows of a pair's group, of which a call has those alone that pairs connect."""

    mean_over: MeanOver = "pairs"
    bundle: ClassVar[Bundle] = Bundle(pairing=Choice(name="in_order"))

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        size = (batch.group[:, None] == batch.group).sum(-1)[batch.pairs[:, 0]]
        worth = (current.logp - batch.old.logp).where(batch.mask, 0.0).sum(-1)[batch.pairs]
        return Loss(value=(worth[:, 0] - worth[:, 1]) / size)


class ReadsReferenceEntropy(Wrong):
    @property
    def reads(self) -> frozenset[Reads]:
        return frozenset({"old", "reference", "entropy"})

    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        return Loss(value=self.per_token(current, batch) + batch.reference.entropy)  # type: ignore[union-attr]


class OtherShape(Wrong):
    def __call__(self, current: TokenScores, batch: Batch) -> Loss:
        return Loss(value=self.per_token(current, batch).sum())


class NoSuchCredit(Wrong):
    bundle: ClassVar[Bundle] = Bundle(credit=Choice(name="gruop"))


class ClaimsTooMuch(Wrong):
    def worth(self, reward: Tensor, _log_ratio: Tensor) -> Tensor:
        return reward.square()


class WrongBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, given: Tensor) -> Tensor:
        return given.exp()

    @staticmethod
    def backward(ctx: object, *gradients: Tensor) -> Tensor:
        return gradients[0]


class WrongSlope(Wrong):
    def ratio(self, current: TokenScores, batch: Batch) -> Tensor:
        return WrongBackward.apply(current.logp - batch.old.logp)


@pytest.mark.parametrize(
    ("wrong", "check", "words"),
    [
        (MeanOfItsOwnCall, "micro-batches", "the split of the update changes its gradient: split into 3"),
        (MeanOfItsOwnCall, "ranks", "the split of the update changes its gradient: dealt to 4 ranks"),
        (MeanOfItsOwnCall, "packing", "each as wide as its longest row"),
        (MeanOfItsOwnCall, "padding", "the gradient depends on how far rows are padded"),
        (TrainsPadding, "zero outside the mask", "gradient at padding: dL/dlogp outside the mask is row"),
        (TrainsPadding, "NaN outside the mask", "with NaN planted there the loss is nan instead of"),
        (Swapped, "clip bounds", "clip_low and clip_high are swapped"),
        (DeadBound, "clip bounds", "clip_high changes nothing"),
        (MeanOverWidth, "padding", "never with the width of a tensor"),
        (ByPlace, "row order", "the gradient depends on the order of the rows"),
        (Overflows, "extremes", "not finite where policies are 1000 nats apart"),
        (PlainLogRatioPenalty, "no credit", "it still trains: row"),
        (Random, "deterministic", "asked twice, it gives two gradients. Randomness comes from `batch.noise`"),
        (ReadsUndeclared, "reads", 'it reads batch.old without naming "old" in `reads`'),
        (
            ReadsMissing,
            "learns",
            "it raised AttributeError: 'NoneType' object has no attribute 'logp' (test_kit",
        ),
        (GroupScaledPairs, "packing", "in as many calls as possible"),
        (ReadsReferenceEntropy, "learns", "it raised TypeError: unsupported operand type(s) for +"),
        (Detached, "learns", "no token has a gradient"),
        (MetricWithGraph, "metrics", "metric 'ratio' carries a gradient"),
        (MetricOfItsOwnCall, "micro-batches", "the split of the update changes metric 'ratio'"),
        (MetricSometimes, "nothing to train", "report no metrics and full ones advantage"),
        (OtherShape, "learns", "it raised ValueError: a loss over responses must be [B, T]"),
        (NoSuchCredit, "declaration", "its bundle cannot be built: credit.name: no credit named 'gruop'."),
        (ClaimsTooMuch, "expected gradient", "is not that of the worth it states: over all 64 responses"),
        (WrongSlope, "finite differences", "dL/dlogp is not the slope of the loss: row"),
    ],
)
def test_a_wrong_loss_fails_with_its_fault_named(wrong: type[Wrong], check: str, words: str) -> None:
    found = {finding.check: finding for finding in check_objective(wrong())}

    assert found[check].outcome == "failed"
    assert words in found[check].says


def test_a_unit_of_the_loss_must_exist_and_be_filled() -> None:
    pairs, words, zero = (faults(Wrong(mean_over=unit))[0] for unit in ("pairs", "words", 0))  # type: ignore[arg-type]

    assert pairs.startswith('declaration: mean_over is "pairs", but its bundle has no pairing')
    assert words.endswith("one of tokens, responses, budget, pairs or a number above 0, got 'words'.")
    assert zero.endswith("got 0.")


def test_a_copy_of_grpo_with_three_mistakes_gets_three_names() -> None:
    class Copy(Wrong):
        def clipped(self, ratio: Tensor) -> Tensor:
            return ratio.clamp(1 - self.clip_high, 1 + self.clip_low)

        def __call__(self, current: TokenScores, batch: Batch) -> Loss:
            given = replace(batch, advantage=batch.advantage - 0.1)
            return Loss(value=self.per_token(current, given).sum(-1) * len(batch.mask) / batch.mask.sum())

    told = "\n".join(faults(Copy()))

    assert "micro-batches: the split of the update changes its gradient" in told
    assert "zero outside the mask: gradient at padding" in told
    assert "clip bounds: clip_low and clip_high are swapped" in told


def test_the_formula_itself_has_no_fault() -> None:
    assert faults(Wrong()) == []


def test_a_straight_through_loss_is_no_fault() -> None:
    class StraightThrough(Wrong):
        """CISPO's shape: the ratio is a weight, and log pi carries the gradient."""

        clip_low: float = 0.2

        def per_token(self, current: TokenScores, batch: Batch) -> Tensor:
            return -self.clipped(self.ratio(current, batch)).detach() * batch.advantage * current.logp

    assert faults(StraightThrough()) == []


def test_a_check_can_be_left_out_by_name() -> None:
    findings = {f.check: f for f in check_objective(PlainLogRatioPenalty(), leave_out=["no credit"])}

    assert findings["no credit"].says == "left out on request."
    assert faults(PlainLogRatioPenalty(), leave_out=["no credit"]) == []
    assert list(findings) == list(CHECKS)


def test_a_tiny_update_has_gaps_turns_an_empty_row_and_nothing_outside_the_mask() -> None:
    update = tiny_update(GRPO(kl_weight=0.1), seed=0)
    mask, batch = update.batch.mask, update.batch
    gaps = mask[:, 1:] & ~mask[:, :-1]

    assert gaps.any()
    assert batch.turn.max() == 1
    assert not mask[-1].any()
    assert update.totals.responses == update.rows - 1
    assert batch.reference is not None
    for column in (update.current.logp, batch.old.logp, batch.reference.logp, batch.advantage, batch.turn):
        assert (column[~mask] == 0).all()
    assert batch.noise is None
    assert update.current.entropy is None


def test_the_outcome_of_one_row_worked_by_hand() -> None:
    update = tiny_update(GRPO(mean_over="tokens"), seed=0)
    settled = replace(update, current=update.batch.old)

    found = outcome(GRPO(mean_over="tokens"), settled)

    # On policy the gradient of a token is -A / N.
    torch.testing.assert_close(found.logp, -update.batch.advantage / update.totals.tokens)


def test_responses_of_the_enumerated_world_are_as_likely_as_its_tables_say() -> None:
    tables = torch.log(torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.9, 0.1]], dtype=torch.float64))
    world = World.of(tables, tables, 2)

    # 00 and 01 follow the table of context 1, 10 and 11 that of context 2.
    expected = torch.tensor([0.125, 0.125, 0.675, 0.075], dtype=torch.float64)
    torch.testing.assert_close(world.chances, expected)
    torch.testing.assert_close(world.log_ratio, torch.zeros(4, dtype=torch.float64))
