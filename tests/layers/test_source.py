"""What no linter of ours knows: waits without a deadline, doors for foreign code, and files that grow."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "llmrl"

MODULE_LINES = 350
FUNCTION_LINES = 70
WAITS = {
    "ray.get",
    "ray.wait",
    "subprocess.run",
    "subprocess.call",
    "subprocess.check_call",
    "subprocess.check_output",
}
FOREIGN_CODE = {"torch.load", "eval", "exec", "compile", "os.system", "yaml.load"}
PICKLES = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
PRINTS = {"cli.py", "doctor.py"}
FRAGMENT = re.compile(r"\s*(?:Of|That|Who|Whose|Whoever|In which|Those)\b")

Finding = tuple[int, str]


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, str]]:
    return ((node, ast.unparse(node.func)) for node in ast.walk(tree) if isinstance(node, ast.Call))


def unbounded_waits(tree: ast.Module) -> Iterator[Finding]:
    for call, name in calls(tree):
        waits = name in WAITS or name.endswith(".communicate")
        if waits and "timeout" not in {keyword.arg for keyword in call.keywords}:
            yield call.lineno, f"{name} without a timeout"


def foreign_code(tree: ast.Module) -> Iterator[Finding]:
    for call, name in calls(tree):
        if name in FOREIGN_CODE:
            yield call.lineno, f"{name} runs what somebody else wrote"
        for keyword in call.keywords:
            if (
                keyword.arg in {"shell", "trust_remote_code", "allow_pickle"}
                and ast.unparse(keyword.value) == "True"
            ):
                yield call.lineno, f"{name} with {keyword.arg}=True"


def pickles(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            continue
        yield from ((node.lineno, f"imports {name}") for name in names if name.split(".")[0] in PICKLES)


def code_lines(node: ast.AST) -> int:
    """Lines on which a statement or expression begins or ends: no blank lines, comments or docstrings."""
    held = [n for n in ast.walk(node) if isinstance(n, (ast.stmt, ast.expr))]
    texts = {id(n.value) for n in held if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)}
    code = [n for n in held if not isinstance(n, ast.Expr) and id(n) not in texts]
    return len({line for n in code for line in (n.lineno, n.end_lineno)})


def long_functions(tree: ast.Module) -> Iterator[Finding]:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and code_lines(node) > FUNCTION_LINES:
            yield node.lineno, f"{node.name} has {code_lines(node)} lines of code, more than {FUNCTION_LINES}"


def long_module(tree: ast.Module) -> Iterator[Finding]:
    if code_lines(tree) > MODULE_LINES:
        yield 1, f"{code_lines(tree)} lines of code, more than {MODULE_LINES}"


def silent_module(tree: ast.Module) -> Iterator[Finding]:
    if tree.body and ast.get_docstring(tree) is None:
        yield 1, "no docstring says what this module is"


def fragments(tree: ast.Module) -> Iterator[Finding]:
    """An editor shows a docstring without the line above it, which such a word would continue."""
    texts = (node.value for node in ast.walk(tree) if isinstance(node, ast.Expr))
    for text in texts:
        if isinstance(text, ast.Constant) and isinstance(text.value, str) and FRAGMENT.match(text.value):
            yield text.lineno, f"a docstring that begins with {text.value.split()[0]} does not stand alone"


def prints(tree: ast.Module) -> Iterator[Finding]:
    return (
        (call.lineno, "print: use the logger or the console") for call, name in calls(tree) if name == "print"
    )


LINTS: tuple[Callable[[ast.Module], Iterator[Finding]], ...] = (
    unbounded_waits,
    foreign_code,
    pickles,
    long_functions,
    long_module,
    silent_module,
    fragments,
    prints,
)


def findings(root: Path) -> list[str]:
    """Everything that any lint has to say, with file and line."""
    found: list[str] = []
    for file in sorted(root.rglob("*.py")):
        text = file.read_text("utf-8")
        where = file.relative_to(root)
        allowed = [prints] * (file.name in PRINTS)
        lints = [lint for lint in LINTS if lint not in allowed]
        found += [f"{where}:{line} {message}" for lint in lints for line, message in lint(ast.parse(text))]
        found += [
            f"{where}:{i} not ASCII" for i, line in enumerate(text.splitlines(), 1) if not line.isascii()
        ]
    return found


def test_the_source_keeps_the_rules() -> None:
    assert findings(SOURCE) == []


@pytest.mark.parametrize(
    ("planted", "reported"),
    [
        ("ray.get(x)", "ray.get without a timeout"),
        ("subprocess.run(['ls'])", "subprocess.run without a timeout"),
        ("child.communicate(b'')", "child.communicate without a timeout"),
        ("torch.load(path)", "torch.load runs what somebody else wrote"),
        ("eval(text)", "eval runs what somebody else wrote"),
        ("load(name, trust_remote_code=True)", "load with trust_remote_code=True"),
        ("import pickle", "imports pickle"),
        ("from cloudpickle import dumps", "imports cloudpickle"),
        ("print(1)", "print: use the logger or the console"),
        ("x = 'caf\u00e9'", "not ASCII"),
        ('"""Of a step."""', "a docstring that begins with Of does not stand alone"),
    ],
)
def test_a_planted_offence_is_reported_with_its_line(planted: str, reported: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f'"""A module."""\n{planted}\n', "utf-8")

    assert findings(tmp_path) == [f"mine.py:2 {reported}"]


def test_what_has_a_deadline_is_not_reported(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        '"""A module."""\nray.get(x, timeout=3)\nsubprocess.run(["ls"], timeout=3)\n'
    )

    assert findings(tmp_path) == []


def test_length_counts_code_and_neither_comments_nor_docstrings(tmp_path: Path) -> None:
    comments, code = "    # why\n\n" * 100, "    x = 1\n" * (FUNCTION_LINES - 1)
    (tmp_path / "short.py").write_text(
        f'"""A module."""\ndef f():\n    """Text.\n{comments}"""\n{comments}{code}'
    )
    (tmp_path / "long.py").write_text(f'"""A module."""\ndef f():\n{code}    y = 2\n')

    assert findings(tmp_path) == ["long.py:2 f has 71 lines of code, more than 70"]


def test_a_module_without_docstring_is_reported(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("x = 1\n")
    (tmp_path / "__init__.py").write_text("")

    assert findings(tmp_path) == ["mine.py:1 no docstring says what this module is"]
