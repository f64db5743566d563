"""The forms of tests, read from gold answers, and the programs that responses make."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from llmrl.errors import RecipeError, RewardError
from llmrl.rewards import Sample
from llmrl.rewards.kinds.code import Code, code_in
from llmrl.rewards.reward import reward
from llmrl.sandbox import Limits, Run
from llmrl.sandbox.task import Calls, Programs, UnitTests, Verdict, read_task

HUMAN_EVAL = {
    "prompt": 'import math\n\ndef helper(x):\n    return x\n\ndef area(r):\n    """Area."""\n',
    "entry_point": "area",
    "canonical_solution": "    return math.pi * r * r\n",
    "test": "def check(candidate):\n    assert candidate(0) == 0\n",
}


@dataclass
class Scripted:
    """A sandbox whose programs are known to give these outputs."""

    outputs: Sequence[str]
    seen: list[str] = field(default_factory=list[str])

    def start(self) -> None: ...

    def close(self) -> None: ...

    def run(self, program: str, *, stdin: str, limits: Limits) -> Run:
        self.seen.append(stdin)
        return Run(ending="ended", output=self.outputs[len(self.seen) - 1], errors="")


def judged(task: Programs | Calls, *outputs: str) -> Verdict:
    return task.judge("", Scripted(outputs), Limits(), tolerance=1e-6)


def test_a_body_goes_on_from_the_prompt_and_a_whole_function_replaces_it() -> None:
    task = read_task(json.dumps(HUMAN_EVAL))

    assert task.program("    return 0\n") == HUMAN_EVAL["prompt"] + "    return 0\n"
    assert task.program("def area(r):\n    return 0\n") == "def area(r):\n    return 0\n"
    assert task.solution == HUMAN_EVAL["canonical_solution"]


def test_the_tests_of_human_eval_know_its_helpers_but_not_its_function() -> None:
    task = read_task(json.dumps(HUMAN_EVAL))

    assert isinstance(task, UnitTests)
    assert task.exam.setup == "import math\n\ndef helper(x):\n    return x\n\n"
    assert task.exam.tests == [HUMAN_EVAL["test"] + "\ncheck(area)"]
    assert task.exam.functions == ["area"]


def test_mbpp_has_a_list_of_tests_and_their_setup() -> None:
    row = {
        "test_list": ["assert f(1)"],
        "test_imports": ["import math"],
        "test_setup_code": "x = 1",
        "code": "f = 1",
    }

    task = read_task(json.dumps(row))

    assert isinstance(task, UnitTests)
    assert (task.exam.setup, task.exam.tests, task.solution) == (
        "import math\nx = 1",
        ["assert f(1)"],
        "f = 1",
    )
    assert task.program("def f(x): return x") == "def f(x): return x"


def test_mbpps_tests_call_the_functions_of_its_solution_also_where_python_has_them() -> None:
    row = {"test_list": ["assert sum(1, 2) == 3"], "code": "def helper(): pass\ndef sum(a, b): return a + b"}

    task = read_task(json.dumps(row))

    assert isinstance(task, UnitTests)
    assert task.exam.functions == ["sum"]


def test_programs_get_each_input_and_are_held_to_its_output() -> None:
    task = read_task('{"inputs": ["1", "2"], "outputs": ["one", "two"]}')

    assert isinstance(task, Programs)
    assert judged(task, "one\n", "two\n").passed == (True, True)
    assert judged(task, "one\n", "one\n") == Verdict(
        passed=(True, False), note="test 2: another answer is right"
    )


def test_calls_send_arguments_and_keep_what_is_expected() -> None:
    task = read_task('{"inputs": [[1, "x"], [[2]]], "outputs": [[1], 0.5], "fn_name": "f"}')
    sandbox = Scripted(['{"value": {"tuple": [1]}}\n{"value": 0.5000000001}\n'])

    assert isinstance(task, Calls)
    assert task.judge("def f(): pass", sandbox, Limits(), tolerance=1e-6).passed == (True, True)
    assert json.loads(sandbox.seen[0]) == {
        "source": "def f(): pass",
        "function": "f",
        "calls": [[1, "x"], [[2]]],
    }


def returned(outputs: tuple[object, ...], *values: str) -> tuple[bool, ...]:
    task = Calls(function="f", arguments=([],) * len(outputs), outputs=outputs)
    return judged(task, "".join(f'{{"value": {value}}}\n' for value in values)).passed


def test_outputs_that_are_all_lists_of_one_are_met_by_that_one_as_in_apps() -> None:
    assert returned(([3], ["a"]), "3", '["a"]') == (True, True)
    assert returned(([3], [[1, 2]]), "4", "[1, 2]") == (False, True)


def test_a_list_of_one_among_other_outputs_is_what_it_is() -> None:
    assert returned(([3], [1, 2]), "3", "[1, 2]") == (False, True)
    assert returned(([3], []), "[3]", "[]") == (True, True)


def test_a_function_that_never_answers_has_its_reason_told() -> None:
    task = Calls(function="f", arguments=([1], [2]), outputs=(1, 2))

    assert judged(task, "") == Verdict(passed=(False, False), note="another answer is right")
    assert judged(task, '{"value": 1}\n{"value": 2}').note == ""


@pytest.mark.parametrize(
    "output",
    [
        "",
        "\n\n",
        '{"raised": ["ValueError", "no"]}\n{"value": 1}',
        "null\n[]",
        "[" * 100_000,
        '{"value": ' + "[" * 900 + "]" * 900 + "}",
        '{"value": {"int": "0x"}}',
        '{"value": {"dict": [[[1], 2]]}}',
        '{"value": ' + "9" * 5000 + "}",
        '{"value": {"int": "0x' + "f" * 10_000 + '"}}',
        '{"value": true, "value": 2}',
    ],
)
def test_whatever_a_function_answers_costs_its_tests_and_nothing_else(output: str) -> None:
    task = Calls(function="f", arguments=([1], [2]), outputs=(1, 1.5))

    assert judged(task, output).passed == (False, False)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        ("5", "must be a JSON object with tests, got '5'"),
        ("[1]", "must be a JSON object with tests"),
        ("{]", "must be a JSON object with tests"),
        (
            '{"a": 1}',
            "needs entry_point and test or test_list or fn_name and inputs and outputs or ",
        ),
        ('{"inputs": ["1"], "outputs": []}', "as many outputs as inputs, and at least one; got 1 and 0"),
        ('{"inputs": [], "outputs": []}', "and at least one; got 0 and 0"),
        ('{"inputs": "12", "outputs": "34"}', "inputs must be a list with an entry for each test, got '12'"),
        (
            r'{"fn_name": "add", "inputs": ["1\n2"], "outputs": [3]}',
            r"inputs\[0\] must be a list of arguments, as there is fn_name, got '1\\n2'; rewrite the row so",
        ),
        (
            '{"inputs": ["1", ["2", "3"]], "outputs": ["4", "5"]}',
            r"inputs\[1\] must be one text, as there is no fn_name, got \['2', '3'\]",
        ),
        ('{"inputs": ["1"], "outputs": [4]}', r"outputs\[0\] must be one text, .* got 4"),
        ('{"test_list": []}', r"test_list must be a list of assertions, and have at least one; got \[\]"),
        ('{"test_list": "assert f(1)"}', "must be a list of assertions, .*got 'assert f"),
        ('{"test_list": ["assert f(1)", " "]}', "must be a list of assertions"),
        ('{"test_list": [1]}', "must be a list of assertions"),
    ],
)
def test_an_answer_without_tests_says_what_it_needs(answer: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_task(answer)


def test_assertions_are_refused_where_they_would_share_an_interpreter_with_the_code() -> None:
    with pytest.raises(RewardError, match="assertions need a jail apart from the code that they test"):
        read_task(json.dumps(HUMAN_EVAL)).judge("", Scripted([]), Limits(), tolerance=0)


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("    return 1\n", "    return 1\n"),
        ("Text\n```python\nx = 1\n```\nmore", "x = 1\n"),
        ("```\nx = 1\n```\nand\n```py\ny = 2\n```", "y = 2\n"),
        ("```python\nx = 1\n", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        (
            "1. So:\n   ```python\n   if x:\n       y = 1\n\n   z = 2\n   ```\n2. Done.",
            "if x:\n    y = 1\n\nz = 2\n",
        ),
        ("- ```python\n  x = 1\n  ```", "x = 1\n"),
        ("   ```python\nif x:\n y = 1\n   ```", "if x:\n y = 1\n"),
        ("  ```python\n      return 1\n  ```", "    return 1\n"),
        ("```python\n    return 1\n```", "    return 1\n"),
        ("use `x` or ```y```", "use `x` or ```y```"),
        ("```python\nx = 1\n```\nExample:\n```\n1 2\n```\n```text\n3\n```", "x = 1\n"),
        ("```Python3 main.py\nx = 1\n```\n```pycon\n>>> x\n```", "x = 1\n"),
    ],
)
def test_the_last_block_is_the_code_or_else_all_of_the_response(response: str, code: str) -> None:
    assert code_in(response, Programs(inputs=("",), outputs=("",))) == code


EXAMPLE = "Use it so:\n```python\nprint(area(2))\n```"


@pytest.mark.parametrize(
    "answer",
    [
        json.dumps(HUMAN_EVAL),
        '{"fn_name": "area", "inputs": [[0]], "outputs": [0]}',
        '{"test_list": ["assert area(0) == 0"]}',
    ],
)
def test_a_block_that_shows_the_use_of_a_function_is_not_taken_for_the_function(answer: str) -> None:
    task, tried, function = read_task(answer), "def area(r):\n    return r\n", "def area(r):\n    return 0\n"
    block = "```python\n{}```\n"

    assert code_in(block.format(tried) + block.format(function) + EXAMPLE, task) == function
    assert code_in(block.format("    return 0\n"), task) == "    return 0\n"


def test_a_method_of_a_solution_defines_its_function_where_calls_find_it() -> None:
    task = read_task('{"fn_name": "area", "inputs": [[0]], "outputs": [0]}')
    method = "class Solution:\n    def area(self, r):\n        return 0\n"

    assert code_in(f"```\n{method}```\n{EXAMPLE}", task) == method


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"isolation": "none"}, "rewards.code.options.isolation: "),
        (
            {"isolation": "fusion"},
            "isolation 'fusion' needs the url of its server, and no other does; got ''",
        ),
        ({"url": "http://x"}, "needs the url of its server, and no other does; got 'http://x'"),
        ({"seconds": 0.0}, "seconds must be above 0"),
        ({"memory_mib": 8}, "memory_mib at least 64"),
    ],
)
def test_an_option_that_cannot_be_is_refused(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(RecipeError, match=complaint):
        reward.build("code", options, key="rewards.code")


def test_a_row_without_a_solution_has_nothing_to_check() -> None:
    sample = Sample(prompt="", response="", answer='{"test_list": ["x"]}', tokens=0, finished=True)

    given = Code().bare()(sample)

    assert given.value == 1.0  # type: ignore[union-attr]
