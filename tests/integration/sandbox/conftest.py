"""Jails of every level that this machine allows, one zygote each for all tests."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack

import pytest

from llmrl.sandbox import Jails, survey


@pytest.fixture(scope="session")
def all_jails() -> Generator[dict[str, Jails]]:
    """By their isolation; the environment around them has a secret."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LLMRL_TEST_SECRET", "the-secret-of-the-world-outside")
        allowed = [level for level in survey() if not level.refusal]
        yield {level.isolation: stack.enter_context(Jails(level.isolation)) for level in allowed}


@pytest.fixture(params=["kernel", "process"])
def jails(request: pytest.FixtureRequest, all_jails: dict[str, Jails]) -> Jails:
    """Those of one level after the other."""
    if request.param not in all_jails:
        pytest.skip(f"this machine allows no sandbox of isolation '{request.param}'")
    return all_jails[request.param]
