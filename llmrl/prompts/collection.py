"""A collection: every prompt of one source, tokenized and short enough."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, RecipeError, shown
from llmrl.prompts.datasets import read_source
from llmrl.prompts.demonstration import Demonstration, encode_demonstration
from llmrl.prompts.example import Example, source_name
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.tasks import read_task
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Collection:
    """The prompts of one source in the source's order."""

    source: str
    prompts: tuple[Prompt, ...]
    """Never empty."""
    left_out: int
    """Rows whose prompt is too long."""


def collect(
    sources: Sequence[Source], tokenizer: Tokenizer, *, key: str, max_tokens: int, seed: int
) -> tuple[Collection, ...]:
    """Read, render and tokenize every source.

    Args:
        key: where the recipe has the sources, e.g. ``prompts.sources``.
        max_tokens: longer prompts are left out, counted and logged.
        seed: the run's; tasks order their problems by it.
    Raises:
        RecipeError: a source is contradictory, or two have the same name.
        DataError: a source cannot be read, or nothing of it remains.
    """
    names = [source_name(source) for source in sources]
    for number, name in enumerate(names):
        if name in names[:number]:
            first = names.index(name)
            raise RecipeError(
                f"{key}.{number}.name: {key}.{first} is called {shown(name)} too; "
                "give each a name of its own."
            )
    return tuple(
        _collection(source, tokenizer, key=f"{key}.{number}", max_tokens=max_tokens, seed=seed)
        for number, source in enumerate(sources)
    )


def fingerprint(collections: Sequence[Collection]) -> str:
    """sha256 over ids, tokens, answers and responses: equal if and only if the rows are."""
    digest = hashlib.sha256()
    for prompt in (prompt for collection in collections for prompt in collection.prompts):
        answer = b"-" if prompt.answer is None else b"+" + prompt.answer.encode()
        shown_to = map(_bytes, (prompt.demonstration, prompt.demonstrated_turn, prompt.rejected))
        for part in (prompt.id.encode(), _bytes(prompt.tokens), answer, *shown_to):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _bytes(ids: NDArray[np.int32] | None) -> bytes:
    return b"" if ids is None else ids.astype("<i4").tobytes()


def _collection(source: Source, tokenizer: Tokenizer, *, key: str, max_tokens: int, seed: int) -> Collection:
    if (source.dataset is None) == (source.task is None):
        raise RecipeError(f"{key}: exactly one of dataset and task is needed; remove or add one.")
    examples = read_task(source, key=key, seed=seed) if source.task else read_source(source, key=key)
    prompts = [_prompt(example, tokenizer) for example in examples]
    kept = tuple(prompt for prompt in prompts if prompt.tokens.size <= max_tokens)
    if not kept:
        shortest = min(prompt.tokens.size for prompt in prompts)
        raise DataError(
            f"{key}: none of {len(prompts)} prompts has at most {max_tokens} tokens, "
            f"the shortest has {shortest}; raise prompts.max_tokens."
        )
    left_out = len(prompts) - len(kept)
    if left_out:
        log.warning(
            "%s: %d of %d prompts are longer than %d tokens and left out.",
            key,
            left_out,
            len(prompts),
            max_tokens,
        )
    return Collection(source=source_name(source), prompts=kept, left_out=left_out)


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
        messages=tokenizer.conversation(example.prompt),
    )


def _demonstration(example: Example, tokenizer: Tokenizer) -> Demonstration | None:
    if example.response is None:
        return None
    return encode_demonstration(tokenizer, example.prompt, (example.response, *example.then))
