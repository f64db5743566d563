"""Questions go to processes that live, and to none when there is no cluster any more."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from typing import Any

import httpx
import pytest

from llmrl.errors import DeadProcessError
from llmrl.roles.role import Answer
from llmrl.roles.switchboard import Switchboard


class Process:
    """Answers with its name, or has died."""

    def __init__(self, name: str, *, dead: bool = False) -> None:
        self.name, self.dead, self.asked = name, dead, 0

    async def call(self, method: str, *_args: Any, deadline_s: float) -> Answer:
        self.asked += 1
        if self.dead:
            raise DeadProcessError(f"{self.name}.{method} failed because its process died: killed\nits log")
        return Answer(body=f'"{self.name}"'.encode())


@pytest.fixture
async def board() -> AsyncGenerator[Switchboard]:
    made = Switchboard()
    await made.open()
    yield made
    await made.close()


async def ask(board: Switchboard) -> tuple[int, str]:
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{board.url}/judge/v1/chat", content=b"{}")
    return answer.status_code, answer.text


async def test_a_process_that_died_is_told_of_once_and_asked_no_more(
    board: Switchboard, caplog: pytest.LogCaptureFixture
) -> None:
    dead, other = Process("judge-0", dead=True), Process("judge-1")
    board.connect({"judge": (dead, other)}, deadline_s=5)

    with caplog.at_level(logging.WARNING):
        answers = [await ask(board) for _ in range(3)]

    assert answers == [(200, '"judge-1"')] * 3
    assert (dead.asked, other.asked) == (1, 3)
    assert caplog.text.count("role 'judge' goes on with 1 processes: judge-0.answer failed") == 1


async def test_where_all_have_died_the_last_one_is_named(board: Switchboard) -> None:
    board.connect({"judge": (Process("judge-0", dead=True),)}, deadline_s=5)

    for _ in range(2):
        status, said = await ask(board)
        assert status == 503
        assert "judge-0.answer failed because its process died: killed" in said


async def test_nobody_is_asked_once_the_roles_are_disconnected(board: Switchboard) -> None:
    process = Process("judge-0")
    board.connect({"judge": (process,)}, deadline_s=5)
    board.disconnect()

    status, said = await ask(board)

    assert (status, process.asked) == (503, 0)
    assert "role 'judge' has no process now" in said
