"""``sql``: rows decide, and a query can only read, briefly, and not much."""

from __future__ import annotations

import time

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.schema import Reward
from llmrl.rewards import Sample, Score, build_rewards
from llmrl.rewards.kinds.sql import Sql

SETUP = """
CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT, price REAL);
INSERT INTO item VALUES (1, 'pen', 1.5), (2, 'ink', 2.5), (3, 'nib', 0.1), (4, 'nib', 0.2);
"""
GOLD = "SELECT name FROM item WHERE price > 1"
SQL = Sql(setup=SETUP, seconds=0.5, most_rows=100)


def judge(response: str, answer: str = GOLD) -> Score:
    return SQL(Sample(prompt="", response=response, answer=answer, tokens=1, finished=True))


@pytest.mark.parametrize(
    "response",
    [
        GOLD,
        "select name from item where price >= 1.5;",
        "```sql\nSELECT name FROM item WHERE id < 3 ORDER BY name DESC;\n```\nThat is it.",
        "<think>DROP TABLE item</think><answer>SELECT name FROM item WHERE id IN (1, 2)</answer>",
        "WITH dear AS (SELECT * FROM item WHERE price > 1) SELECT name AS n FROM dear",
    ],
)
def test_queries_with_the_gold_rows_score_1(response: str) -> None:
    assert judge(response) == Score(1.0, "2 rows, gold has 2")


@pytest.mark.parametrize(
    ("response", "note"),
    [
        ("SELECT name, id FROM item WHERE price > 1", "2 rows, gold has 2"),
        ("SELECT name FROM item", "4 rows, gold has 2"),
        ("SELECT 'pen'", "1 rows, gold has 2"),
        ("", "0 rows, gold has 2"),
        ("I cannot", 'the query fails: near "I": syntax error'),
    ],
)
def test_other_rows_and_failing_queries_score_0(response: str, note: str) -> None:
    assert judge(response) == Score(0.0, note)


def test_a_row_that_stands_twice_counts_twice_and_order_counts_if_the_gold_query_sorts() -> None:
    nibs = "SELECT name FROM item WHERE price < 1"

    assert judge("SELECT DISTINCT name FROM item WHERE price < 1", nibs).value == 0.0
    assert judge("SELECT id FROM item ORDER BY id DESC", "SELECT id FROM item ORDER BY id").value == 0.0
    assert judge("SELECT id FROM item ORDER BY id DESC", "SELECT id FROM item").value == 1.0
    assert judge("SELECT 4", "SELECT count(*) FROM (SELECT id FROM item ORDER BY id)").value == 1.0


def test_numbers_are_compared_to_six_decimals() -> None:
    assert judge("SELECT 0.3", "SELECT sum(price) FROM item WHERE price < 1").value == 1.0
    assert judge("SELECT 0.31", "SELECT sum(price) FROM item WHERE price < 1").value == 0.0
    assert judge("SELECT 4.0", "SELECT count(*) FROM item").value == 1.0


@pytest.mark.parametrize(
    "query",
    [
        "DELETE FROM item",
        "DROP TABLE item",
        "INSERT INTO item VALUES (9, 'x', 9) RETURNING name",
        "UPDATE item SET price = 9 RETURNING name",
        "CREATE TABLE x AS SELECT 1",
        "SELECT name FROM item; DROP TABLE item",
        "ATTACH 'x.db' AS x",
        "VACUUM INTO '/tmp/stolen.db'",
        "PRAGMA table_info(item)",
        "SELECT * FROM pragma_table_info('item')",
        "BEGIN",
        "SELECT load_extension('x')",
        "SELECT hex(zeroblob(1000000000))",
        "SELECT replace(hex(randomblob(100000)), 'A', 'AAAAAAAAAAAAAAAA')",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n",
        "SELECT printf('%.*c', 90000, 'x') FROM item a, item b, item c, item d",
        "SELECT count(*) FROM " + ", ".join(f"item t{n}" for n in range(20)),
        "SELECT " + "(" * 5000 + "1" + ")" * 5000,
        "SELECT 1" + " UNION SELECT 1" * 5000,
        "SELECT '\x00'",
        "SELECT 4 WHERE 1"
        + " AND instr(printf('%.*c', 90000, 'a'), printf('%.*c', 44000, 'a') || 'b') = 0" * 90,
        "SELECT '" + "x" * 3_000_000 + "'",
    ],
    ids=lambda query: query[:40],
)
def test_a_query_that_writes_reaches_out_or_never_ends_scores_0_in_time(query: str) -> None:
    start = time.monotonic()

    score = judge(query)

    assert score.value == 0.0
    assert score.note.startswith("the query fails: ")
    assert time.monotonic() - start < 10  # most of them would never end
    assert judge(GOLD).value == 1.0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("SELECT x FROM item", "the gold query 'SELECT x FROM item' fails: no such column: x"),
        ("SELECT id FROM item WHERE id > 9", "returns no rows; then any query that finds none is right"),
    ],
)
def test_a_gold_query_that_fails_or_finds_nothing_is_an_error(answer: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge("SELECT 1", answer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"setup": "CREATE TABLE"}, "setup fails on SQLite: incomplete input"),
        ({"seconds": 0.0}, "seconds must be above 0, got 0"),
        ({"most_rows": 0}, "most_rows must be at least 1, got 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_rewards({"r": Reward(kind="sql", options=options)})
