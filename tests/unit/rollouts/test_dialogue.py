"""A simulated user: asked once for each message, the same in every replay, and no reason to hang or fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from llmrl.errors import DeadlineError, LlmrlError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.roles.post import hang_up
from llmrl.roles.role import Answer
from llmrl.roles.switchboard import Switchboard
from llmrl.rollouts.environment import Reply, Turn
from llmrl.rollouts.environments.dialogue import Dialogue

PROMPT = Prompt(
    id="p",
    tokens=np.array([1], np.int32),
    text="<|user|>Hello {answer}",
    answer="a red hat",
    source="p",
    messages=(Message(role="user", content="Hello {answer}"),),
)


@dataclass
class User:
    """Plays the role: says what ``says`` makes of the number of the question, and keeps what it was asked."""

    says: Callable[[int], str]
    name: str = "user-0"
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def call(self, method: str, *args: Any, deadline_s: float) -> Answer:
        route, question = args
        assert (method, route, deadline_s) == ("answer", "chat/completions", 9.0)
        self.asked.append(json.loads(question))
        await asyncio.sleep(0)
        message = {"role": "assistant", "content": self.says(len(self.asked))}
        return Answer(body=json.dumps({"choices": [{"message": message}]}).encode())


@asynccontextmanager
async def meeting(*users: User, **options: Any) -> AsyncGenerator[Dialogue]:
    board = Switchboard()
    await board.open()
    board.connect({"user": users}, deadline_s=9.0)
    try:
        yield Dialogue(role="user", **options).at(board.url)
    finally:
        await hang_up()
        await board.close()


async def held(made: Dialogue, *turns: str, seed: int = 5) -> list[Reply]:
    episode = made.start(PROMPT, seed=seed)
    return [await episode.reply(Turn(text=text, tokens=1, finished=True)) for text in turns]


async def test_the_user_reads_the_whole_conversation_and_its_own_wish() -> None:
    user = User(lambda number: f" and {number}\n")
    options = {"system": "You want {answer}.", "template": "{conversation}User:", "temperature": 0.5}
    async with meeting(user, turns=3, max_tokens=7, **options) as made:
        replies = await held(made, "Yes?", "I see {prompt}.", "Done.")

    assert [(reply.text, reply.over) for reply in replies] == [("and 1", False), ("and 2", False), ("", True)]
    first, second = user.asked
    assert first["messages"] == [
        {"role": "system", "content": "You want a red hat."},
        # What somebody said is never taken for a place of the template.
        {"role": "user", "content": "User: Hello {answer}\nAssistant: Yes?\nUser:"},
    ]
    assert second["messages"][1]["content"] == (
        "User: Hello {answer}\nAssistant: Yes?\nUser: and 1\nAssistant: I see {prompt}.\nUser:"
    )
    assert (first["max_tokens"], first["temperature"]) == (7, 0.5)
    assert first["seed"] != second["seed"]


async def test_a_replay_hears_the_same_words_without_asking_again() -> None:
    # Whatever serves the model: this one never says the same twice.
    user = User(lambda number: f"word {number}")
    async with meeting(user, turns=5) as made:
        first = await held(made, "a", "b", "c")
        replay = await held(made, "a", "b", "d")
        elsewhere = await held(made, "a", "b", "c", seed=6)

    assert [reply.text for reply in first] == ["word 1", "word 2", "word 3"]
    assert [reply.text for reply in replay] == ["word 1", "word 2", "word 4"]
    assert [reply.text for reply in elsewhere] == ["word 5", "word 6", "word 7"]


async def test_two_who_ask_at_once_hear_the_same() -> None:
    user = User(lambda number: f"word {number}")
    async with meeting(user) as made:
        one, other = await asyncio.gather(held(made, "a"), held(made, "a"))

    assert len(user.asked) == 2
    assert one == other


@pytest.mark.parametrize(("said", "options"), [("  \n", {}), ("Fine. BYE", {"farewell": "BYE"})])
async def test_a_user_ends_it_by_silence_or_farewell(said: str, options: dict[str, str]) -> None:
    async with meeting(User(lambda _: said), **options) as made:
        (reply,) = await held(made, "a")

    assert reply == Reply(text=said.strip(), over=True)


async def test_neither_side_hears_what_the_other_one_thinks() -> None:
    user = User(lambda number: f"<think>I could say BYE.</think>\nwell {number}")
    async with meeting(user, turns=3, farewell="BYE") as made:
        replies = await held(made, "<think>A hat?</think>\n\nYes?", "Which?")

    assert [(reply.text, reply.over) for reply in replies] == [("well 1", False), ("well 2", False)]
    assert user.asked[1]["messages"][0]["content"].startswith(
        "User: Hello {answer}\nAssistant: Yes?\nUser: well 1\nAssistant: Which?\n"
    )


async def test_a_thought_that_the_chat_template_begins_is_one_in_every_turn() -> None:
    user = User(lambda number: f"well {number}")
    async with meeting(user) as made:
        episode = made.start(replace(PROMPT, text="<|user|>Hello<|assistant|><think>\n"), seed=5)
        for text in ("A hat?</think>Yes?", "It never ends"):
            await episode.reply(Turn(text=text, tokens=1, finished=True))

    assert user.asked[1]["messages"][0]["content"].startswith(
        "User: Hello {answer}\nAssistant: Yes?\nUser: well 1\nAssistant: \n"
    )


def _dies(_: int) -> str:
    raise LlmrlError("user-0.answer failed because its process died: out of memory\nand so on")


async def test_a_user_who_is_dead_aborts_the_conversation_in_a_sentence_that_names_it() -> None:
    async with meeting(User(_dies)) as made:
        with pytest.raises(DeadlineError) as caught:
            await held(made, "a")

    assert str(caught.value) == (
        "role 'user' failed: status 503, 'user-0.answer failed because its process died: out of memory'."
    )


async def test_a_user_who_says_more_than_anybody_reads_aborts_the_conversation() -> None:
    async with meeting(User(lambda _: "x" * 2**22)) as made:
        with pytest.raises(DeadlineError, match=r"role 'user' failed: .* longer than 4194304 bytes\."):
            await held(made, "a")


async def test_where_one_process_is_dead_the_next_one_answers() -> None:
    async with meeting(User(_dies), User(lambda _: "here", name="user-1")) as made:
        replies = [await held(made, text) for text in ("a", "b", "c")]

    assert [reply.text for (reply,) in replies] == ["here"] * 3


@dataclass
class Slow(User):
    """Does not answer in time."""

    async def call(self, method: str, *args: Any, deadline_s: float) -> Answer:
        await asyncio.sleep(30)
        return await User.call(self, method, *args, deadline_s=deadline_s)


async def test_a_user_who_takes_too_long_is_not_waited_for() -> None:
    async with meeting(Slow(lambda _: "late"), seconds=0.3) as made:
        with pytest.raises(
            DeadlineError, match=r"role 'user' gave no whole answer within 0\.3 s \(options\.seconds\)\."
        ):
            await held(made, "a")
