"""Concurrent work that is of use only as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Results of all, in order; the first failure ends the others, and is raised.

    ``asyncio.gather`` would let the others go on, keeping engines busy for nothing.
    """
    with first_failure():
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work) for work in works]
    return [task.result() for task in working]


@contextmanager
def first_failure() -> Generator[None]:
    """Raise the first error of a group of tasks alone; the cancellations that it caused are not news."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = _first_of(group)
        raise error from error.__cause__


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
