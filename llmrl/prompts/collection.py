"""A collection: every prompt of one source, tokenized and short enough."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, RecipeError
from llmrl.prompts.datasets import read_source
from llmrl.prompts.demonstration import Demonstration, encode_demonstration
from llmrl.prompts.difficulty import difficulty_of
from llmrl.prompts.example import Example, check_origin, repeated_names, source_name
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.reads import EVERYTHING, Reads
from llmrl.prompts.tasks import read_task
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collection:
    """The prompts of one source in the source's order."""

    source: str
    prompts: tuple[Prompt, ...]
    """Prompts of the source; never empty."""
    left_out: int
    """Number of rows that are too long, or have an excluded pass rate."""
    ordered: bool = False
    """Whether every epoch has them in this order, whatever ``prompts.shuffle`` says."""


def collect(
    sources: Sequence[Source],
    tokenizer: Tokenizer,
    *,
    key: str,
    max_tokens: int,
    seed: int,
    max_response_tokens: int | None = None,
    max_read_tokens: int | None = None,
    reads: Reads = EVERYTHING,
) -> tuple[Collection, ...]:
    """Read, render and tokenize every source.

    Args:
        key: the sources' key in the recipe, such as ``prompts.sources``.
        max_tokens: longer prompts are left out, counted and logged.
        seed: the run's seed; orders the problems of tasks, and a source's rows of equal pass rates.
        max_response_tokens: most tokens of a response, if the dataset's are trained on; rows with a longer
            one are left out.
        max_read_tokens: likewise for all that a model reads of a row: each segment of a response whose past
            is rewritten is a sequence of its own, and both of a pair are read together.
        reads: what the stage reads of a dataset's rows.
    Raises:
        RecipeError: a source is contradictory, or two have the same name.
        DataError: a source cannot be read, or none of its rows remains.
    """
    for problem in repeated_names(sources, key=key):
        raise RecipeError(problem)
    found = list[Collection]()
    for number, source in enumerate(sources):
        table = f"{key}.{number}"
        prompts = _prompts(source, tokenizer, key=table, seed=seed, reads=reads)
        difficulty = difficulty_of(source, key=table)
        rows = prompts if difficulty is None else difficulty.select(prompts, seed=seed)
        kept = _Limit(what="prompts", most=max_tokens, option="prompts.max_tokens").keep(
            rows, lengths=[prompt.tokens.size for prompt in rows], key=table
        )
        if max_response_tokens is not None:
            kept = _Limit(what="responses", most=max_response_tokens, option="rollouts.max_tokens").keep(
                kept, lengths=[_longest_response(prompt) for prompt in kept], key=table
            )
        if max_read_tokens is not None:
            what = "rows, with all that a model reads of them,"
            kept = _Limit(what=what, most=max_read_tokens, option="policy.tokens_per_microbatch").keep(
                kept, lengths=[_read(prompt) for prompt in kept], key=table
            )
        found.append(
            Collection(
                source=source_name(source),
                prompts=tuple(kept),
                left_out=len(prompts) - len(kept),
                ordered=source.order == "easy_first",
            )
        )
    return tuple(found)


def fingerprint(prompts: Iterable[Prompt]) -> str:
    """sha256 over ids, tokens, answers and responses: equal if and only if the rows are."""
    digest = hashlib.sha256()
    for prompt in prompts:
        answer = b"-" if prompt.answer is None else b"+" + prompt.answer.encode()
        shown_to = map(_bytes, (prompt.demonstration, prompt.demonstrated_turn, prompt.rejected))
        rewritten = (_bytes(rewrite.context) for rewrite in prompt.demonstrated_rewrites)
        for part in (prompt.id.encode(), _bytes(prompt.tokens), answer, *shown_to, *rewritten):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _bytes(ids: NDArray[np.int32] | None) -> bytes:
    return b"" if ids is None else ids.astype("<i4").tobytes()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limit:
    """A limit on the length of a source's prompts or responses."""

    what: str
    most: int
    option: str
    """Key of the recipe that sets it."""

    def keep(self, prompts: Sequence[Prompt], *, lengths: Sequence[int], key: str) -> Sequence[Prompt]:
        """Keep the prompts whose length is within the limit."""
        kept = [prompt for prompt, length in zip(prompts, lengths, strict=True) if length <= self.most]
        if not kept:
            raise DataError(
                f"{key}: none of {len(prompts)} {self.what} has at most {self.most} tokens, "
                f"the shortest has {min(lengths)}; raise {self.option}."
            )
        if len(kept) < len(prompts):
            log.warning(
                "%s: %d of %d %s are longer than %d tokens and left out.",
                key,
                len(prompts) - len(kept),
                len(prompts),
                self.what,
                self.most,
            )
        return kept


def _longest_response(prompt: Prompt) -> int:
    return max(0 if one is None else one.size for one in (prompt.demonstration, prompt.rejected))


def _read(prompt: Prompt) -> int:
    """Tokens of all sequences that the dataset's responses to it make."""
    contexts = sum(rewrite.context.size for rewrite in prompt.demonstrated_rewrites)
    responses = [one.size for one in (prompt.demonstration, prompt.rejected) if one is not None]
    return contexts + sum(responses) + len(responses) * prompt.tokens.size


def _prompts(source: Source, tokenizer: Tokenizer, *, key: str, seed: int, reads: Reads) -> list[Prompt]:
    check_origin(source, key=key)
    made = source.task is not None
    examples = read_task(source, key=key, seed=seed) if made else read_source(source, key=key, reads=reads)
    return [_prompt(example, tokenizer) for example in examples]


def _prompt(example: Example, tokenizer: Tokenizer) -> Prompt:
    try:
        tokens = tokenizer.encode_prompt(example.prompt)
        shown_to = _demonstration(example, tokenizer)
        rejected = None if example.rejected is None else tokenizer.encode_response(example.rejected)
    except DataError as error:
        raise DataError(f"{example.id}: {error}") from error
    if not tokens.size:
        raise DataError(f"{example.id}: the prompt has no tokens; correct or remove the row.")
    return Prompt(
        id=example.id,
        tokens=tokens,
        text=tokenizer.render(example.prompt),
        answer=example.answer,
        source=example.source,
        demonstration=None if shown_to is None else shown_to.tokens,
        rejected=rejected,
        demonstrated_turn=None if shown_to is None else shown_to.turn,
        demonstrated_rewrites=() if shown_to is None else shown_to.rewrites,
        messages=tokenizer.conversation(example.prompt),
    )


def _demonstration(example: Example, tokenizer: Tokenizer) -> Demonstration | None:
    if example.response is None:
        return None
    return encode_demonstration(tokenizer, example.prompt, (example.response, *example.then))
