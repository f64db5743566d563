"""The roles of a recipe: the plugins that ask them, and the problems between the two."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from llmrl.errors import RecipeError, did_you_mean, shown
from llmrl.objectives.algorithm import bundle_of
from llmrl.recipe.draft import SAFE_NAME, SAFE_NAME_TEXT
from llmrl.recipe.schema import Recipe, Role, Stage
from llmrl.recipe.sources import is_local, missing_path
from llmrl.rewards import build_rewards
from llmrl.roles.asker import Asker
from llmrl.roles.kinds import role
from llmrl.rollouts.environments import environment

FROM_STAGE = "stage:"
"""Prefix of a path that means the model of an earlier stage."""
TAKEN = ("engine", "policy")
"""Names of other processes."""

Sentences = Iterator[str]


def askers_of(stage: Stage) -> dict[str, Asker]:
    """The rewards and the environment of a stage that ask a model, by their key; none if nothing is sampled.

    Raises:
        RecipeError: an unknown name, or an option that a plugin refuses.
    """
    bundle = bundle_of(stage)
    if bundle.trains_on != "rollouts" and not stage.evaluation.sources:
        return {}
    built: dict[str, object] = {f"rewards.{name}": one for name, one in build_rewards(bundle.rewards).items()}
    if stage.environment is not None:
        built["environment"] = environment.build(
            stage.environment.name, stage.environment.options, key="environment"
        )
    return {key: one for key, one in built.items() if isinstance(one, Asker)}


def asked_roles(stage: Stage) -> dict[str, Role]:
    """The roles that a stage needs, by name."""
    asked = {asker.role for asker in askers_of(stage).values()}
    return {name: table for name, table in stage.roles.items() if name in asked}


def stage_named(recipe: Recipe, path: str) -> int | None:
    """Index of the stage that a role's path means; None if it means a folder or a hub name.

    Raises:
        RecipeError: there is no such stage.
    """
    if not path.startswith(FROM_STAGE):
        return None
    names = [stage.name for stage in recipe.stages]
    wanted = path.removeprefix(FROM_STAGE)
    if wanted not in names:
        raise RecipeError(f"{shown(path)} names no stage.{did_you_mean(wanted, names)}")
    return names.index(wanted)


def unread_problems(recipe: Recipe) -> Sentences:
    """Report roles that no stage asks; where one is asked by a wrong name, that is reported instead."""
    named = {name for stage in recipe.stages for name in stage.roles}
    asked = {name for stage in recipe.stages for name in _asked(stage)}
    for name in sorted(named - asked) if asked <= named else ():
        yield (
            f"roles.{name}: no reward or environment asks it, so it would only take room; "
            f"name it in their options, as role = {shown(name)}, or remove it."
        )


def role_problems(recipe: Recipe, index: int, stage: Stage) -> Sentences:
    """Problems with the roles of a stage and with the plugins that ask them."""
    for name, table in stage.roles.items():
        if not SAFE_NAME.fullmatch(name) or name in TAKEN:
            yield f"roles: expected names of {SAFE_NAME_TEXT}, but not engine or policy, got {shown(name)}."
        yield from _kind_problems(name, table, stage)
    for name in asked_roles(stage) if _buildable(stage) else ():
        yield from _path_problems(recipe, index, name, stage.roles[name].path)
    for key, asker in askers_of(stage).items() if _buildable(stage) else ():
        yield from _asker_problems(f"{key}.options", asker, stage.roles)


def _buildable(stage: Stage) -> bool:
    """Whether the plugins can be built; those that cannot are reported elsewhere."""
    try:
        askers_of(stage)
    except RecipeError:
        return False
    return True


def _asked(stage: Stage) -> set[str]:
    return (
        {one.role for one in askers_of(stage).values() if one.role} if _buildable(stage) else set(stage.roles)
    )


def _kind_problems(name: str, table: Role, stage: Stage) -> Sentences:
    try:
        role.build(table.kind, table.options, key=f"roles.{name}")
    except RecipeError as error:
        yield str(error)
    if table.tensor_parallel > 1 and (why := _not_shared(name, table, stage)):
        yield (
            f"roles.{name}.tensor_parallel: expected 1 with {why}, got {table.tensor_parallel}; "
            "more needs vLLM on GPUs."
        )


def _not_shared(name: str, table: Role, stage: Stage) -> str | None:
    """The setting that keeps a role's process on one GPU; None if several can share it."""
    if stage.cluster.device == "cpu":
        return "cluster.device = 'cpu'"
    if table.kind in ("classify", "steps"):
        return f"roles.{name}.kind = '{table.kind}'"
    return f"roles.{name}.options.engine = 'torch'" if table.options.get("engine") == "torch" else None


def _path_problems(recipe: Recipe, index: int, name: str, path: str) -> Sentences:
    key = f"roles.{name}.path"
    try:
        place = stage_named(recipe, path)
    except RecipeError as error:
        yield f"{key}: {error}"
        return
    if place is not None and place >= index:
        yield f"{key}: {shown(path)} is not earlier than stage '{recipe.stages[index].name}', which needs it."
    elif place is None and is_local(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            yield f"{key}: {missing_path(path, 'folder')}"
        elif not (folder / "config.json").is_file():
            yield f"{key}: {shown(path)} has no config.json; give a folder that transformers can load."


def _asker_problems(key: str, asker: Asker, roles: Mapping[str, Role]) -> Sentences:
    if bool(asker.role) == bool(asker.url):
        got = "both" if asker.role else "neither"
        yield f"{key}: exactly one of role (a [roles.<name>]) and url (of a service) is needed, got {got}."
    elif asker.role and asker.role not in roles:
        hint = did_you_mean(asker.role, roles)
        yield f"{key}.role: no [roles.<name>] named {shown(asker.role)}.{hint}"
    elif asker.role and roles[asker.role].kind != asker.asks:
        yield (
            f"{key}.role: expected a role of kind '{asker.asks}', "
            f"got {shown(asker.role)} of kind {shown(roles[asker.role].kind)}."
        )
