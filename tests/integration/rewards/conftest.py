"""A scorer that is always closed, with the plugins of this folder within its reach."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from llmrl.recipe.schema import Cluster, Reward, Scoring
from llmrl.rewards.scoring.scorer import Scorer


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the tests' plugins, importable."""
    folder = Path(__file__).parent / "plugins"
    monkeypatch.syspath_prepend(str(folder))
    return folder


@pytest_asyncio.fixture
async def scorer_of(plugins: Path) -> AsyncIterator[Callable[..., Awaitable[Scorer]]]:
    """Start a scorer from tables of rewards by name, plugins, and keys of scoring."""
    scorers: list[Scorer] = []

    async def make(
        rewards: dict[str, Any], *modules: str, cluster: Cluster | None = None, **scoring: Any
    ) -> Scorer:
        tables = {name: Reward.model_validate(table) for name, table in rewards.items()}
        scorer = Scorer(tables, Scoring(**scoring), modules, cluster or Cluster())
        scorers.append(scorer)
        await scorer.start()
        return scorer

    yield make
    for scorer in scorers:
        await scorer.close()
