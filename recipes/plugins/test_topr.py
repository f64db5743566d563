"""The loss keeps the contract, and does what its first line says."""

from dataclasses import replace

import torch
from topr import TOPR

from llmrl.batches.batch import TokenScores
from llmrl.testing import faults, outcome, tiny_update


def test_it_keeps_the_contract() -> None:
    assert faults(TOPR()) == []
    assert faults(TOPR(most=0.3, mean_over="tokens")) == []


def test_a_bad_response_is_pushed_down_less_the_rarer_it_has_become() -> None:
    update = tiny_update(TOPR())
    length = update.batch.mask.sum(-1, keepdim=True).clamp(min=1)
    # Every response is half as likely as when it was sampled.
    then = (update.current.logp + torch.tensor(2.0).log() / length).where(update.batch.mask, 0.0)
    halved = replace(update, batch=replace(update.batch, sampled=TokenScores(logp=then)))
    same = replace(update, batch=replace(update.batch, sampled=update.current))

    found, plain = outcome(TOPR(), halved).logp, outcome(TOPR(), same).logp

    torch.testing.assert_close(found, torch.where(update.batch.advantage < 0, 0.5 * plain, plain))
