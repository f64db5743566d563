"""Tasks: the working is right, the problems are distinct, and held-out rows are new."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.tasks import Addition, Chain, DigitSum, Problem, Task, read_task, task, task_rows
from llmrl.recipe.schema import Source

SMALL: list[Task] = [
    DigitSum(digits_min=1, digits_max=3),
    Addition(digits_min=1, digits_max=2),
    Chain(terms=3, largest=4, operators="+-*"),
    Chain(terms=2, largest=9, operators="*", modulo=7),
]


def find(made: Task, prompt: str) -> Problem:
    """The problem with this text."""
    return next(p for p in map(made.make, range(made.size)) if p.prompt == prompt)


@pytest.mark.parametrize(
    ("made", "prompt", "response"),
    [
        (DigitSum(), "4827=", "4+8=12,12+2=14,14+7=21#21"),
        (DigitSum(digits_min=1, digits_max=1), "7=", "#7"),
        (Addition(), "47+85=", "7+5=12,4+8+1=13#132"),
        (Addition(digits_min=1), "7+85=", "7+5=12,0+8+1=9#92"),
        (Chain(), "7+5-3=", "7+5=12,12-3=9#9"),
        (Chain(), "0-8+1=", "0-8=-8,-8+1=-7#-7"),
        (Chain(modulo=10), "7+5-3=", "7+5=2,2-3=9#9"),
        (Chain(operators="+*"), "2+3*4=", "2+3=5,5*4=20#20"),
    ],
)
def test_the_working_of_problems_worked_by_hand(made: Task, prompt: str, response: str) -> None:
    problem = find(made, prompt)

    assert problem.response == response
    assert problem.answer == response.rpartition("#")[2]


@pytest.mark.parametrize("made", SMALL, ids=repr)
def test_every_step_of_the_working_is_true_and_leads_to_the_answer(made: Task) -> None:
    for number in range(made.size):
        problem = made.make(number)
        working, _, answer = problem.response.rpartition("#")
        for step in filter(None, working.split(",")):
            left, right = step.split("=")
            assert (value_of(left) - int(right)) % modulo_of(made) == 0, problem
        assert answer == problem.answer
        if isinstance(made, DigitSum):
            assert int(answer) == sum(map(int, problem.prompt.strip("=")))
        else:
            assert (value_of(problem.prompt.strip("=")) - int(answer)) % modulo_of(made) == 0, problem


def value_of(text: str) -> int:
    """A chain evaluated from left to right, written independently of the tasks."""
    total, *rest = re.findall(r"(^-?\d+|[+*-]\d+)", text)
    value = int(total)
    for part in rest:
        sign, number = part[0], int(part[1:])
        value = value * number if sign == "*" else value + (number if sign == "+" else -number)
    return value


def modulo_of(made: Task) -> int:
    """A modulus under which every step must be exact."""
    return made.modulo if isinstance(made, Chain) and made.modulo else 10**9


@pytest.mark.parametrize("made", SMALL, ids=repr)
def test_no_two_problems_have_the_same_prompt_and_all_are_within_the_alphabet(made: Task) -> None:
    problems = [made.make(number) for number in range(made.size)]

    assert len({problem.prompt for problem in problems}) == made.size
    written = set("".join(problem.prompt + problem.response for problem in problems))
    assert written <= set(made.characters)
    assert len(set(made.characters)) == len(made.characters)


@settings(deadline=None)  # time is that of a busy machine
@given(seed=st.integers(0, 2**40), cut=st.integers(1, 199))
def test_rows_of_disjoint_ranges_never_share_a_prompt(seed: int, cut: int) -> None:
    made = Chain(terms=2, largest=9)

    train = task_rows(made, source="train", count=cut, skip=0, seed=seed)
    held_out = task_rows(made, source="held-out", count=200 - cut, skip=cut, seed=seed)

    assert len({row.prompt for row in [*train, *held_out]}) == 200


def test_a_row_depends_on_its_index_and_the_seed_alone() -> None:
    whole = task_rows(DigitSum(), source="a", count=20, skip=0, seed=5)
    part = task_rows(DigitSum(), source="a", count=3, skip=10, seed=5)
    other = task_rows(DigitSum(), source="a", count=20, skip=0, seed=6)

    assert part == whole[10:13]
    assert [row.prompt for row in other] != [row.prompt for row in whole]
    assert whole[10].id == "a/10"


def test_a_source_of_the_recipe_becomes_examples_with_its_template_around_them() -> None:
    source = Source(
        task="digit_sum", options={"digits_min": 2, "digits_max": 2}, rows=3, template="sum {prompt}"
    )

    rows = read_task(source, key="prompts.sources.0", seed=0)

    assert [row.id for row in rows] == ["digit_sum/0", "digit_sum/1", "digit_sum/2"]
    assert all(re.fullmatch(r"sum [1-9]\d=", str(row.prompt)) for row in rows)


def test_a_space_that_is_too_small_is_refused() -> None:
    source = Source(task="digit_sum", options={"digits_min": 1, "digits_max": 2}, rows=90, skip=10)

    with pytest.raises(DataError) as refused:
        read_task(source, key="prompts.sources.0", seed=0)

    assert str(refused.value) == (
        "digit_sum: rows 10 to 99 are asked of a task that has 99 distinct problems; "
        "lower rows or skip, or make its options wider."
    )


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "digit_sums",
            {},
            # Other tests register tasks of their own in the same process: the list is left open.
            "s.task: no task named 'digit_sums'. Did you mean 'digit_sum'? Known: ...",
        ),
        (
            "digit_sum",
            {"digits": 3},
            "s.options: no key named 'digits'. Did you mean 'digits_min'? "
            "Known: digits_max, digits_min, slips.",
        ),
        (
            "addition",
            {"digits_min": 3},
            "s.options: digits_min and digits_max must satisfy 1 <= digits_min <= digits_max <= 18, "
            'got {"digits_min": 3}.',
        ),
        ("chain", {"terms": 1}, 's.options: terms must lie between 2 and 18, got {"terms": 1}.'),
        ("chain", {"largest": 0}, 's.options: largest must be at least 1, got {"largest": 0}.'),
        (
            "chain",
            {"operators": "+/"},
            's.options: operators must be one or more of +, - and *, each once, got {"operators": "+/"}.',
        ),
        ("chain", {"modulo": 1}, 's.options: modulo must be 0 or at least 2, got {"modulo": 1}.'),
    ],
)
def test_a_wrong_task_or_option_is_named(name: str, options: dict[str, object], sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read_task(Source(task=name, options=options, rows=1), key="s", seed=0)

    said = str(refused.value)
    assert said.startswith(sentence.removesuffix("...")) if sentence.endswith("...") else said == sentence


def test_a_task_needs_to_be_told_how_many_rows() -> None:
    with pytest.raises(RecipeError, match=r"^s\.rows is missing; a task needs its name and how many rows"):
        read_task(Source(task="chain"), key="s", seed=0)


def test_the_registry_knows_the_built_in_tasks() -> None:
    assert {"addition", "chain", "digit_sum"} <= set(task.names)
