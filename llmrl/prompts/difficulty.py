"""Difficulty: the choice and order of a source's rows by how often they were solved before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from llmrl.errors import DataError, shown
from llmrl.prompts.pass_rates import read_pass_rates
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.recipe.schema import Source

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difficulty:
    """The pass rates of a source's rows, and the limits that it sets on them."""

    source: Source
    rates: Mapping[str, float]
    """Pass rates by prompt id."""
    key: str
    """Key of the source in the recipe, such as ``prompts.sources.0``."""

    def select(self, prompts: Sequence[Prompt], *, seed: int) -> Sequence[Prompt]:
        """Select the rows with a wanted rate, in the wanted order; what is left out is logged.

        Args:
            prompts: the source's prompts; never empty.
            seed: the run's seed; orders rows of equal rates.
        Raises:
            DataError: no row has a rate, which means that the rates are of other data; or no row remains.
        """
        rated = [self.rates[prompt.id] for prompt in prompts if prompt.id in self.rates]
        if not rated:
            raise DataError(
                f"{self.key}.pass_rates: {self.source.pass_rates} rates none of the {len(prompts)} rows, "
                f"whose ids are such as {shown(prompts[0].id)}; give the source the name that it had there."
            )
        kept = [prompt for prompt in prompts if self._is_kept(prompt)]
        if not kept:
            raise DataError(f"{self.key}: every row is left out: {self._why(rated, len(prompts))}.")
        if len(kept) < len(prompts):
            why = self._why(rated, len(prompts))
            log.warning(
                "%s: %d of %d rows are left out: %s.", self.key, len(prompts) - len(kept), len(prompts), why
            )
        return self._easy_first(kept, seed) if self.source.order == "easy_first" else kept

    def _is_kept(self, prompt: Prompt) -> bool:
        rate = self.rates.get(prompt.id)
        if rate is None:
            return self.source.unrated == "keep"
        return self.source.min_pass_rate <= rate <= self.source.max_pass_rate

    def _why(self, rated: Sequence[float], rows: int) -> str:
        low, high = self.source.min_pass_rate, self.source.max_pass_rate
        below, above = sum(rate < low for rate in rated), sum(rate > high for rate in rated)
        fate = "kept" if self.source.unrated == "keep" else "dropped"
        return (
            f"{below} below min_pass_rate {low:g}, {above} above max_pass_rate {high:g}; "
            f"{rows - len(rated)} without a rate are {fate}"
        )

    def _easy_first(self, prompts: Sequence[Prompt], seed: int) -> Sequence[Prompt]:
        """Sort from the highest rate to the lowest, then those without a rate."""
        return sorted(
            prompts, key=lambda p: (-self.rates.get(p.id, -1.0), derive_seed("easy_first", seed, p.id))
        )


def difficulty_of(source: Source, *, key: str) -> Difficulty | None:
    """The difficulty of a source, with its rates read; None if it sets none.

    Raises:
        RecipeError, DataError: as :func:`llmrl.prompts.pass_rates.read_pass_rates`.
    """
    if source.pass_rates is None:
        return None
    rates = read_pass_rates(source.pass_rates, key=f"{key}.pass_rates")
    return Difficulty(source=source, rates=rates, key=key)
