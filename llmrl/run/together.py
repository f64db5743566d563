"""Several things at once that are of use only together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator, Iterable
from contextlib import contextmanager
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What comes out of each, in order; the first that fails ends the others, and its error is raised.

    ``asyncio.gather`` would let the others go on, with engines busy for nobody.
    """
    with first_failure():
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work) for work in works]
    return [task.result() for task in working]


@contextmanager
def first_failure() -> Generator[None]:
    """Of a group of tasks the error that ended it is raised; what it dragged along is not news."""
    try:
        yield
    except BaseExceptionGroup as group:
        error = _first_of(group)
        raise error from error.__cause__


def _first_of(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
