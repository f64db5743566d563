"""A recipe file becomes a Recipe: validated, completed, and with the source of every value."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from llmrl.errors import RecipeError
from llmrl.recipe.draft import SAFE_NAME, SAFE_NAME_TEXT, Draft, Origin, read_draft
from llmrl.recipe.problems import Problem, schema_problems, value_problems
from llmrl.recipe.schema import Engines, Evaluation, Recipe, Stage
from llmrl.recipe.tables import Keys, Tree, Value, leaves
from llmrl.wording import as_toml

MAX_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A recipe with the source of every value."""

    recipe: Recipe
    origins: Mapping[str, Origin]
    """Origins by address, such as ``run.seed`` and ``stages.<name>.prompts.sources.0.rows``."""
    path: Path


def load_recipe(path: Path | str, overrides: Sequence[str] = ()) -> Loaded:
    """Read, resolve and validate a recipe; nothing is imported and nothing but the file is opened.

    Args:
        path: a TOML file.
        overrides: ``a.b.c=value`` for every stage, ``stages.<name>.a.b.c=value`` for one; a later one of the
            same key wins.

    Raises:
        RecipeError: lists every problem of the file and the overrides, one sentence per line, at most 20.
    """
    path = Path(path)
    try:
        draft = read_draft(path, overrides)
    except RecipeError as error:
        refuse(path, str(error).splitlines())
        raise
    recipe = _validated(draft, path)
    stages = tuple(_completed(stage, recipe.stages[0]) for stage in recipe.stages)
    resolved = recipe.model_copy(update={"stages": stages})
    return Loaded(recipe=resolved, origins=_origins(draft, recipe, resolved), path=path)


def where_in(recipe: Recipe, index: int) -> str:
    """Prefix of a key of one stage in a message; empty if the recipe has only that stage."""
    return f"stages[{index}] '{recipe.stages[index].name}': " if len(recipe.stages) > 1 else ""


def refuse(path: Path, sentences: Iterable[str]) -> None:
    """Raise all sentences as one RecipeError, each once, on a line of its own and after the file's name.

    Raises:
        RecipeError: there is at least one sentence.
    """
    lines = [f"{path}: {sentence}" for sentence in dict.fromkeys(sentences)]
    if len(lines) > MAX_PROBLEMS:
        lines = [*lines[:MAX_PROBLEMS], f"{path}: {len(lines) - MAX_PROBLEMS} more problems are not shown."]
    if lines:
        raise RecipeError("\n".join(lines))


def _validated(draft: Draft, path: Path) -> Recipe:
    data: Tree = {**draft.data, "stages": list(draft.stages.values())}
    refuse(path, (_worded(problem, draft) for problem in value_problems(data)))
    try:
        # From JSON, strict mode takes an array for a tuple and a text for a path, but no text for number.
        recipe = Recipe.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        refuse(path, (_worded(problem, draft) for problem in schema_problems(error, data)))
        raise
    refuse(path, (_worded(problem, draft) for problem in _after_schema(data, recipe)))
    return recipe


def _after_schema(data: Tree, recipe: Recipe) -> Iterator[Problem]:
    """Problems that the schema lets through: a boolean for a number, a name that no folder can have."""
    values = dict(leaves(recipe.model_dump()))
    for keys, value in leaves(data):
        if isinstance(value, bool) and not isinstance(values.get(keys), bool):
            yield Problem(keys=keys, sentence=f"expected a number, got {as_toml(value)}.")
    if not SAFE_NAME.fullmatch(recipe.run.name):
        sentence = f"expected {SAFE_NAME_TEXT}, got {as_toml(recipe.run.name)}."
        yield Problem(keys=("run", "name"), sentence=sentence)


def _worded(problem: Problem, draft: Draft) -> str:
    """The problem after its key as the user wrote it."""
    address = draft.address(problem.keys)
    if problem.keys[0] != "stages" or len(problem.keys) == 1:
        where, places = address, [address]
    else:
        where = ".".join(problem.keys[2:])
        places = [f"stages.{name}.{where}" for name in draft.stages]
    if all(_is_override(place, draft) for place in places):
        return f"{where} (from an override): {_overriding(problem, where)}"
    if _is_override(address, draft):
        return f"{address} (from an override): {_overriding(problem, address)}"
    return f"{_stage_prefix(problem, draft)}{where}: {problem.sentence}"


def _overriding(problem: Problem, key: str) -> str:
    """A problem's sentence, with the quoting to type where a shell removes the quotes of a text."""
    if not problem.unquoted:
        return problem.sentence
    return f"{problem.sentence.rstrip('.')}; write '{key}=\"{problem.unquoted}\"'."


def _stage_prefix(problem: Problem, draft: Draft) -> str:
    """The stage that contains the problem, unless it is the only one or all share the table."""
    if problem.keys[0] != "stages" or len(draft.stages) == 1:
        return ""
    name = list(draft.stages)[int(problem.keys[1])]
    own = problem.missing or _holds(draft.own[name], problem.keys[2:])
    return f"stages[{problem.keys[1]}] '{name}': " if own else ""


def _is_override(address: str, draft: Draft) -> bool:
    inside = {o for a, o in draft.origins.items() if a == address or a.startswith(f"{address}.")}
    return inside == {"override"}


def _holds(table: Tree, keys: Keys) -> bool:
    """Whether a stage sets this itself, rather than the tables that it shares."""
    held: Value = table
    for key in keys:
        if isinstance(held, list):
            return True
        if not isinstance(held, dict) or key not in held:
            return False
        held = held[key]
    return True


def _completed(stage: Stage, first: Stage) -> Stage:
    """The stage with all that follows from its other keys, and from the first stage's model."""
    nothing = stage.model.path is None and stage.model.config is None
    model = {key: first.model.model_dump()[key] for key in ("path", "config", "characters") if nothing}
    tables = {
        "model": stage.model.model_copy(update=model),
        "engines": _engines(stage),
        "evaluation": stage.evaluation.model_copy(update={"reward": _judge(stage.evaluation, stage)}),
    }
    return stage.model_copy(update=tables)


def _engines(stage: Stage) -> Engines:
    """The engines table; on shared devices lag is 0, as engines sleep while the policy trains."""
    follows = stage.cluster.placement == "shared" and "max_lag" not in stage.engines.model_fields_set
    return stage.engines.model_copy(update={"max_lag": 0}) if follows else stage.engines


def _judge(evaluation: Evaluation, stage: Stage) -> str | None:
    if evaluation.reward is not None or not evaluation.sources:
        return evaluation.reward
    return next(iter(stage.rewards), None)


def _origins(draft: Draft, validated: Recipe, resolved: Recipe) -> dict[str, Origin]:
    before = dict(leaves(validated.model_dump()))
    origins: dict[str, Origin] = {}
    for keys, value in leaves(resolved.model_dump()):
        address = draft.address(keys)
        origins[address] = "derived" if value != before.get(keys) else draft.origins.get(address, "default")
    return origins
