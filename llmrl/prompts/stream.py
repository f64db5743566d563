"""The endless stream of prompts: the prompt at each place, computed from the place alone.

There is no cursor to lose. ``at(ordinal)`` is a pure function of the rows, the seed and the ordinal, so
a resumed run, another process and another order of calls all see the same stream.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import accumulate
from math import gcd, lcm

from llmrl.errors import RecipeError
from llmrl.prompts.collection import Collection, collect
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.reads import EVERYTHING, Reads
from llmrl.prompts.seeds import derive_seed, shuffled
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.recipe.schema import Evaluation, Prompts

LONGEST_ORDERED = 100_000
"""Most prompts of a block in which the places of one source are counted."""


class PromptStream:
    """Prompts of all sources, mixed by weight and shuffled anew in each epoch of each source.

    The stream is a row of blocks. A block draws exactly its share from every source, e.g. 7 and 3 for
    weights 0.7 and 0.3; the k-th draw from a source is row k of its first epoch, and so on.
    """

    def __init__(
        self,
        prompts: Prompts,
        tokenizer: Tokenizer,
        *,
        seed: int,
        max_response_tokens: int | None = None,
        max_read_tokens: int | None = None,
        reads: Reads = EVERYTHING,
    ) -> None:
        """Read every source of the table.

        Args:
            seed: the run's seed.
            max_response_tokens: most tokens of a response, where the dataset's are trained on; rows with a
                longer one are left out.
            max_read_tokens: likewise for all that a model reads of a row, as in ``collect``.
            reads: what the stage reads of a dataset's rows.
        Raises:
            RecipeError: a source is contradictory, or two have the same name.
            DataError: a source cannot be read, or all its prompts are too long.
        """
        self._collections = collect(
            prompts.sources,
            tokenizer,
            key="prompts.sources",
            max_tokens=prompts.max_tokens,
            seed=seed,
            max_response_tokens=max_response_tokens,
            max_read_tokens=max_read_tokens,
            reads=reads,
        )
        self._seed, self._shuffle = seed, prompts.shuffle
        self._shares = shares([source.weight for source in prompts.sources])
        self._ends = list(accumulate(self._shares))
        self._turns = lru_cache(maxsize=8)(self._turns_of)
        if len(self._shares) > 1 and any(part.ordered for part in self._collections):
            _check_block(self._ends[-1])
        self.rows: tuple[Prompt, ...] = tuple(p for part in self._collections for p in part.prompts)
        """Every prompt once, source by source."""
        self.left_out: int = sum(part.left_out for part in self._collections)
        """Number of rows that are too long, or have an excluded pass rate."""

    def __len__(self) -> int:
        """Number of rows of all sources together."""
        return len(self.rows)

    def at(self, ordinal: int) -> Draw:
        """The prompt at a place of the stream, counted from 0.

        Raises:
            IndexError: ``ordinal`` is negative.
        """
        if ordinal < 0:
            raise IndexError(f"the stream begins at ordinal 0, got {ordinal}")
        number, place = divmod(ordinal, self._ends[-1])
        slot = self._slot(number, place)
        source = bisect_right(self._ends, slot)
        share, collection = self._shares[source], self._collections[source]
        before = slot - (self._ends[source] - share)
        if collection.ordered:  # the slots of a block are shuffled; its places are not
            before = bisect_left(self._turns(number, source), place)
        return Draw(ordinal=ordinal, prompt=self._row(collection, number * share + before))

    def _slot(self, number: int, place: int) -> int:
        return self._ordered(place, self._ends[-1], "block", number)

    def _turns_of(self, number: int, source: int) -> list[int]:
        """The places of a block that draw from a source."""
        places = range(self._ends[-1])
        return [place for place in places if bisect_right(self._ends, self._slot(number, place)) == source]

    def _row(self, collection: Collection, drawn: int) -> Prompt:
        epoch, place = divmod(drawn, len(collection.prompts))
        if collection.ordered:
            return collection.prompts[place]
        return collection.prompts[self._ordered(place, len(collection.prompts), collection.source, epoch)]

    def _ordered(self, place: int, size: int, what: str, number: int) -> int:
        if not self._shuffle or size == 1:
            return place
        return shuffled(place, size=size, seed=derive_seed("stream", self._seed, what, number))


def _check_block(size: int) -> None:
    if size > LONGEST_ORDERED:
        raise RecipeError(
            f"prompts.sources: a block of these weights has {size:,} prompts, and beside a source with order "
            f"= 'easy_first' it may have {LONGEST_ORDERED:,}; write the weights with fewer decimals."
        )


def held_out(
    evaluation: Evaluation,
    tokenizer: Tokenizer,
    *,
    max_tokens: int,
    seed: int,
    reads: Reads = EVERYTHING,
) -> tuple[Prompt, ...]:
    """The held-out prompts of a stage in the order of their sources; empty if it has none.

    Args:
        max_tokens: longer prompts are left out, as in training.
        seed: the run's seed, so that ``skip`` keeps a task's held-out rows apart from the trained ones.
        reads: what the stage reads of a dataset's rows.
    Raises:
        RecipeError, DataError: as :class:`PromptStream`.
    """
    found = collect(
        evaluation.sources,
        tokenizer,
        key="evaluation.sources",
        max_tokens=max_tokens,
        seed=seed,
        reads=reads,
    )
    return tuple(prompt for part in found for prompt in part.prompts)[: evaluation.prompts]


def shares(weights: Sequence[float]) -> list[int]:
    """The smallest whole numbers in the ratio of ``weights``, read as the decimals that the recipe has."""
    exact = [Fraction(str(weight)) for weight in weights]
    whole = [int(weight * lcm(*(w.denominator for w in exact))) for weight in exact]
    return [share // gcd(*whole) for share in whole]
