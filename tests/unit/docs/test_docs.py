"""The documentation is true: its samples run, its keys, metrics, plugins, commands and links exist.

A fenced sample that follows "`name.ext`:" is that file; any other TOML is a fragment of a recipe, and a
sample called console is a command with lines of its output.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from llmrl.cli import app
from llmrl.experience.correction import correction
from llmrl.experience.credit import credit
from llmrl.experience.keep import keep
from llmrl.experience.pairing import pairing
from llmrl.objectives import objective, shaping
from llmrl.prompts.stream import PromptStream, held_out
from llmrl.prompts.tasks import task
from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.draft import STAGE_TABLES
from llmrl.recipe.load import load_recipe
from llmrl.recipe.problems import table_at
from llmrl.registry import Registry
from llmrl.report.metrics import METRICS, metric
from llmrl.rewards import reward
from llmrl.roles.kinds import role
from llmrl.rollouts.engines import engine
from llmrl.rollouts.environments import environment
from llmrl.rollouts.tools import tool

ROOT = Path(__file__).resolve().parents[3]

FENCE = re.compile(r"^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
CALLED = re.compile(r"`(?P<name>[\w.-]+\.\w+)`:\s*\Z")

# What completes a fragment; a table that the fragment has is left out here.
BASE = """
[model]
config = { model_type = "qwen3", hidden_size = 64 }
characters = "0123456789+=,#"

[prompts]
sources = [{ task = "digit_sum", rows = 4000 }]

[rewards.answer]
kind = "number"

[objective]
name = "grpo"

[optimizer]
steps = 100
"""

# Files that samples name and nobody has here.
STAND_INS = {
    "models/Qwen2.5-0.5B-Instruct/config.json": "{}",
    "models/reward-model/config.json": "{}",
    "models/judge/config.json": "{}",
    "models/user/config.json": "{}",
    "gsm8k/train.jsonl": '{"question": "1 + 1?", "answer": "#### 2"}\n',
    "gsm8k/test.jsonl": '{"question": "1 + 2?", "answer": "#### 3"}\n',
    "rows.jsonl": '{"prompt": "1+1=", "answer": "2"}\n',
    "own.csv": "task,result\n2 + 2?,4\n",
    "runs/first/0-train/pass_rates.jsonl": '{"id": "train/0", "solved": 1, "judged": 4}\n',
}

OPEN_TABLES = {"options", "config", "environment", "fields"}
"""Keys below which names are free."""

REGISTRIES: dict[str, tuple[Registry, ...]] = {
    "docs/rewards.md": (reward, role),
    "docs/credit.md": (credit, keep, shaping, correction),
    "docs/objectives.md": (objective,),
    "docs/preferences.md": (pairing,),
    "docs/rollouts.md": (engine,),
    "docs/conversations.md": (environment, tool),
    "docs/data.md": (task,),
}


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A fenced block."""

    kind: str
    text: str
    name: str
    """Of the file that it is; empty if it is a fragment."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """One page of the documentation."""

    path: Path

    def __str__(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def prose(self) -> str:
        """Everything but the samples."""
        return FENCE.sub("", self.text)

    @cached_property
    def samples(self) -> list[Sample]:
        found = ((match, CALLED.search(self.text[: match.start()])) for match in FENCE.finditer(self.text))
        return [
            Sample(kind=match["kind"], text=match["text"], name=called["name"] if called else "")
            for match, called in found
        ]

    @cached_property
    def inline(self) -> list[str]:
        """What stands between backticks, up to an equals sign."""
        return [code.partition(" = ")[0] for code in re.findall(r"`([^`\n]+)`", self.prose)]

    @cached_property
    def code(self) -> list[str]:
        """Lines of code: indented ones, samples, and what stands between backticks."""
        return [*re.findall(r"^ {4}(.+)$", self.text, re.MULTILINE), *self.inline]

    @cached_property
    def anchors(self) -> set[str]:
        """What a link may put behind its #, as GitHub makes it from headings."""
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


PAGES = [Page(path=path) for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
README = PAGES[0]
WITH_SAMPLES = [page for page in PAGES if page.samples]


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "240", "PYTHONPATH": "."}
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def show(folder: Path, commands: Sequence[Sequence[str]]) -> list[tuple[int, str]]:
    """Status and output of each ``llmrl show``, which loads and checks a recipe and starts nothing."""
    ended = run(folder, "-c", SHOW, json.dumps(commands))
    assert ended.returncode == 0, ended.stderr
    return [(status, text) for status, text in map(json.loads, ended.stdout.splitlines())]


# A command has a process of its own, in which no plugin but its recipe's is known, forked of one that has
# imported the command line.
SHOW = """
import json, multiprocessing, sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from llmrl.cli import main

def show(arguments):
    sys.argv, said, status = ["llmrl", "show", *arguments], StringIO(), 0
    with redirect_stdout(said), redirect_stderr(said):
        try:
            main()
        except SystemExit as end:
            status = end.code
    print(json.dumps([status, said.getvalue()]))

for arguments in json.loads(sys.argv[1]):
    one = multiprocessing.get_context("fork").Process(target=show, args=[arguments])
    one.start()
    one.join()
    if one.exitcode:
        sys.exit(one.exitcode)
"""


@dataclass(frozen=True, kw_only=True)
class Written:
    """A page's samples that are files, in a folder where those in Python have been run."""

    folder: Path
    recipes: list[str]


Writing = Callable[[Page], Written]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Writing:
    """Writes and runs those of a page when it is first asked for them."""
    return cache(lambda page: written_in(tmp_path_factory.mktemp(page.path.stem), page))


def written_in(folder: Path, page: Page) -> Written:
    """Every sample that is a file, and what they need; those in Python are run in the order of the page."""
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    for number, sample in enumerate(page.samples):
        name = sample.name or f"sample_{number}.py" if sample.kind == "python" else sample.name
        if name:
            (folder / name).write_text(sample.text)
        if sample.kind == "python":
            ended = run(folder, name)
            assert ended.returncode == 0, f"{page}, {name}: {ended.stderr}"
    recipes = [sample.name for sample in page.samples if sample.kind == "toml" and sample.name]
    return Written(folder=folder, recipes=recipes)


def completed(fragment: str, base: str) -> str:
    """The fragment, and the tables of the base that it does not have."""
    chunks = re.split(r"^(?=\[)", base, flags=re.MULTILINE)
    tables = {match[1] for match in re.finditer(r"^(?:\[+)?(\w+)", fragment, re.MULTILINE)}
    kept = [
        chunk
        for chunk in chunks
        if chunk.startswith("[") and chunk.strip("[").split("]")[0].split(".")[0] not in tables
    ]
    return "\n".join([fragment, *kept])


@pytest.mark.parametrize("page", WITH_SAMPLES, ids=str)
def test_samples_of_python_run_and_those_of_recipes_pass_every_check(page: Page, written: Writing) -> None:
    folder, recipes = written(page).folder, [*written(page).recipes]
    base = (folder / recipes[-1]).read_text() if recipes else BASE
    fragments = [sample.text for sample in page.samples if sample.kind == "toml" and not sample.name]
    for number, fragment in enumerate(fragments):
        recipes.append(f"fragment_{number}.toml")
        (folder / recipes[-1]).write_text(completed(fragment, base))

    shown = show(folder, [[recipe] for recipe in recipes])

    for recipe, (status, said) in zip(recipes, shown, strict=True):
        assert status == 0, f"{page}, {recipe}: {said}"


@pytest.mark.parametrize("page", [page for page in PAGES if "```console" in page.text], ids=str)
def test_commands_print_what_the_page_says(page: Page, written: Writing) -> None:
    samples = [sample.text.splitlines() for sample in page.samples if sample.kind == "console"]
    assert all(command.startswith("$ llmrl show ") for command, *_ in samples)

    shown = show(written(page).folder, [shlex.split(command)[3:] for command, *_ in samples])

    for (command, *expected), (_, said) in zip(samples, shown, strict=True):
        printed = [" ".join(line.split()) for line in said.splitlines()]
        assert [line for line in expected if " ".join(line.split()) not in printed] == [], command


@pytest.mark.parametrize("page", [page for page in WITH_SAMPLES if "llmrl train" in page.text], ids=str)
def test_overrides_on_a_command_line_fit_the_recipe_of_their_page(page: Page, written: Writing) -> None:
    lines = re.findall(r"^ {4}.*\bllmrl train (.*)$", page.text, re.MULTILINE)
    commands = [shlex.split(line, comments=True) for line in lines]
    assert commands
    assert {recipe for recipe, *_ in commands} <= {*written(page).recipes}

    shown = show(written(page).folder, commands)

    for command, (status, said) in zip(commands, shown, strict=True):
        assert status == 0, f"{command}: {said}"


def test_the_first_recipe_reads_the_data_that_the_readme_makes(
    written: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recipe,) = written(README).recipes
    monkeypatch.chdir(written(README).folder)
    stage = load_recipe(recipe).recipe.stages[-1]
    tokenizer = load_tokenizer(stage.model)

    stream = PromptStream(stage.prompts, tokenizer, seed=0)
    tested = held_out(stage.evaluation, tokenizer, max_tokens=stage.prompts.max_tokens, seed=0)

    assert (len(stream), len(tested)) == (2000, 256)
    assert {prompt.text for prompt in stream.rows}.isdisjoint(prompt.text for prompt in tested)
    assert all(prompt.answer == prompt.text[-2::-1] for prompt in stream.rows)
    longest = max(prompt.demonstration.size for prompt in stream.rows if prompt.demonstration is not None)
    assert longest <= stage.rollouts.max_tokens


def test_the_reward_and_the_loss_of_the_readme_do_what_their_first_lines_say(written: Writing) -> None:
    ended = run(written(README).folder, "-c", README_PLUGINS)

    assert ended.returncode == 0, ended.stderr


README_PLUGINS = """
import math
import torch
from letters import Letters
from soft_clip import SoftClip
from llmrl.batches.batch import Batch, TokenScores
from llmrl.rewards import Sample

def score(response, answer):
    return Letters()(Sample(prompt="", response=response, answer=answer, tokens=0, finished=True))

assert (score("abcd", "abxd"), score("ab", "abxd"), score("ab", None)) == (0.75, 0.5, None)

current = torch.tensor([[-1.0, -1.2]], requires_grad=True)
batch = Batch(
    mask=torch.ones(1, 2, dtype=torch.bool),
    advantage=torch.tensor([[2.0, 2.0]]),
    reward=torch.tensor([2.0]),
    group=torch.tensor([0]),
    pairs=torch.zeros(0, 2, dtype=torch.int64),
    opponent=torch.tensor([False]),
    turn=torch.zeros(1, 2, dtype=torch.int64),
    sampled=TokenScores(logp=torch.tensor([[-1.0, -1.0]])),
    old=TokenScores(logp=current.detach()),
)
SoftClip(width=0.2)(TokenScores(logp=current), batch).value.sum().backward()
torch.testing.assert_close(current.grad, torch.tensor([[-2.0, -2.0 / math.e]]))
"""


def unknown_key(code: str) -> str | None:
    """The part of a dotted key that the schema does not have."""
    keys = code.split(".")
    at: tuple[str, ...] = () if keys[0] == "run" else ("stages", "0")
    for key in keys:
        table = table_at(at)
        if table is not None and key not in table.model_fields:
            return key
        if key in OPEN_TABLES:
            return None
        at = (*at, key)
    return None


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_key_of_a_recipe_that_a_page_names_exists(page: Page) -> None:
    dotted = re.compile(rf"({'|'.join((*STAGE_TABLES, 'run'))})(\.[\w<>]+)+")
    files = (".html", ".json", ".jsonl", ".py", ".toml")
    named = [code for code in page.inline if dotted.fullmatch(code) and not code.endswith(files)]

    assert {code: unknown for code in named if (unknown := unknown_key(code))} == {}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_everything_of_llmrl_that_a_page_names_can_be_imported(page: Page) -> None:
    for code in page.inline:
        if re.fullmatch(r"llmrl(\.\w+)+", code):
            resolve_name(code)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_metric_that_a_page_names_is_in_the_dictionary(page: Page) -> None:
    groups = {name.split("/")[0] for name in METRICS}
    for code in page.inline:
        if code.partition("/")[0] in groups and re.fullmatch(r"\w+(/[\w<>]+)+", code):
            metric(code)


def test_the_tables_of_a_recipe_are_all_named_in_their_order() -> None:
    (page,) = (page for page in PAGES if str(page) == "docs/recipes.md")
    paragraph = page.prose[page.prose.index("The tables stand in the order") :].partition("At the top")[0]

    assert re.findall(r"`\[+(\w+)", paragraph) == list(STAGE_TABLES)


def test_the_table_of_metrics_has_their_units() -> None:
    (page,) = (page for page in PAGES if str(page) == "docs/runs.md")
    rows = re.findall(r"^\| (`.+`) \| ([^|]+) \| [^|]+ \|$", page.prose, re.MULTILINE)
    named = {code: unit for codes, unit in rows for code in re.findall(r"`([^`]+)`", codes)}

    assert named == {code: metric(code).unit for code in named}
    described = {code.partition("<")[0] for code in named}
    assert [name for name in METRICS if name not in described] == []


@pytest.mark.parametrize(("page", "registries"), REGISTRIES.items())
def test_every_built_in_plugin_is_on_the_page_of_its_kind(
    page: str, registries: tuple[Registry, ...]
) -> None:
    inline = {code.strip('"') for found in PAGES if str(found) == page for code in found.inline}

    ours = (
        name
        for registry in registries
        for name in registry.names
        if registry.get(name, key="").__module__.startswith("llmrl.")  # and not a recipe's plugin
    )
    assert [name for name in ours if name not in inline] == []


def options_of(command: Any) -> set[str]:
    """Those of a command, or of all commands in a group."""
    own = {option for parameter in command.params for option in parameter.opts}
    inner = command.commands.values() if isinstance(command, TyperGroup) else ()
    return own.union(*(options_of(one) for one in inner))


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_command_option_and_target_exists(page: Page) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in page.code:
        for name, rest in re.findall(r"\bllmrl (\w+)([^|;]*)", line):
            assert name in commands, line
            assert set(re.findall(r"(?<!\S)--[a-z-]+", rest)) <= options_of(commands[name]), line
        for target in re.findall(r"\bmake (\w+)", line):
            assert target in targets, line


@pytest.mark.parametrize("page", [*PAGES, Page(path=ROOT / "CONTRIBUTING.md")], ids=str)
def test_every_link_and_path_leads_somewhere(page: Page) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.prose):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.path.parent / path).resolve() if path else page.path
        assert target.exists(), link
        assert not anchor or anchor in Page(path=target).anchors, link
    # CONTRIBUTING tells of files that are still to be written.
    for code in page.inline if page in PAGES else ():
        if re.match(r"(llmrl|tests|docs|launch|recipes|constraints)/[\w/.-]+$", code):
            assert (ROOT / code).exists(), code


def test_every_page_is_on_the_map() -> None:
    index = (ROOT / "docs" / "index.md").read_text()

    assert [page.path.name for page in PAGES[1:] if f"({page.path.name})" not in index] == ["index.md"]
