"""Several things at once that are of use only together."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def together(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What comes out of each, in order; the first that fails ends the others, and its error is raised.

    ``asyncio.gather`` would let the others go on, with engines busy for nobody.
    """
    try:
        async with asyncio.TaskGroup() as tasks:
            working = [tasks.create_task(work) for work in works]
    except BaseExceptionGroup as group:
        error = first_of(group)
        raise error from error.__cause__
    return [task.result() for task in working]


def first_of(error: BaseException) -> BaseException:
    """The error that ended a group of tasks; what it dragged along is not news."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
