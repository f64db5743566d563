"""Seeds are pure, stable and apart; orders take every place exactly once."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.prompts.seeds import derive_seed, shuffled


def test_seeds_are_the_same_on_every_machine() -> None:
    # blake2b of b"i0;" and b"i7;s7:rollouti12;i3;", by hashlib alone.
    # A change here changes the data order of every run that is resumed.
    assert derive_seed(0) == 6197665364228624309
    assert derive_seed(7, "rollout", 12, 3) == 8762766183959866821


def test_parts_that_concatenate_equally_are_different_parts() -> None:
    seeds = [
        derive_seed("ab", "c"),
        derive_seed("a", "bc"),
        derive_seed("abc"),
        derive_seed(1),
        derive_seed("1"),
    ]

    assert len(set(seeds)) == 5


@settings(deadline=None)  # time is that of a busy machine
@given(st.lists(st.one_of(st.integers(), st.text()), max_size=4))
def test_a_seed_fits_a_signed_integer_of_64_bits(parts: list[int | str]) -> None:
    assert 0 <= derive_seed(*parts) < 2**63


@settings(deadline=None)  # time is that of a busy machine
@given(size=st.integers(1, 300), seed=st.integers(0, 2**63 - 1))
def test_an_order_takes_every_place_exactly_once(size: int, seed: int) -> None:
    assert sorted(shuffled(index, size=size, seed=seed) for index in range(size)) == list(range(size))


def test_an_order_of_more_rows_than_memory_holds_needs_no_list() -> None:
    places = {shuffled(index, size=10**18, seed=3) for index in range(1000)}

    assert len(places) == 1000
    assert max(places) > 9 * 10**17


@pytest.mark.parametrize("size", [2, 3, 5, 10])
def test_every_row_is_equally_likely_to_come_first(size: int) -> None:
    trials = 4000

    first = Counter(shuffled(0, size=size, seed=derive_seed("trial", trial)) for trial in range(trials))

    # Five standard deviations of a binomial.
    spread = 5 * (trials / size * (1 - 1 / size)) ** 0.5
    assert all(abs(first[row] - trials / size) < spread for row in range(size))


def test_an_index_outside_of_the_range_is_refused() -> None:
    with pytest.raises(IndexError, match=r"^index 5 is outside of range\(5\)$"):
        shuffled(5, size=5, seed=0)
