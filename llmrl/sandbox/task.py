"""Tasks for code: the tests of one row, in the forms that datasets have them, and how they are run.

The gold answer is a JSON object whose keys say which form it has: ``inputs`` and ``outputs`` for programs
that read and print, with ``fn_name`` for functions; ``test`` and ``entry_point`` as in HumanEval;
``test_list`` as in MBPP.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

from llmrl.errors import RewardError, shown
from llmrl.sandbox.compare import same_output, same_value
from llmrl.sandbox.contract import Exam, Examiner, Limits, Run, Sandbox
from llmrl.sandbox.plain import decode, encode

_CALL = "from llmrl.sandbox.guest import call\ncall()"
_TAGGED = 8
"""Largest size of a value as plain data, as a multiple of its JSON, since every tuple is marked as one."""
_DEFINED = re.compile(r"^(?:async )?def (\w+)", re.MULTILINE)
_NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The tests that passed."""

    passed: tuple[bool, ...]
    """Whether each test passed; those that were not reached have not."""
    note: str = ""


class Task(Protocol):
    """The tests of one row."""

    @property
    def solution(self) -> str | None:
        """A response that passes, if the row has one."""
        ...

    def defines(self, code: str) -> bool:
        """Whether code has a function that the tests call; True if they call none."""
        ...

    def program(self, code: str) -> str:
        """The candidate's program, from the code of its response."""
        ...

    def judge(self, program: str, sandbox: Sandbox, limits: Limits, *, tolerance: float) -> Verdict:
        """Run the tests; ``limits.seconds`` is the time of all together."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """A program that reads from standard input and prints; each pair is a run in a jail of its own."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    solution: str | None = None

    def defines(self, code: str) -> bool:  # noqa: ARG002  every code is a program
        return True

    def program(self, code: str) -> str:
        return code

    def judge(self, program: str, sandbox: Sandbox, limits: Limits, *, tolerance: float) -> Verdict:
        until = time.monotonic() + limits.seconds
        passed: list[bool] = []
        note = ""
        for given, wanted in zip(self.inputs, self.outputs, strict=True):
            left = until - time.monotonic()
            if left <= 0:
                break
            room = _with_room(limits, len(wanted.encode(errors="replace")))
            run = sandbox.run(program, stdin=given, limits=replace(room, seconds=left))
            passed.append(run.ending == "ended" and same_output(run.output, wanted, tolerance=tolerance))
            note = note or ("" if passed[-1] else f"test {len(passed)}: {_reason(run)}")
        return Verdict(passed=_padded(passed, len(self.inputs)), note=note)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """A function, or a method of a class ``Solution``; its results are compared here, outside."""

    function: str
    arguments: tuple[list[Any], ...]
    outputs: tuple[Any, ...]
    solution: str | None = None

    def defines(self, code: str) -> bool:
        return bool(_definition(self.function, within=r"[ \t]*").search(code))

    def program(self, code: str) -> str:
        return code

    def judge(self, program: str, sandbox: Sandbox, limits: Limits, *, tolerance: float) -> Verdict:
        calls = [[encode(argument) for argument in arguments] for arguments in self.arguments]
        task = {"source": program, "function": self.function, "calls": calls}
        room = _with_room(limits, _TAGGED * len(json.dumps(self.outputs)))
        run = sandbox.run(_CALL, stdin=json.dumps(task), limits=room)
        answered = zip(run.output.splitlines(), self._accepted(), strict=False)
        passed = _padded([_agrees(line, values, tolerance) for line, values in answered], len(calls))
        return Verdict(passed=passed, note="" if all(passed) else _reason(run))

    def _accepted(self) -> list[tuple[Any, ...]]:
        """The accepted results of each call. APPS puts each value into a list, and its judge takes either."""
        wrapped = all(
            isinstance(value, list) and len(cast("list[Any]", value)) == 1 for value in self.outputs
        )
        return [(value, *value) if wrapped else (value,) for value in self.outputs]


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitTests:
    """Assertions about functions; they run in a jail that the candidate never enters."""

    exam: Exam
    prompt: str = ""
    """Text that the code continues, unless it defines the function itself."""
    function: str = ""
    solution: str | None = None

    def defines(self, code: str) -> bool:
        if self.function:
            return bool(_definition(self.function).search(code))
        # MBPP names its functions in its assertions alone.
        named = {name for test in self.exam.tests for name in _NAME.findall(test)}
        return not named.isdisjoint(_DEFINED.findall(code))

    def program(self, code: str) -> str:
        return code if self.defines(code) else self.prompt + code

    def judge(self, program: str, sandbox: Sandbox, limits: Limits, *, tolerance: float) -> Verdict:  # noqa: ARG002
        if not isinstance(sandbox, Examiner):
            raise RewardError(
                "sandbox: assertions need a jail apart from the code that they test, which only "
                "isolation = 'kernel' and 'process' have; use one of them, or inputs and outputs."
            )
        marks = sandbox.examine(program, self.exam, limits=limits)
        return Verdict(passed=marks.passed, note=marks.note)


def read_task(answer: str) -> Task:
    """The tests in a gold answer.

    Raises:
        ValueError: it is not a JSON object, or its keys fit none of the forms.
    """
    try:
        row = json.loads(answer)
    except ValueError:
        row = None
    if not isinstance(row, dict):
        raise ValueError(f"the gold answer must be a JSON object with tests, got {shown(answer)}")
    fields = cast("dict[str, Any]", row)
    for keys, read in _FORMS:
        if keys <= fields.keys():
            return read(fields)
    forms = " or ".join(" and ".join(sorted(keys)) for keys, _ in _FORMS)
    raise ValueError(f"the gold answer has no tests: it needs {forms}, got {', '.join(sorted(fields))}")


def _human_eval(row: dict[str, Any]) -> Task:
    function, prompt = row["entry_point"], row.get("prompt", "")
    start = _definition(function).search(prompt)
    # What comes before the function, imports and helpers, the tests may use too.
    setup = prompt[: start.start()] if start else ""
    exam = Exam(setup=setup, tests=[f"{row['test']}\ncheck({function})"], functions=[function])
    return UnitTests(exam=exam, prompt=prompt, function=function, solution=row.get("canonical_solution"))


def _mbpp(row: dict[str, Any]) -> Task:
    setup = "\n".join([*row.get("test_imports", ()), row.get("test_setup_code", "")])
    tests = _assertions(row["test_list"])
    used = {name for test in tests for name in _NAME.findall(test)}
    # MBPP also asks for a `sum`, which without this would be Python's own.
    functions = [name for name in _DEFINED.findall(row.get("code") or "") if name in used]
    exam = Exam(setup=setup, tests=tests, functions=functions)
    return UnitTests(exam=exam, solution=row.get("code"))


def _assertions(tests: Any) -> list[str]:
    """Check that there are tests and that none is empty: every program would pass those."""
    if isinstance(tests, list) and tests and all(map(_is_text, cast("list[Any]", tests))):
        return cast("list[str]", tests)
    raise ValueError(
        f"test_list must be a list of assertions, and have at least one; got {shown(cast('object', tests))}"
    )


def _calls(row: dict[str, Any]) -> Task:
    arguments, outputs = _same_number(row)
    _require(arguments, list, "inputs", "a list of arguments, as there is fn_name")
    return Calls(function=row["fn_name"], arguments=arguments, outputs=outputs, solution=row.get("solution"))


def _programs(row: dict[str, Any]) -> Task:
    inputs, outputs = _same_number(row)
    for key, texts in (("inputs", inputs), ("outputs", outputs)):
        _require(texts, str, key, "one text, as there is no fn_name")
    return Programs(inputs=inputs, outputs=outputs, solution=row.get("solution"))


_FORMS = (
    ({"test", "entry_point"}, _human_eval),
    ({"test_list"}, _mbpp),
    ({"inputs", "outputs", "fn_name"}, _calls),
    ({"inputs", "outputs"}, _programs),
)


def _same_number(row: dict[str, Any]) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    inputs, outputs = _listed(row, "inputs"), _listed(row, "outputs")
    if not inputs or len(inputs) != len(outputs):
        got = f"{len(inputs)} and {len(outputs)}"
        raise ValueError(f"the gold answer needs as many outputs as inputs, and at least one; got {got}")
    return inputs, outputs


def _listed(row: dict[str, Any], key: str) -> tuple[Any, ...]:
    if not isinstance(row[key], list):
        raise ValueError(f"{key} must be a list with an entry for each test, got {shown(row[key])}")
    return tuple(row[key])


def _require(entries: Sequence[object], kind: type, key: str, allowed: str) -> None:
    """Check the type of each entry; else every program would be judged by unintended tests."""
    for place, entry in enumerate(entries):
        if not isinstance(entry, kind):
            raise ValueError(f"{key}[{place}] must be {allowed}, got {shown(entry)}; rewrite the row so")


def _is_text(test: object) -> bool:
    return isinstance(test, str) and bool(test.strip())


def _definition(function: str, *, within: str = "") -> re.Pattern[str]:
    """Pattern of a function's definition; ``within`` matches what a class around it puts before the line."""
    return re.compile(rf"^{within}(?:async )?def {re.escape(function)}\b", re.MULTILINE)


def _agrees(line: str, accepted: Sequence[Any], tolerance: float) -> bool:
    """Whether a call returned what was wanted; a malformed line costs only its own test."""
    try:
        value = decode(json.loads(line)["value"])
        return any(same_value(value, wanted, tolerance=tolerance) for wanted in accepted)
    except (ValueError, LookupError, TypeError, RecursionError):
        return False


def _with_room(limits: Limits, expected: int) -> Limits:
    """The limits with room for ``expected`` more bytes, so that no right answer is too long."""
    more = expected // 1024 + 1
    output, disk = limits.output_kib + more, limits.disk_mib + more // 1024
    return replace(limits, output_kib=output, disk_mib=disk)


def _padded(passed: list[bool], length: int) -> tuple[bool, ...]:
    return (*passed, *(False,) * (length - len(passed)))


def _reason(run: Run) -> str:
    """Reason why a test may have failed: how the run ended, and its last line of complaint."""
    if run.ending == "ended" and not run.errors.strip():
        return "another answer is right"
    return f"{run.ending} {run.errors.strip().rpartition(chr(10))[2]}".strip()
