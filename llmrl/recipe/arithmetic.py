"""The arithmetic of a stage: the products of its numbers, as numbers and in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmrl.experience.correction import correction
from llmrl.objectives.algorithm import bundle_of, objective_of, responses_together, responses_trained
from llmrl.objectives.contract import TrainsOn
from llmrl.recipe.schema import Recipe, Source, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Arithmetic:
    """The numbers of one stage. Tokens are upper bounds: every prompt and response at full length."""

    trains_on: TrainsOn
    """Kind of training data; demonstrations and pairs are the dataset's responses, and nothing is sampled."""
    steps: int
    prompts: int
    """Prompts of the stage."""
    responses_per_step: int
    response_tokens_per_step: int
    tokens_per_step: int
    """Tokens of a step, prompts included, once for each response."""
    responses_per_microbatch: int
    """Responses of full length, with their prompts, that one micro-batch holds; those of a pair share one."""
    microbatches_per_rank: int
    """Micro-batches of one step with all its updates, if every response has full length."""
    prompts_in_flight: int
    """Most prompts between their draw and the weights that they made, spare ones included."""
    responses_in_flight: int
    """Responses to them, an opponent's included."""
    rows: int | None
    """Rows to draw from, if the recipe gives their number."""
    evaluations: int

    @property
    def generates(self) -> bool:
        """Whether the policy's own responses are trained on."""
        return self.trains_on == "rollouts"

    @property
    def epochs(self) -> float | None:
        """Times that each row is drawn on average, if the number of rows is known."""
        return self.prompts / self.rows if self.rows else None


def stage_arithmetic(stage: Stage, *, rows: int | None = None) -> Arithmetic:
    """Multiply the numbers of a stage; its plugins must have been imported.

    Args:
        rows: rows to draw from, once the data has been read; by default the recipe's number.

    Raises:
        RecipeError: an unknown objective, or an option that it refuses.
    """
    bundle = bundle_of(stage)
    trains_on = bundle.trains_on
    generates = trains_on == "rollouts"
    per_prompt = {"rollouts": stage.rollouts.per_prompt, "demonstrations": 1, "pairs": 2}[trains_on]
    responses, optimizer = stage.prompts.per_step * per_prompt, stage.optimizer
    longest = stage.prompts.max_tokens + stage.rollouts.max_tokens
    trained = responses_trained(stage)
    together = max(1, min(responses_together(stage), trained))
    per_update = _ceil(stage.prompts.per_step, optimizer.minibatches) * _ceil(trained, together)
    per_microbatch = max(stage.policy.tokens_per_microbatch // (together * longest), 1)
    sharing = stage.policy.ranks // stage.policy.sequence_parallel
    in_flight = ((stage.engines.max_lag + 1) * stage.prompts.per_step + stage.spare) * generates
    return Arithmetic(
        trains_on=trains_on,
        steps=stage.optimizer.steps,
        prompts=stage.optimizer.steps * stage.prompts.per_step,
        responses_per_step=responses,
        response_tokens_per_step=responses * stage.rollouts.max_tokens,
        tokens_per_step=responses * longest,
        responses_per_microbatch=per_microbatch * together,
        microbatches_per_rank=optimizer.minibatches
        * optimizer.epochs
        * _ceil(_ceil(per_update, sharing), per_microbatch),
        prompts_in_flight=in_flight,
        responses_in_flight=in_flight * (stage.rollouts.per_prompt + bundle.opponent.responses),
        rows=rows or _known_rows(stage.prompts.sources),
        evaluations=_evaluations(stage),
    )


def arithmetic(recipe: Recipe) -> list[str]:
    """The arithmetic of every stage in sentences; each begins with its stage if there are several."""
    several = len(recipe.stages) > 1
    return [f"{stage.name}: {s}" if several else s for stage in recipe.stages for s in sentences(stage)]


def sentences(stage: Stage, *, rows: int | None = None) -> tuple[str, ...]:
    """The arithmetic of one stage in sentences, with what to expect of it."""
    numbers = stage_arithmetic(stage, rows=rows)
    return tuple(
        sentence
        for part in (_step, _microbatches, _pace, _length, _evaluation, _saves)
        for sentence in part(stage, numbers)
    )


def _ceil(value: int, by: int) -> int:
    return -(-value // by)


def _known_rows(sources: tuple[Source, ...]) -> int | None:
    rows = [source.rows for source in sources if source.rows is not None]
    return sum(rows) if len(rows) == len(sources) else None


def _evaluations(stage: Stage) -> int:
    """Evaluations of a stage: before, after, and every few steps in between."""
    if not stage.evaluation.sources:
        return 0
    every, steps = stage.evaluation.every_steps, stage.optimizer.steps
    return 2 + ((steps - 1) // every if every else 0)


def _many(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 'es' if noun.endswith('batch') else 's'}"


def _step(stage: Stage, numbers: Arithmetic) -> Iterator[str]:
    prompts, each = _many(stage.prompts.per_step, "prompt"), stage.rollouts.max_tokens
    if numbers.generates:
        yield (
            f"{prompts} x {_many(stage.rollouts.per_prompt, 'response')} = "
            f"{_many(numbers.responses_per_step, 'response')} a step; at most {_many(each, 'token')} each = "
            f"{numbers.response_tokens_per_step:,} response tokens, "
            f"{numbers.tokens_per_step:,} with the longest prompts."
        )
        return
    rows = _many(stage.prompts.per_step, numbers.trains_on.removesuffix("s"))
    both = f" = {_many(numbers.responses_per_step, 'response')}" if numbers.trains_on == "pairs" else ""
    yield (
        f"{rows}{both} a step: the responses are the dataset's, so nothing is generated or judged while "
        "training."
    )


def _microbatches(stage: Stage, numbers: Arithmetic) -> Iterator[str]:
    together = stage.policy.sequence_parallel
    ranks = _many(stage.policy.ranks, "rank") + (f" that share them by {together}" if together > 1 else "")
    yield (
        f"Micro-batches of at most {_many(stage.policy.tokens_per_microbatch, 'token')} over {ranks}: "
        f"at full length {_many(numbers.responses_per_microbatch, 'response')} each, so at most "
        f"{_many(numbers.microbatches_per_rank, 'micro-batch')} a rank and step; no split changes a gradient."
    )


def _pace(stage: Stage, numbers: Arithmetic) -> Iterator[str]:
    steps, lag = _many(numbers.steps, "optimizer step"), stage.engines.max_lag
    if not numbers.generates:
        yield f"{steps}; engines take the new weights only where these are evaluated."
        return
    yield f"{steps}, each with 1 weight sync after it: {_many(numbers.steps, 'new weight version')}."
    yield (
        f"Lag at most {lag}: up to {_many(numbers.prompts_in_flight, 'prompt')} "
        f"({_many(numbers.responses_in_flight, 'response')}) in flight."
    )
    updates = stage.optimizer.minibatches * stage.optimizer.epochs
    if updates == 1:
        yield f"One update a step{_ratio(stage)}."
    else:
        yield (
            f"{updates} updates a step ({_many(stage.optimizer.minibatches, 'minibatch')}, "
            f"{_many(stage.optimizer.epochs, 'epoch')}); before the first, a forward pass for the old scores."
        )
    if stage.cluster.placement == "shared":
        yield (
            f"Engines and ranks take turns on {_many(stage.policy.ranks, 'device')}: engines drop "
            "weights and KV cache while the policy trains, whose states wait on the host while they generate."
        )
    if lag:
        yield "Engines generate while the policy trains, and no token older than that bound is trained on."


def _ratio(stage: Stage) -> str:
    """Expectation of the objective's ratio where a step makes one update."""
    if "old" not in objective_of(stage).reads:
        return ""
    chosen = bundle_of(stage).correction
    if correction.get(chosen.name, key="correction").anchor == "old":
        return (
            ": the ratio to the policy at the start of the step is exactly 1, "
            "so a clip_fraction of 0 is expected"
        )
    return ": ratios are to what the engine reported, so they are not exactly 1"


def _length(stage: Stage, numbers: Arithmetic) -> Iterator[str]:
    drawn = (
        f"{_many(numbers.steps, 'step')} x {stage.prompts.per_step:,} = {_many(numbers.prompts, 'prompt')}"
    )
    if numbers.epochs is None:
        yield f"{drawn}; the number of epochs is known once the data is read."
    else:
        yield f"{drawn} = {numbers.epochs:.1f} epochs of {_many(numbers.rows or 0, 'row')}."
    table = stage.optimizer
    rises = f"rises to {table.lr:g} in {_many(table.warmup_steps, 'step')}" if table.warmup_steps else ""
    falls = f"falls to {table.lr * table.final_lr_fraction:g} ({table.schedule})"
    then = "stays" if table.schedule == "constant" else falls
    yield f"The learning rate {rises or f'starts at {table.lr:g}'} and {then}."


def _evaluation(stage: Stage, numbers: Arithmetic) -> Iterator[str]:
    table = stage.evaluation
    if not numbers.evaluations:
        yield "No held-out prompts: nothing is evaluated."
        return
    count = table.prompts or _known_rows(table.sources)
    prompts = _many(count, "held-out prompt") if count else "all held-out prompts"
    between = f", every {_many(table.every_steps, 'step')}" if table.every_steps else ""
    yield (
        f"Evaluation on {prompts} x {_many(table.per_prompt, 'response')} before{between} and after: "
        f"{_many(numbers.evaluations, 'evaluation')}."
    )


def _saves(stage: Stage, _: Arithmetic) -> Iterator[str]:
    table = stage.checkpoints
    often = f"every {_many(table.every_steps, 'step')} and " if table.every_steps else ""
    yield f"A checkpoint {often}at the end; the newest {table.keep} are kept."
