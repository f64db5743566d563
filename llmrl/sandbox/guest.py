"""Code inside a jail: a program, calls of a function, a function for others to call, tests.

A candidate and its tests have a jail each, and only plain data passes between them. So the code that a model
wrote never meets an assertion, an expected value, or the interpreter that decides.

This module and ``plain`` need nothing but the standard library: other sandboxes get them as files.
"""

from __future__ import annotations

import ast
import atexit
import builtins
import importlib.abc
import json
import os
import struct
import sys
import traceback
from collections.abc import Callable
from types import CodeType, ModuleType
from typing import Any, NoReturn

from llmrl.sandbox.plain import decode, encode

ASKED, ANSWERED = 4, 5
"""Descriptors for calls and for their results."""
FRAME = 2**22
"""Bytes of the longest message between two jails."""
LONGEST_NOTE = 200

RAISED: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (
        *(ArithmeticError, AttributeError, IndexError, KeyError, LookupError, NameError, NotImplementedError),
        *(OSError, OverflowError, RecursionError, RuntimeError, TypeError, ValueError, ZeroDivisionError),
    )
}
"""Exceptions that a test may expect of a candidate; others arrive as a RuntimeError."""


class Source(importlib.abc.InspectLoader):
    """A loader that runs a text as a module; tracebacks show its lines."""

    def __init__(self, text: str) -> None:
        self._text = text

    def get_source(self, fullname: str) -> str:  # noqa: ARG002  the signature is importlib's
        return self._text

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self._text, f"{fullname.strip('_')}.py")

    def run(self, name: str, known: dict[str, Any]) -> dict[str, Any]:
        """Run the module; returns its names, in addition to those in ``known``."""
        module = sys.modules[name] = ModuleType(name)
        module.__dict__.update({own: value for own, value in known.items() if not own.startswith("__")})
        module.__loader__ = self
        self.exec_module(module)
        return module.__dict__


def run_program(text: str) -> NoReturn:
    """Run a text as ``python main.py`` would, with descriptors 0 to 2 for its input and output, and exit."""
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115  for the program
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    builtins.exit = builtins.quit = sys.exit  # as `site` would have made them
    sys.argv = ["main.py"]
    status = 0
    # Called last of all, when threads and the program's own exit functions are done: what Python would do
    # then, taking itself apart, takes longer than everything else.
    atexit.register(lambda: _leave(status))
    try:
        Source(text).run("__main__", {})
    except SystemExit as exit:
        status = _status(exit)
    except BaseException as error:  # noqa: BLE001  whatever a program raises is its end
        traceback.print_exception(error.with_traceback(_below(error, "main.py")))
        status = 1
    raise SystemExit(status)


def call() -> None:
    """Call a function once for each list of arguments on stdin; each result is a line of JSON on stdout."""
    task, results = json.load(sys.stdin), _take_output()
    function = _find(Source(task["source"]).run("solution", {}), task["function"])
    for arguments in task["calls"]:
        results.write(json.dumps(_answer(function, arguments, {})) + "\n")
        results.flush()


def serve() -> None:
    """Answer the calls of another jail until it is gone."""
    task = json.load(sys.stdin)
    os.dup2(2, 1)
    names = Source(task["source"]).run("solution", Source(task["setup"]).run("setup", {}))
    with open(ASKED, "rb") as asked, open(ANSWERED, "wb") as answered:
        while (ask := _receive(asked)) is not None:
            _send(answered, _answer(_find(names, ask["name"]), ask["arguments"], ask["keywords"]))


def examine() -> None:
    """Run tests against the functions of another jail; stdout gets which passed, and why others failed."""
    task, results = json.load(sys.stdin), _take_output()
    link = Link()
    tests = [ast.parse(test) for test in task["tests"]]
    names = Source(task["setup"]).run("tests", {})
    for name in [*task["functions"], *_unknown(tests, names)]:
        names[name] = link.function(name)
    notes = [_passes(test, names, link) for test in task["tests"]]
    json.dump({"passed": [not note for note in notes], "notes": notes}, results)
    results.flush()


class Gone(BaseException):
    """The candidate's jail has ended or does not keep to the protocol; no test may catch that."""


class Link:
    """The connection to the candidate's functions."""

    def __init__(self) -> None:
        self.broken = False
        """Whether it has failed, after which no test passes."""
        self._asks, self._answers = open(ASKED, "wb"), open(ANSWERED, "rb")  # noqa: SIM115  open to the end

    def function(self, name: str) -> Callable[..., Any]:
        """A function that calls the candidate's of that name; arguments and result are copies."""

        def stub(*arguments: object, **keywords: object) -> Any:
            trees = [encode(argument) for argument in arguments]
            asked = {
                "name": name,
                "arguments": trees,
                "keywords": {k: encode(v) for k, v in keywords.items()},
            }
            return self._ask(asked)

        return stub

    def _ask(self, asked: dict[str, Any]) -> Any:
        try:
            _send(self._asks, asked)
            kind, value = _read_answer(_receive(self._answers))
        except Exception as error:  # noqa: BLE001  whatever it sent instead of an answer
            self.broken = True
            raise Gone(f"the candidate does not answer ({error})") from None
        if kind is not None:
            raise RAISED.get(kind, RuntimeError)(value)
        return value


def _read_answer(answer: dict[str, Any] | None) -> tuple[str | None, Any]:
    """The kind and text of what a function raised; None and its value if it returned."""
    if answer is None:
        raise EOFError("it has ended")
    if "raised" in answer:
        kind, text = answer["raised"]
        return str(kind), str(text)
    return None, decode(answer["value"])


def _passes(test: str, names: dict[str, Any], link: Link) -> str:
    """Run a test; returns why it fails, or empty if it passes."""
    try:
        Source(test).run("tests", names)
    except BaseException as error:  # noqa: BLE001  a test may end in any way but one and has then failed
        return _told(error) or "failed"
    return "the candidate is gone" if link.broken else ""


def _unknown(tests: list[ast.Module], names: dict[str, Any]) -> list[str]:
    """Names that tests read and that only the candidate can have defined."""
    read = {
        node.id
        for test in tests
        for node in ast.walk(test)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)
    }
    return sorted(read - vars(builtins).keys() - names.keys())


def _answer(function: Callable[..., Any], arguments: list[Any], keywords: dict[str, Any]) -> dict[str, Any]:
    try:
        result = function(*map(decode, arguments), **{name: decode(tree) for name, tree in keywords.items()})
        return {"value": encode(result)}
    except Exception as error:  # noqa: BLE001  a candidate's exception is its answer
        return {"raised": [type(error).__name__, str(error)[:LONGEST_NOTE]]}


def _find(names: dict[str, Any], function: str) -> Callable[..., Any]:
    """A function of a module, or a method of its class ``Solution``."""
    if function not in names and "Solution" in names:
        return getattr(names["Solution"](), function)
    return names[function]


def _status(exit: SystemExit) -> int:
    """The status that Python makes of an exit: a number itself, None 0, a text 1 and printed to stderr."""
    match exit.code:
        case None:
            return 0
        case int():
            return exit.code & 0xFF
        case text:
            sys.stderr.write(f"{text}\n")
            return 1


def _leave(status: int) -> NoReturn:
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # it wrote more than it may
        status = status or 1
    os._exit(status)


def _take_output() -> Any:
    """Take standard output for us alone; what the code prints from now on goes to standard error."""
    taken = open(os.dup(1), "w")  # noqa: SIM115  open to the end
    os.dup2(2, 1)
    return taken


def _send(stream: Any, message: object) -> None:
    data = json.dumps(message).encode()
    stream.write(struct.pack(">I", len(data)) + data)
    stream.flush()


def _receive(stream: Any) -> Any:
    """The next message; None when the other side is gone."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    (length,) = struct.unpack(">I", head)
    if length > FRAME:
        raise ValueError(f"a message of {length} bytes is too long")
    return json.loads(stream.read(length))


def _told(error: BaseException) -> str:
    """The exception and its place, in one line."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "tests.py"]
    where = f" at: {frames[-1].line}" if frames else ""
    return f"{type(error).__name__}: {error}{where}"[:LONGEST_NOTE]


def _below(error: BaseException, file: str) -> Any:
    """The part of a traceback that begins in ``file``; all of it if it never gets there."""
    at = error.__traceback__
    while at is not None and at.tb_frame.f_code.co_filename != file:
        at = at.tb_next
    return at or error.__traceback__
