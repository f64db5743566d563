"""The plugins that a stage names: each is built once, to check its name and options."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from llmrl.errors import RecipeError, did_you_mean, shown
from llmrl.experience.correction import correction
from llmrl.experience.credit import Credit, credit
from llmrl.experience.keep import keep
from llmrl.experience.pairing import Pairing, pairing
from llmrl.objectives import Bundle, shaping
from llmrl.objectives.algorithm import bundle_of, objective_of, responses_together
from llmrl.prompts.tasks import task
from llmrl.recipe.draft import SAFE_NAME, SAFE_NAME_TEXT
from llmrl.recipe.schema import Choice, Stage
from llmrl.registry import Registry
from llmrl.report.trackers import check_trackers
from llmrl.rewards import Comparing, build_rewards
from llmrl.rollouts.agents import Agent
from llmrl.rollouts.engines import engine
from llmrl.rollouts.environments import environment

Keys = tuple[str | int, ...]

BUNDLED: Mapping[str, Registry[Any]] = {
    "credit": credit,
    "keep": keep,
    "pairing": pairing,
    "shaping": shaping,
    "correction": correction,
}
"""Registries, by table, of the plugins that the objective's bundle chooses unless the recipe does."""


def parts_of(bundle: Bundle) -> dict[Keys, Choice]:
    """The plugins of a bundle by the keys of their table."""
    single: dict[Keys, Choice] = {
        ("credit",): bundle.credit,
        ("keep",): bundle.keep,
        ("pairing",): bundle.pairing,
        ("correction",): bundle.correction,
    }
    return single | {("shaping", number): one for number, one in enumerate(bundle.shaping)}


def _build(keys: Keys, choice: Choice) -> Any:
    return BUNDLED[str(keys[0])].build(choice.name, choice.options, key=".".join(map(str, keys)))


def _build_environment(choice: Choice) -> Any:
    return environment.build(choice.name, choice.options, key="environment")


def plugins_of(stage: Stage) -> dict[Keys, Any]:
    """Every plugin that a stage gives options to, built, by the keys of its table.

    Raises:
        RecipeError: an unknown name, or an option that a plugin refuses.
    """
    bundle = bundle_of(stage)
    built: dict[Keys, Any] = {("objective",): objective_of(stage)}
    for keys, choice in parts_of(bundle).items():
        built[keys] = _build(keys, choice)
    if stage.environment is not None:
        built["environment",] = _build_environment(stage.environment)
    for name, reward in build_rewards(bundle.rewards).items():
        built["rewards", name] = reward
    for table, sources in (("prompts", stage.prompts.sources), ("evaluation", stage.evaluation.sources)):
        for index, source in enumerate(sources):
            if source.task is not None:
                key = f"{table}.sources.{index}"
                built[table, "sources", index] = task.build(source.task, source.options, key=key)
    return built


def part_problems(stage: Stage) -> list[str]:
    """Problems with the plugins of a stage, except those of its sources."""
    problems: list[str] = []
    bundle, asked = Bundle(), dict[str, int]()
    with _noted(problems):
        bundle = bundle_of(stage)
        asked = _asked_of_a_prompt(stage, bundle)
        problems.extend(_nothing_to_learn(stage, bundle))
        problems.extend(_too_small_for_pairs(stage))
        problems.extend(_turns_that_cannot_be(stage, bundle))
        problems.extend(_nobody_to_compare_with(stage, bundle))
        problems.extend(_pairs_of_nothing(stage, bundle))
        problems.extend(_pairs_across_branches(stage, bundle))
        problems.extend(_shaping_of_nothing(stage))
        for keys, choice in parts_of(bundle).items():
            with _noted(problems):
                part = _build(keys, choice)
                problems.extend(_rewards_that_are_not_there(keys, part, bundle))
    if stage.environment is not None:
        with _noted(problems):
            problems.extend(_runs_that_take_too_long(stage, _build_environment(stage.environment), asked))
    problems.extend(_reward_problems(stage, bundle))
    with _noted(problems):
        engine.get(stage.engines.kind, key="engines")
    for tracker in stage.report.trackers:
        with _noted(problems):
            check_trackers([tracker])
    return problems


@contextmanager
def _noted(problems: list[str]) -> Generator[None]:
    """Record an error inside the block, and go on with the rest of the recipe."""
    try:
        yield
    except RecipeError as error:
        problems.append(str(error))


def _reward_problems(stage: Stage, bundle: Bundle) -> list[str]:
    problems: list[str] = []
    for name, table in stage.rewards.items():
        if not SAFE_NAME.fullmatch(name):
            problems.append(f"rewards: expected names of {SAFE_NAME_TEXT}, got {shown(name)}.")
        with _noted(problems):
            build_rewards({name: table})
    return problems or list(_opponents_of_no_use(stage, bundle))


def _nothing_to_learn(stage: Stage, bundle: Bundle) -> Iterator[str]:
    if bundle.trains_on != "rollouts":
        return
    if not any(reward.weight for reward in stage.rewards.values()):
        got = "all weights are 0" if stage.rewards else "there is none"
        yield (
            f"rewards: objective '{stage.objective.name}' needs a [rewards.<name>] "
            f"with a weight other than 0, and {got}."
        )
    compares: Credit = _build(("credit",), bundle.credit)
    if stage.rollouts.per_prompt < compares.fewest:
        yield (
            f"rollouts.per_prompt: expected at least {compares.fewest}, because credit "
            f"'{bundle.credit.name}' compares the responses to one prompt, got {stage.rollouts.per_prompt}."
        )


def _too_small_for_pairs(stage: Stage) -> Iterator[str]:
    budget, context = stage.policy.tokens_per_microbatch, stage.model.context_tokens
    rows = responses_together(stage)
    if rows > 1 and budget < rows * context:
        fewer = ", lower rollouts.per_prompt," if rows > 2 else ""
        yield (
            f"policy.tokens_per_microbatch: expected at least {rows} * model.context_tokens = "
            f"{rows * context}, as objective '{stage.objective.name}' reads the {rows} responses that pairs "
            f"may connect together, got {budget}; raise it{fewer} or lower model.context_tokens."
        )


def _nobody_to_compare_with(stage: Stage, bundle: Bundle) -> Iterator[str]:
    opponent, engines = bundle.opponent.kind, stage.engines
    if opponent == "none" or engines.kind != "vllm":
        return
    if opponent == "average":
        yield (
            "engines.kind: expected 'torch' with opponent.kind = 'average', "
            "as vLLM keeps no moving average of the weights, got 'vllm'."
        )
    elif engines.tensor_parallel > 1:
        yield (
            f"engines.tensor_parallel: expected 1 with opponent.kind = '{opponent}', "
            f"whose reference is not sharded, got {engines.tensor_parallel}."
        )


def _pairs_of_nothing(stage: Stage, bundle: Bundle) -> Iterator[str]:
    pairs = bundle.trains_on == "rollouts" and objective_of(stage).mean_over == "pairs"
    if pairs and bundle.pairing.name == "none":
        yield (
            f"pairing.name: objective '{stage.objective.name}' compares pairs of responses, and 'none' makes "
            "no pair; leave the table out, or choose another."
        )


def _pairs_across_branches(stage: Stage, bundle: Bundle) -> Iterator[str]:
    pairs: Pairing = _build(("pairing",), bundle.pairing)
    within = pairs.within or stage.rollouts.per_prompt + bundle.opponent.responses
    if bundle.branches > 1 and bundle.branches % within:
        yield (
            f"rollouts.branches: expected 1 or a multiple of {within}, as pairing '{bundle.pairing.name}' "
            f"compares among {within} responses, of which all must part at the same turn, "
            f"got {bundle.branches}."
        )


def _shaping_of_nothing(stage: Stage) -> Iterator[str]:
    if stage.shaping and objective_of(stage).mean_over == "pairs":
        yield (
            f"shaping: objective '{stage.objective.name}' compares pairs and reads no advantages; remove it, "
            "and hold the policy to the reference by the objective's own option, kl_weight or beta."
        )


def _opponents_of_no_use(stage: Stage, bundle: Bundle) -> Iterator[str]:
    if bundle.trains_on != "rollouts" or bundle.opponent.kind == "none":
        return
    made, tables = build_rewards(bundle.rewards), bundle.rewards
    comparing = [name for name, one in made.items() if tables[name].weight and isinstance(one, Comparing)]
    if bundle.pairing.name != "none":
        yield from _more_than_one_of_each(stage, bundle, comparing)
    elif not comparing:
        yield (
            f"opponent.kind: no reward compares the policy with '{bundle.opponent.kind}'; add a reward that "
            "compares, such as kind = 'versus', or set opponent.kind = 'none'."
        )


def _more_than_one_of_each(stage: Stage, bundle: Bundle, comparing: list[str]) -> Iterator[str]:
    # The policy's reward is its preference over one opponent, the opponent's that over all of the policy's.
    own, theirs = stage.rollouts.per_prompt, bundle.opponent.per_prompt
    for name in comparing if own + theirs > 2 else ():
        yield (
            f"rewards.{name}.kind: '{bundle.rewards[name].kind}' compares each response with all of the "
            "other side's, so pairs with the opponent need rollouts.per_prompt = 1 and "
            f"opponent.per_prompt = 1, got {own} and {theirs}."
        )


def _rewards_that_are_not_there(keys: Keys, part: Any, bundle: Bundle) -> Iterator[str]:
    if keys[0] in ("credit", "keep"):
        for name in sorted(part.rewards - bundle.rewards.keys()):
            yield f"{keys[0]}.options: no reward is named {shown(name)}.{did_you_mean(name, bundle.rewards)}"


def _is_agent(name: str) -> bool:
    return name in environment.names and issubclass(environment.get(name, key="environment"), Agent)


def _asked_of_a_prompt(stage: Stage, bundle: Bundle) -> dict[str, int]:
    """Numbers of responses to a prompt, by the keys that set them."""
    asked: dict[str, int] = {}
    if bundle.trains_on == "rollouts":
        asked["rollouts.per_prompt"] = stage.rollouts.per_prompt + bundle.opponent.responses
    if stage.evaluation.sources:
        asked["evaluation.per_prompt"] = stage.evaluation.per_prompt
    return asked


def _runs_that_take_too_long(stage: Stage, made: object, asked: Mapping[str, int]) -> Iterator[str]:
    """Report agents that could keep an engine from giving a group within a call's deadline."""
    if not isinstance(made, Agent):
        return
    places, waited = made.at_once or stage.engines.max_sequences, stage.cluster.call_deadline_s
    given_up = int(stage.rollouts.oversample > 0)  # abandoned runs may have to end first
    for key, responses in asked.items():
        rounds = math.ceil(responses / places) + given_up
        if rounds * made.deadline_s >= waited:
            yield (
                f"cluster.call_deadline_s: expected more than {rounds} * environment.options.deadline_s = "
                f"{rounds * made.deadline_s:g}, which the {responses} responses to a prompt ({key}) may take "
                f"with {places} at once, got {waited:g}; raise it, or lower the other."
            )


def _turns_that_cannot_be(stage: Stage, bundle: Bundle) -> Iterator[str]:
    table = stage.rollouts
    if table.per_prompt % bundle.branches:
        yield (
            f"rollouts.per_prompt: expected a multiple of rollouts.branches = {bundle.branches}, "
            f"got {table.per_prompt}."
        )
    if stage.environment is not None:
        if bundle.branches > 1 and _is_agent(stage.environment.name):
            yield (
                f"rollouts.branches: expected 1 with the agent '{stage.environment.name}', which cannot go "
                f"on from a turn of another rollout, got {bundle.branches}."
            )
        return
    if bundle.branches > 1:
        yield (
            f"rollouts.branches: {bundle.branches} responses can share the turns of a conversation only "
            "where there is one; add [environment], or set it to 1."
        )
    for name, table in bundle.rewards.items():
        if table.kind == "outcome":
            yield f"rewards.{name}.kind: 'outcome' is what an environment says; add [environment]."
