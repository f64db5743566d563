"""What is known of some groups finds its places among the scores of all groups, and is forgotten in time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmrl.batches.batch import TokenScores
from llmrl.batches.step import Step
from llmrl.errors import TrainingError
from llmrl.experience.columns import Columns
from llmrl.experience.offline import demonstrate, imitate
from llmrl.policy.ahead import Ahead
from llmrl.policy.step import Known
from llmrl.prompts.prompt import Draw, Prompt

SIZES = {0: 2, 1: 1, 2: 3}


def step_of(*ordinals: int) -> Step:
    """Groups of one response, of which group ``ordinal`` has ``SIZES[ordinal]`` tokens."""
    groups = [
        demonstrate(
            Draw(
                ordinal=ordinal,
                prompt=Prompt(
                    id=str(ordinal),
                    tokens=np.array([1], dtype=np.int32),
                    text="",
                    answer=None,
                    source="p",
                    demonstration=np.full(SIZES[ordinal], 5, dtype=np.int32),
                ),
            )
        )
        for ordinal in ordinals
    ]
    return Step(Columns.of([imitate(group) for group in groups]))


def known(first: float, step: Step, *, old: bool = True) -> Known:
    """Scores that count up from ``first`` in steps of a hundredth; the reference's are the negative ones."""
    logp = first + torch.arange(step.tokens) / 100
    scores = TokenScores(logp=logp.clone(), entropy=logp + 10)
    return Known(old=scores if old else None, reference=TokenScores(logp=-logp))


def test_groups_scored_ahead_take_their_places_in_the_step_whatever_their_order() -> None:
    ahead, whole = Ahead(), step_of(0, 1, 2)
    some = step_of(2, 0)
    ahead.keep(some, known(7.0, some))
    found = known(0.0, whole)

    assert ahead.missing(whole) == [1]
    ahead.fill(whole, found)

    expected = torch.tensor([7.03, 7.04, 0.02, 7.00, 7.01, 7.02])
    assert found.old is not None
    assert found.old.entropy is not None
    assert found.reference is not None
    assert torch.allclose(found.old.logp, expected)
    assert torch.allclose(found.old.entropy, expected + 10)
    assert torch.allclose(found.reference.logp, -expected)


def test_a_step_that_asks_for_the_reference_alone_gets_it_alone() -> None:
    ahead, whole = Ahead(), step_of(0, 1)
    ahead.keep(step_of(1), known(7.0, step_of(1)))
    found = known(0.0, whole, old=False)

    ahead.fill(whole, found)

    assert found.old is None
    assert found.reference is not None
    assert torch.allclose(found.reference.logp, torch.tensor([0.0, -0.01, -7.0]))


def test_a_group_that_has_other_tokens_when_it_is_trained_on_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead, whole = Ahead(), step_of(0, 1)
    with monkeypatch.context() as before:
        before.setitem(SIZES, 1, 2)
        longer = step_of(1)
    ahead.keep(longer, known(7.0, longer))

    with pytest.raises(
        TrainingError, match="draw 1: 2 tokens were scored ahead of the step, which has 1 of it"
    ):
        ahead.fill(whole, known(0.0, whole))


def test_scores_do_not_outlive_their_weights() -> None:
    ahead = Ahead()
    ahead.keep(step_of(0, 1), known(7.0, step_of(0, 1)))

    ahead.clear()

    assert ahead.missing(step_of(0, 1, 2)) == [0, 1, 2]
