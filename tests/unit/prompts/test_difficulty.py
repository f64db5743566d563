"""Pass rates: written by one run, and read by another that takes rows and their order from them."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.collection import fingerprint
from llmrl.prompts.pass_rates import PassRate, append_pass_rates, read_pass_rates
from llmrl.prompts.stream import PromptStream
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Prompts, Source

SOLVED = {0: 4, 1: 0, 2: 2, 3: 1, 4: 3, 5: 2}
"""Of four responses to the row with that number; rows 6 and 7 have none."""


@pytest.fixture
def rates(tmp_path: Path) -> Path:
    path = tmp_path / "pass_rates.jsonl"
    append_pass_rates(path, [PassRate(id=f"sums/{row}", solved=n, judged=4) for row, n in SOLVED.items()])
    return path


def stream_of(
    folder: Path, tokenizer: Tokenizer, rates: Path, *, seed: int = 0, shuffle: bool = True, **keys: Any
) -> PromptStream:
    data = folder / "sums.jsonl"
    data.write_text(
        "".join(json.dumps({"prompt": f"{row}+1=", "answer": row + 1}) + "\n" for row in range(8))
    )
    source = Source(dataset=str(data), pass_rates=rates, **keys)
    return PromptStream(Prompts(sources=(source,), shuffle=shuffle), tokenizer, seed=seed)


def rows(stream: PromptStream, *, epoch: int = 0) -> list[int]:
    size = len(stream)
    drawn = (stream.at(epoch * size + place).prompt.id for place in range(size))
    return [int(name.removeprefix("sums/")) for name in drawn]


def test_rates_are_shares_over_all_lines_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "pass_rates.jsonl"
    append_pass_rates(path, [PassRate(id="a/0", solved=1, judged=4), PassRate(id="a/1", solved=0, judged=0)])
    append_pass_rates(path, [PassRate(id="a/0", solved=4, judged=4)])

    assert read_pass_rates(path, key="s") == {"a/0": 5 / 8}


def test_half_a_line_of_a_killed_run_costs_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "pass_rates.jsonl"
    append_pass_rates(path, [PassRate(id="a/0", solved=1, judged=2)])
    whole = path.read_bytes()
    for cut in range(1, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])

        assert read_pass_rates(path, key="s") == {"a/0": 0.5}
        append_pass_rates(path, [PassRate(id="a/0", solved=2, judged=2)])
        assert read_pass_rates(path, key="s") == {"a/0": 0.75}


def test_nothing_to_write_makes_no_file(tmp_path: Path) -> None:
    append_pass_rates(tmp_path / "pass_rates.jsonl", [])

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", '{"id": "a", "solved": 3, "judged": 2}', '{"id": 1, "solved": 1, "judged": 2}', "nonsense"],
)
def test_a_file_of_something_else_is_refused_by_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rates.jsonl"
    path.write_text(f'{{"id": "a/0", "solved": 1, "judged": 2}}\n{line}\n')

    with pytest.raises(DataError, match=r"rates\.jsonl, line 2: expected .* as a run writes it, got '"):
        read_pass_rates(path, key="s")


def test_a_file_that_is_not_there_is_named_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        read_pass_rates(tmp_path / "no", key="prompts.sources.0.pass_rates")

    assert str(refused.value) == (
        f"prompts.sources.0.pass_rates: '{tmp_path}/no' cannot be read (No such file or directory); "
        "name the pass_rates.jsonl in a stage's folder of an earlier run."
    )


def test_rows_that_are_too_hard_or_too_easy_are_left_out_and_counted(
    tmp_path: Path, digits: Tokenizer, rates: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        stream = stream_of(tmp_path, digits, rates, min_pass_rate=0.25, max_pass_rate=0.75)

    assert sorted(rows(stream)) == [2, 3, 4, 5, 6, 7]
    assert stream.left_out == 2
    assert caplog.messages == [
        "prompts.sources.0: 2 of 8 rows are left out: 1 below min_pass_rate 0.25, 1 above max_pass_rate "
        "0.75; 2 without a rate are kept."
    ]


def test_rows_without_a_rate_may_be_dropped(tmp_path: Path, digits: Tokenizer, rates: Path) -> None:
    stream = stream_of(tmp_path, digits, rates, unrated="drop")

    assert sorted(rows(stream)) == list(SOLVED)


def test_easy_rows_come_first_in_every_epoch_and_unrated_ones_last(
    tmp_path: Path, digits: Tokenizer, rates: Path
) -> None:
    streams = [stream_of(tmp_path, digits, rates, order="easy_first", seed=seed) for seed in range(8)]

    for stream in streams:
        assert rows(stream) == rows(stream, epoch=3)
        first, second, *equal, fifth, sixth = rows(stream)[:6]
        assert (first, second, set(equal), fifth, sixth) == (0, 4, {2, 5}, 3, 1)
        assert set(rows(stream)[6:]) == {6, 7}
    # Equal rates are in an order that the seed decides.
    assert len({tuple(rows(stream)) for stream in streams}) == 4


def test_the_order_of_rates_holds_with_and_without_shuffle(
    tmp_path: Path, digits: Tokenizer, rates: Path
) -> None:
    shuffled, plain = (
        stream_of(tmp_path, digits, rates, order="easy_first", shuffle=shuffle) for shuffle in (True, False)
    )

    assert rows(shuffled) == rows(plain)


def test_the_order_of_rates_holds_beside_other_sources_in_every_epoch(
    tmp_path: Path, digits: Tokenizer, rates: Path
) -> None:
    alone = stream_of(tmp_path, digits, rates, order="easy_first")
    ordered = Source(dataset=str(tmp_path / "sums.jsonl"), pass_rates=rates, order="easy_first")
    other = Source(task="digit_sum", rows=50, weight=0.333)
    mixed = PromptStream(Prompts(sources=(other, ordered)), digits, seed=0)

    def drawn(ordinals: Iterable[int]) -> list[int]:
        ids = [mixed.at(ordinal).prompt.id for ordinal in ordinals]
        return [int(id.removeprefix("sums/")) for id in ids if id.startswith("sums/")]

    # A block is of 333 and 1000 rows; the second one begins in the middle of an epoch of eight.
    first, second = drawn(range(1333)), drawn(range(1333, 2666))
    assert first + second == rows(alone) * 250
    assert drawn(reversed(range(1333, 2666))) == second[::-1]


def test_weights_whose_block_nobody_can_count_are_refused_beside_an_order(
    tmp_path: Path, digits: Tokenizer, rates: Path
) -> None:
    stream_of(tmp_path, digits, rates, order="easy_first")
    ordered = Source(dataset=str(tmp_path / "sums.jsonl"), pass_rates=rates, order="easy_first")
    other = Source(task="digit_sum", rows=50, weight=7473 / 24871)

    with pytest.raises(RecipeError, match=r"easy_first' it may have 100,000; write the weights with fewer"):
        PromptStream(Prompts(sources=(other, ordered)), digits, seed=0)


def test_other_rates_are_other_data_for_a_resumed_run(tmp_path: Path, digits: Tokenizer, rates: Path) -> None:
    before = fingerprint(stream_of(tmp_path, digits, rates, order="easy_first").rows)
    append_pass_rates(rates, [PassRate(id="sums/1", solved=9, judged=9)])

    assert fingerprint(stream_of(tmp_path, digits, rates, order="easy_first").rows) != before


def test_rates_of_other_data_are_refused(tmp_path: Path, digits: Tokenizer, rates: Path) -> None:
    with pytest.raises(DataError) as refused:
        stream_of(tmp_path, digits, rates, name="plus")

    assert str(refused.value) == (
        f"prompts.sources.0.pass_rates: {rates} rates none of the 8 rows, whose ids are such as 'plus/0'; "
        "give the source the name that it had there."
    )


def test_rates_that_leave_nothing_are_refused(tmp_path: Path, digits: Tokenizer, rates: Path) -> None:
    keys: dict[str, Any] = {"min_pass_rate": 0.6, "max_pass_rate": 0.7, "unrated": "drop"}

    with pytest.raises(DataError) as refused:
        stream_of(tmp_path, digits, rates, **keys)

    assert str(refused.value) == (
        "prompts.sources.0: every row is left out: 4 below min_pass_rate 0.6, 2 above max_pass_rate 0.7; "
        "2 without a rate are dropped."
    )
