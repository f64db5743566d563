"""The import table: which part of llmrl may import which, and where each heavy package may be imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "llmrl"

# An entry is a part, one module of a part (its record), or a package. After a colon stand the only files that
# may import it, or "types": for annotations, under `if TYPE_CHECKING`. A row without a name goes on with the
# one above. Everybody may import errors, footprint and registry; the stdlib, numpy and pydantic are free.
TABLE = """
part       | llmrl it may import                           | packages it may import
errors     |                                               |
footprint  |                                               |
wording    |                                               |
sandbox    |                                               |
registry   | wording                                       |
recipe     | wording prompts:sources,parts,show            | rich:show
           | objectives:parts,arithmetic,show              |
           | rewards:parts experience:parts,arithmetic     |
           | rollouts.engines:parts report.trackers:parts  |
           | rollouts.environments:parts,roles             |
           | rollouts.agents:parts                         |
           | objectives:roles rewards:roles                |
           | roles.asker:roles roles.kinds:roles           |
prompts    | recipe.schema                                 | datasets:datasets transformers:tokenizer
           |                                               | tokenizers:tokenizer jinja2:tokenizer
rollouts   | recipe.schema prompts.prompt prompts.seeds    | vllm:vllm_engine,vllm_opponent,vllm_scheduler
           | prompts.tokenizer weights                     | torch:torch_engine,vllm_opponent,types
           |                                               | transformers:torch_engine,vllm_opponent
           | prompts.example:conversation,worker           | aiohttp:endpoint
           | prompts.example:contexts,wire                 |
           | sandbox:python roles.asker:rehearsal,dialogue |
           | roles.switchboard:worker                      |
           | prompts.thoughts:dialogue                     |
rewards    | recipe.schema prompts.prompt rollouts.rollout | math_verify:math jsonschema:json_schema
           | prompts.thoughts                              |
           | roles.asker roles.service:remote sandbox:code |
roles      | recipe.schema prompts.example:wire            | httpx:post aiohttp:switchboard
           | prompts.tokenizer:speaker,classifier          | torch:classifier transformers:classifier
           | rollouts:speaker                              | safetensors:classifier
experience | recipe.schema prompts.prompt rollouts.rollout | torch:types
           | rewards.judgement                             |
batches    | prompts.seeds experience.columns              | torch
           | experience.correction:types                   |
objectives | recipe.schema experience batches.batch:types  | torch:types
policy     | recipe.schema prompts.prompt rollouts.rollout | torch deepspeed:zero,ulysses peft:lora
           | prompts.tokenizer:model,folder experience     | transformers:model,folder,scorer,attention
           | batches objectives weights                    | safetensors:model
           |                                               | huggingface_hub:folder
           | prompts.seeds recipe.heads:folder             | triton:kernels,fused
weights    |                                               | torch:adapter,inbox,parcel,receive,outbox
           |                                               | torch:layout transformers:layout
           |                                               | torch:broadcast,device,group,packed,receiver
           |                                               | vllm:receive safetensors:folder
cluster    | recipe.schema                                 | ray
report     | recipe.schema prompts.prompt rollouts.rollout | rich:console accelerate:trackers
           | rewards.judgement experience.experience       |
run        | recipe prompts rollouts rewards experience    |
           | objectives weights.bundle weights.seat        |
           | weights.seal:checkpoint                       |
           | cluster report roles.switchboard:start,stage  |
           | policy.folder:stage_plan batches:types        |
           | policy:types                                  |
plan       | recipe objectives.algorithm cluster:measure   | rich:show
           | experience:measure run.crew:measure           |
           | run.hiring:measure                            |
           | policy.folder:measure prompts:measure         |
           | rollouts:measure                              |
doctor     | sandbox                                       | packaging rich
check      | objectives testing vectors                    | torch
cli        | recipe plan run report doctor check           | typer rich
testing    | experience batches objectives rewards.reward  | torch
           | policy.reduce                                 |
vectors    | experience batches objectives testing         | torch
           | prompts.prompt rollouts.rollout               |
           | rollouts.engines.opponent rewards             |
"""

EVERYBODY = {"errors", "footprint", "registry"}
FREE = {"numpy", "pydantic", "pydantic_core", *sys.stdlib_module_names}
HEAVY = {
    *("torch", "triton", "ray", "vllm", "deepspeed"),
    *("transformers", "tokenizers", "datasets", "accelerate", "peft"),
}

# What reads and checks a recipe, and what `--help`, `show`, `plan` and `doctor` load: ring 0.
LIGHT = """
cli doctor footprint wording registry recipe.schema recipe.load recipe.checks recipe.show recipe.arithmetic
prompts.datasets prompts.stream prompts.tasks rollouts.engines rollouts.pool rewards rewards.reward
rewards.scoring.scorer roles.asker roles.kinds plan.plan plan.show experience.experience experience.credit
experience.correction experience.keep objectives objectives.algorithm run.loop report.html weights.bundle
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One import statement of one file."""

    file: Path
    line: int
    module: str
    types_only: bool


def imports(file: Path, node: ast.AST | None = None, *, types_only: bool = False) -> Iterator[Import]:
    """Every import of a file, those inside functions included."""
    node = node or ast.parse(file.read_text("utf-8"))
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield Import(file=file, line=node.lineno, module=alias.name, types_only=types_only)
    elif isinstance(node, ast.ImportFrom):
        # `from llmrl import x` names a part; `from llmrl.x import y` may name a module or a thing inside one.
        base = "." * node.level + (node.module or "")
        names = [f"{base}.{alias.name}" for alias in node.names] if base == "llmrl" else [base]
        for name in names:
            yield Import(file=file, line=node.lineno, module=name, types_only=types_only)
    guarded = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    for child in ast.iter_child_nodes(node):
        inside = types_only or (isinstance(node, ast.If) and guarded and child in node.body)
        yield from imports(file, child, types_only=inside)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """One entry of the table."""

    name: str
    files: frozenset[str]
    """Stems of the files that it is meant for; empty means all."""

    @classmethod
    def read(cls, entry: str) -> Allowed:
        name, _, files = entry.partition(":")
        return cls(name=name, files=frozenset(files.split(",")) if files else frozenset())

    def covers(self, found: Import, module: str) -> bool:
        if module != self.name and not module.startswith(f"{self.name}."):
            return False
        if "types" in self.files and found.types_only:
            return True
        return not self.files or found.file.stem in self.files


def table(text: str) -> dict[str, list[Allowed]]:
    """For each part everything that it may import, llmrl's own modules with their prefix."""
    allowed: dict[str, list[Allowed]] = {}
    part = ""
    for line in text.strip().splitlines()[1:]:
        name, ours, packages = line.split("|")
        part = name.strip() or part
        entries = [*(f"llmrl.{own}" for own in ours.split()), *packages.split()]
        allowed.setdefault(part, []).extend(Allowed.read(entry) for entry in entries)
    return allowed


def part_of(file: Path, root: Path) -> str:
    return file.relative_to(root).parts[0].removesuffix(".py")


def is_free(found: Import, part: str) -> bool:
    top, *rest = found.module.split(".")
    if top != "llmrl":
        return top in FREE
    return not rest or rest[0] in EVERYBODY | {part, "__version__"}


def violations(root: Path) -> list[str]:
    """One line for each import that the table does not allow."""
    allowed = table(TABLE)
    return [
        f"{file.relative_to(root)}:{found.line} imports {found.module}"
        for file in sorted(root.rglob("*.py"))
        if file != root / "__init__.py"
        for found in imports(file)
        if not is_free(found, part := part_of(file, root))
        and not any(entry.covers(found, found.module) for entry in allowed.get(part, []))
    ]


def test_nobody_imports_what_the_table_does_not_allow() -> None:
    assert violations(SOURCE) == []


def test_every_part_is_in_the_table() -> None:
    parts = {part_of(file, SOURCE) for file in SOURCE.rglob("*.py")} - {"__init__"}

    assert parts - set(table(TABLE)) == set()


@pytest.mark.parametrize(
    ("planted", "reported"),
    [
        ("import vllm", "rollouts/pool.py:1 imports vllm"),
        ("from llmrl.run.loop import train", "rollouts/pool.py:1 imports llmrl.run.loop"),
        ("from llmrl import run", "rollouts/pool.py:1 imports llmrl.run"),
        ("def f():\n    import torch.nn", "rollouts/pool.py:2 imports torch.nn"),
        ("from ..run import loop", "rollouts/pool.py:1 imports ..run"),
    ],
)
def test_a_planted_violation_is_reported_with_its_file(planted: str, reported: str, tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    (tmp_path / "rollouts" / "pool.py").write_text(planted)
    (tmp_path / "rollouts" / "vllm_engine.py").write_text(
        "import vllm\nfrom llmrl.recipe.schema import Stage"
    )

    assert violations(tmp_path) == [reported]


def test_an_import_for_types_alone_is_allowed_where_the_table_says_so(tmp_path: Path) -> None:
    (tmp_path / "objectives").mkdir()
    (tmp_path / "objectives" / "mine.py").write_text(
        "if TYPE_CHECKING:\n    from torch import Tensor\nimport torch"
    )

    assert violations(tmp_path) == ["objectives/mine.py:3 imports torch"]


# Names the first that loads something heavy.
LOADED = """
import importlib, sys
for module in sys.argv[2].split():
    importlib.import_module(f"llmrl.{module}")
    if heavy := {*sys.argv[1].split()} & {*sys.modules}:
        sys.exit(f"{module} loads {sorted(heavy)}")
"""


# Two also alone: in a circle of imports it matters who comes first.
@pytest.mark.parametrize("modules", [LIGHT, "cli", "run.loop"], ids=["all", "cli", "run.loop"])
def test_light_modules_load_no_heavy_package(modules: str) -> None:
    command = [sys.executable, "-c", LOADED, " ".join(HEAVY), modules]

    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
