"""The check of what an objective estimates: its expected gradient, by enumerating every response there is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from llmrl.batches.batch import Batch, TokenScores, Totals
from llmrl.objectives.contract import Estimates, Objective
from llmrl.policy.reduce import reduce_loss
from llmrl.testing.finding import Fault, LeftOut
from llmrl.testing.tiny import compares

VOCABULARY, LENGTH = 4, 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """All responses of some length, a policy with a parameter for each choice, and a reference."""

    theta: Tensor
    """[contexts, V] logits of the policy after each beginning of a response, shorter ones first; a leaf."""
    reference: Tensor
    """[contexts, V] logits of the reference."""
    responses: Tensor
    """[V ** length, length] tokens."""

    @classmethod
    def of(cls, theta: Tensor, reference: Tensor, length: int) -> World:
        """The world of two tables of logits."""
        responses = torch.tensor(list(product(range(theta.shape[1]), repeat=length)))
        return cls(theta=theta.detach().clone().requires_grad_(), reference=reference, responses=responses)

    @property
    def current(self) -> TokenScores:
        """[R, length] scores of each token under the policy."""
        return self._scores(self.theta)

    @property
    def log_ratio(self) -> Tensor:
        """[R] log-ratio of policy to reference, in nats."""
        return self.current.logp.sum(-1) - self._scores(self.reference).logp.sum(-1)

    @property
    def chances(self) -> Tensor:
        """[R] probabilities of the responses under the policy."""
        return self.current.logp.sum(-1).exp()

    def batch(self, objective: Objective, reward: Tensor) -> Batch:
        """A batch of all responses, on policy, with rewards [R] minus their mean as advantages."""
        old, reads = self._scores(self.theta.detach()), objective.reads
        mask = torch.ones_like(old.logp, dtype=torch.bool)
        advantage = reward - (self.chances.detach() * reward).sum()
        rows = mask.shape[0]
        return Batch(
            mask=mask,
            advantage=advantage[:, None].expand_as(mask),
            reward=reward,
            group=torch.zeros(rows, dtype=torch.int64),
            turn=torch.zeros_like(mask, dtype=torch.int64),
            pairs=_all_pairs(reward) if compares(objective) else torch.zeros(0, 2, dtype=torch.int64),
            opponent=torch.zeros(rows, dtype=torch.bool),
            sampled=TokenScores(logp=old.logp),
            old=old,
            reference=TokenScores(logp=self._scores(self.reference).logp) if "reference" in reads else None,
            noise=torch.zeros_like(old.logp) if "noise" in reads else None,
        )

    def expected_gradient(self, objective: Objective, reward: Tensor) -> Tensor:
        """[contexts, V] gradient of the loss of one response, or pair, averaged over the policy's own."""
        batch, chances = self.batch(objective, reward), self.chances.detach()
        value = objective(self.current, batch).value
        if objective.mean_over == "pairs":
            weight = chances[batch.pairs].prod(-1)
        else:
            weight = chances if value.ndim == 1 else chances[:, None]
        length = batch.mask.shape[1]
        totals = Totals(tokens=length, responses=1, pairs=1, budget=length)
        loss = reduce_loss(value * weight, batch.mask, totals, objective.mean_over)
        return torch.autograd.grad(loss, self.theta)[0]

    def exact_gradient(self, worth: Tensor) -> Tensor:
        """[contexts, V] gradient of the expectation of [R] worths under the policy."""
        return torch.autograd.grad((self.chances * worth).sum(), self.theta)[0]

    def _scores(self, table: Tensor) -> TokenScores:
        logp, size = table.log_softmax(-1), table.shape[1]
        context = torch.zeros_like(self.responses)
        for place in range(1, self.responses.shape[1]):
            # The children of context c are V * c + 1 ... V * c + V.
            context[:, place] = size * context[:, place - 1] + self.responses[:, place - 1] + 1
        entropy = -(logp.exp() * logp).sum(-1)
        return TokenScores(logp=logp[context, self.responses], entropy=entropy[context])


def estimates_what_it_says(objective: Objective, seed: int) -> None:
    """Averaged over every response of 3 tokens from 4, its gradient is that of what it says it estimates."""
    if not isinstance(objective, Estimates):
        raise LeftOut("it does not say what it estimates (a method `worth`).")
    draw = torch.Generator().manual_seed(seed)
    contexts = sum(VOCABULARY**depth for depth in range(LENGTH))
    tables = torch.randn(2, contexts, VOCABULARY, generator=draw, dtype=torch.float64)
    world = World.of(tables[0], tables[1], LENGTH)
    reward = torch.randn(world.responses.shape[0], generator=draw, dtype=torch.float64)
    claimed = -world.exact_gradient(_worth(objective, reward, world.log_ratio))
    found = world.expected_gradient(objective, reward)
    cosine = torch.cosine_similarity(found.flatten(), claimed.flatten(), dim=0)
    if not cosine > 1 - 1e-9:
        raise Fault(
            f"its expected gradient is not that of the worth it states: over all {VOCABULARY**LENGTH} "
            f"responses of {LENGTH} tokens their cosine is {cosine:.6f}, not 1."
        )


def _worth(objective: Estimates, reward: Tensor, log_ratio: Tensor) -> Tensor:
    try:
        worth = objective.worth(reward, log_ratio)
    except ValueError as error:
        raise LeftOut(f"{error}.") from None
    if worth is None:
        raise LeftOut("with these options its gradient is that of no expectation.")
    return worth


def _all_pairs(reward: Tensor) -> Tensor:
    first, second = torch.combinations(torch.arange(reward.numel())).unbind(-1)
    better = reward[first] >= reward[second]
    return torch.stack([first.where(better, second), second.where(better, first)], dim=-1)
