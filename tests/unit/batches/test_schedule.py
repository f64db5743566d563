"""Micro-batches: every row once, under the budget, few, and balanced over ranks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.batches.schedule import Schedule, schedule
from llmrl.errors import RecipeError


def rows_in(made: Schedule) -> list[int]:
    return sorted(int(row) for rank in made for batch in rank for row in batch)


def cost_of(lengths: np.ndarray, attention: float = 4e-5) -> np.ndarray:
    """FLOPs of rows of one sequence each, over those of the matrices for one token."""
    return lengths + attention * lengths**2.0


def planned(lengths: np.ndarray, *, attention: float = 4e-5, **sizes: int) -> Schedule:
    return schedule(lengths, cost_of(lengths, attention), **sizes)


def realistic(seed: int, count: int, spread: float) -> np.ndarray:
    """Log-normal responses with a cut-off, behind prompts of 80 tokens."""
    drawn = np.random.default_rng(seed).lognormal(5.5, spread, count)
    return 80 + np.clip(drawn, 4, 4000).astype(np.int64)


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 100), max_size=60), ranks=st.integers(1, 5), budget=st.integers(100, 400)
)
def test_every_row_comes_once_under_the_budget_with_equal_counts(lengths: list[int], ranks: int, budget: int):
    made = planned(np.array(lengths, dtype=np.int64), ranks=ranks, tokens_per_microbatch=budget)

    assert rows_in(made) == list(range(len(lengths)))
    assert len(made) == ranks
    assert len({len(rank) for rank in made}) == 1
    assert max(sum(lengths[row] for row in batch) for rank in made for batch in rank) <= budget


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(100, 600),
    spread=st.floats(0.2, 0.9),
    ranks=st.sampled_from([1, 2, 4]),
    budget=st.sampled_from([4096, 8192, 32768]),
)
def test_ranks_are_within_three_percent_of_each_other(seed, count, spread, ranks, budget):
    lengths = realistic(seed, count, spread)

    made = planned(lengths, ranks=ranks, tokens_per_microbatch=budget)

    cost = cost_of(lengths)
    by_rank = [sum(cost[batch].sum() for batch in rank) for rank in made]
    assert max(by_rank) / np.mean(by_rank) <= 1.03


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(64, 2000), ranks=st.integers(1, 8))
def test_small_rows_fill_the_budget(seed, count, ranks):
    lengths = np.random.default_rng(seed).integers(10, 100, count)

    made = planned(lengths, ranks=ranks, tokens_per_microbatch=4096)

    # Whole micro-batches on every rank: what 97 % full ones would need, rounded up.
    assert len(made[0]) <= -(-lengths.sum() // (ranks * 0.97 * 4096))


def test_rows_that_fit_exactly_fill_every_micro_batch():
    made = planned(np.full(1000, 41), ranks=1, tokens_per_microbatch=4100)

    assert [len(batch) for batch in made[0]] == [100] * 10


def test_rows_of_60_percent_of_the_budget_get_a_micro_batch_each():
    made = planned(np.full(8, 60), ranks=2, tokens_per_microbatch=100)

    assert [[len(batch) for batch in rank] for rank in made] == [[1] * 4, [1] * 4]


def test_long_rows_cost_more_than_their_tokens():
    lengths = np.array([4000, 1000, 1000, 1000, 1000])

    made = planned(lengths, ranks=2, tokens_per_microbatch=8000, attention=1.0)

    # By tokens the two halves would be 4000 and 4000; by FLOPs the long row outweighs the other four.
    assert [[len(batch) for batch in rank] for rank in made] == [[1], [4]]


def test_a_rank_without_rows_gets_empty_micro_batches():
    made = planned(np.array([5]), ranks=3, tokens_per_microbatch=10)

    assert [[batch.tolist() for batch in rank] for rank in made] == [[[0]], [[]], [[]]]


def test_the_same_lengths_give_the_same_schedule():
    lengths = realistic(7, 300, 0.6)

    first, second = (planned(lengths, ranks=4, tokens_per_microbatch=8192) for _ in range(2))

    for ours, theirs in zip(first, second, strict=True):
        assert [b.tolist() for b in ours] == [b.tolist() for b in theirs]


def test_a_row_above_the_budget_is_refused_by_the_key_that_sets_it():
    with pytest.raises(
        RecipeError, match=r"policy\.tokens_per_microbatch is 100, but a response, .* take 101 tokens"
    ):
        planned(np.array([100, 101]), ranks=1, tokens_per_microbatch=100)
