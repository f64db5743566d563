"""The stream: pure, exact in its shares, and each row once per epoch."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.collection import fingerprint
from llmrl.prompts.stream import PromptStream, held_out, shares
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Evaluation, Prompts, Source

# The tokenizer is read only, so that examples may share it.
shared_tokenizer = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def two_terms(rows: int, *, name: str = "chain", weight: float = 1.0, skip: int = 0) -> Source:
    """Some of the 200 problems ``a+b=`` and ``a-b=``."""
    return Source(name=name, task="chain", options={"terms": 2}, rows=rows, skip=skip, weight=weight)


def stream_of(tokenizer: Tokenizer, *sources: Source, seed: int = 0, shuffle: bool = True) -> PromptStream:
    return PromptStream(Prompts(sources=sources, shuffle=shuffle), tokenizer, seed=seed)


def ids(stream: PromptStream, ordinals: Sequence[int]) -> list[str]:
    return [stream.at(ordinal).prompt.id for ordinal in ordinals]


@shared_tokenizer
@given(
    rows=st.integers(1, 40),
    seed=st.integers(0, 99),
    order=st.lists(st.integers(0, 500), min_size=1, max_size=30),
)
def test_a_draw_depends_on_its_ordinal_and_not_on_earlier_calls(
    digits: Tokenizer, rows: int, seed: int, order: list[int]
) -> None:
    sources = (two_terms(rows, weight=3), two_terms(7, name="other"))
    used, fresh = (stream_of(digits, *sources, seed=seed) for _ in range(2))

    first = dict(zip(order, ids(used, order), strict=True))

    backwards = sorted(first, reverse=True)
    assert ids(fresh, backwards) == [first[ordinal] for ordinal in backwards]
    assert used.at(order[0]).ordinal == order[0]


@shared_tokenizer
@given(rows=st.integers(1, 60), seed=st.integers(0, 2**40), epoch=st.integers(0, 50), shuffle=st.booleans())
def test_an_epoch_has_each_row_exactly_once(
    digits: Tokenizer, rows: int, seed: int, epoch: int, shuffle: bool
) -> None:
    stream = stream_of(digits, two_terms(rows), seed=seed, shuffle=shuffle)

    drawn = ids(stream, range(epoch * rows, (epoch + 1) * rows))

    assert sorted(drawn) == sorted(prompt.id for prompt in stream.rows)
    assert len(stream) == rows


@shared_tokenizer
@given(
    weights=st.lists(st.sampled_from([0.1, 0.25, 0.5, 1.0, 1.5, 2.0, 7.0]), min_size=2, max_size=4),
    sizes=st.lists(st.integers(1, 12), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_each_source_gets_exactly_its_share_and_draws_its_rows_equally_often(
    digits: Tokenizer, weights: list[float], sizes: list[int], seed: int
) -> None:
    sources = [
        two_terms(size, name=f"s{number}", weight=weight)
        for number, (weight, size) in enumerate(zip(weights, sizes, strict=False))
    ]
    stream = stream_of(digits, *sources, seed=seed)
    parts = shares(weights)
    blocks = 12

    prompts = [stream.at(ordinal).prompt for ordinal in range(blocks * sum(parts))]

    per_source = Counter(prompt.source for prompt in prompts)
    assert [per_source[f"s{number}"] for number in range(len(parts))] == [blocks * part for part in parts]
    per_row = Counter(prompt.id for prompt in prompts)
    for number, source in enumerate(sources):
        often = [per_row[prompt.id] for prompt in stream.rows if prompt.source == source.name]
        assert max(often) - min(often) <= 1, (number, often)


def test_shares_are_the_decimals_that_the_recipe_has() -> None:
    assert shares([1.0]) == [1]
    assert shares([2.0, 2.0]) == [1, 1]
    assert shares([0.7, 0.3]) == [7, 3]
    assert shares([1.0, 0.001]) == [1000, 1]
    assert shares([1e-7, 0.5, 1.0]) == [1, 5_000_000, 10_000_000]


def test_epochs_differ_and_so_do_seeds(digits: Tokenizer) -> None:
    stream, other = (stream_of(digits, two_terms(50), seed=seed) for seed in (0, 1))

    first, second = ids(stream, range(50)), ids(stream, range(50, 100))

    assert first != second
    assert [int(name.split("/")[1]) for name in first] != list(range(50))
    assert ids(other, range(50)) != first


def test_without_shuffle_rows_come_in_order_and_blocks_source_by_source(digits: Tokenizer) -> None:
    stream = stream_of(digits, two_terms(3, name="a", weight=2), two_terms(2, name="b"), shuffle=False)

    assert ids(stream, range(9)) == ["a/0", "a/1", "b/0", "a/2", "a/0", "b/1", "a/1", "a/2", "b/0"]


def test_the_order_of_a_run_never_changes(digits: Tokenizer) -> None:
    # Written down once; a change here changes what every resumed run is trained on.
    stream = stream_of(digits, two_terms(6), seed=7)

    rows = [int(name.removeprefix("chain/")) for name in ids(stream, range(12))]
    assert rows == [5, 3, 0, 1, 4, 2, 2, 1, 4, 3, 0, 5]


def test_a_prompt_carries_its_tokens_answer_and_demonstration(digits: Tokenizer) -> None:
    stream = stream_of(digits, two_terms(200))

    prompt = next(p for p in stream.rows if p.text == "7+5=")
    assert digits.decode(prompt.tokens) == "7+5="
    assert prompt.tokens[0] == 1
    assert prompt.answer == "12"
    assert prompt.demonstration is not None
    assert digits.decode(prompt.demonstration) == "7+5=12#12"
    assert prompt.demonstration[-1] == digits.stop_ids[0]


def test_prompts_that_are_too_long_are_left_out_counted_and_logged(
    digits: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"digits_min": 1, "digits_max": 2}
    source = Source(task="digit_sum", options=options, rows=99)

    with caplog.at_level(logging.WARNING):
        stream = PromptStream(Prompts(sources=(source,), max_tokens=3), digits, seed=0)

    assert sorted(prompt.text for prompt in stream.rows) == [f"{digit}=" for digit in range(1, 10)]
    assert (len(stream), stream.left_out) == (9, 90)
    assert caplog.messages == ["prompts.sources.0: 90 of 99 prompts are longer than 3 tokens and left out."]


def test_a_source_of_which_nothing_remains_is_refused(digits: Tokenizer) -> None:
    with pytest.raises(DataError) as refused:
        PromptStream(Prompts(sources=(two_terms(5),), max_tokens=4), digits, seed=0)

    assert str(refused.value) == (
        "prompts.sources.0: none of 5 prompts has at most 4 tokens, the shortest has 5; raise "
        "prompts.max_tokens."
    )


def test_two_sources_of_one_name_are_refused(digits: Tokenizer) -> None:
    with pytest.raises(RecipeError) as refused:
        stream_of(digits, two_terms(3), two_terms(4))

    assert str(refused.value) == (
        "prompts.sources.1.name: prompts.sources.0 is called 'chain' too; give each a name of its own."
    )


def test_a_source_is_a_dataset_or_a_task(digits: Tokenizer) -> None:
    with pytest.raises(RecipeError, match=r"^prompts\.sources\.0: exactly one of dataset and task is needed"):
        stream_of(digits, Source(rows=3))


def test_there_is_nothing_before_the_beginning(digits: Tokenizer) -> None:
    with pytest.raises(IndexError, match=r"^the stream begins at ordinal 0, got -1$"):
        stream_of(digits, two_terms(3)).at(-1)


def test_the_fingerprint_changes_with_every_part_of_a_row(digits: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"

    def fingerprinted(**row: str) -> str:
        file.write_text(json.dumps(row) + "\n")
        return fingerprint(stream_of(digits, Source(dataset=str(file))).rows)

    same = fingerprinted(prompt="1+1=", answer="2", response="#2")
    changed = [
        fingerprinted(prompt="1+2=", answer="2", response="#2"),
        fingerprinted(prompt="1+1=", answer="3", response="#2"),
        fingerprinted(prompt="1+1=", response="#2"),
        fingerprinted(prompt="1+1=", answer="2", response="#3"),
        fingerprinted(prompt="1+1=", answer="2"),
    ]

    assert fingerprinted(prompt="1+1=", answer="2", response="#2") == same
    assert len({same, *changed}) == 6


def test_a_row_that_cannot_be_encoded_is_named(digits: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "1+1="}\n{"prompt": "1/1="}\n')

    with pytest.raises(DataError) as refused:
        stream_of(digits, Source(dataset=str(file)))

    assert str(refused.value) == (
        "rows/1: '1/1=' has a character without a token ('/'); add it to model.characters or change the text."
    )


def test_held_out_rows_are_the_first_so_many_and_none_is_trained_on(digits: Tokenizer) -> None:
    trained = stream_of(digits, two_terms(120), seed=3)
    evaluation = Evaluation(sources=(two_terms(80, skip=120, name="test"),), prompts=30)

    kept_apart = held_out(evaluation, digits, max_tokens=512, seed=3)

    assert [prompt.id for prompt in kept_apart] == [f"test/{row}" for row in range(120, 150)]
    assert not {prompt.text for prompt in kept_apart} & {prompt.text for prompt in trained.rows}
    assert held_out(Evaluation(), digits, max_tokens=512, seed=3) == ()


def test_tokens_are_integers_of_32_bits(digits: Tokenizer) -> None:
    assert stream_of(digits, two_terms(1)).at(0).prompt.tokens.dtype == np.int32
