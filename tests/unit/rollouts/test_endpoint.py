"""The endpoint, called over HTTP: what it answers, what it keeps token by token, and what it refuses."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from numpy.typing import NDArray
from openai import AsyncOpenAI, AuthenticationError, BadRequestError
from transformers import PreTrainedTokenizerFast

from llmrl.prompts.example import Message
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import Tokenizer
from llmrl.rollouts.agents.calls import AgentCalls
from llmrl.rollouts.agents.contexts import Rendering
from llmrl.rollouts.agents.endpoint import Endpoint
from llmrl.rollouts.conversations.exchange import Limits, rollout_of
from llmrl.rollouts.engines import Completion, Request
from llmrl.weights import seat as weights_seat
from llmrl.weights.bundle import WeightBundle

END = 3
USER, BOT = "user", "assistant"


@dataclass(slots=True, kw_only=True)
class Echo:
    """An engine without a model that says ``ids``, cut off by the budget of the request."""

    ids: Sequence[int]
    wait: asyncio.Event | None = None
    asked: list[Request] = field(default_factory=list[Request])

    async def generate(self, request: Request) -> Completion:
        self.asked.append(request)
        if self.wait is not None:
            await self.wait.wait()
        tokens = np.array(self.ids, dtype=np.int32)[: request.max_tokens]
        return Completion(
            tokens=tokens,
            logp=np.full(tokens.size, -0.5, dtype=np.float32),
            version=np.full(tokens.size, len(self.asked), dtype=np.int32),
            stop="stop" if tokens.size == len(self.ids) else "length",
        )

    async def score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.zeros(tokens.size, dtype=np.float32)

    async def join(self, seat: weights_seat.Seat) -> None:
        """Nobody to join."""

    async def load(self, bundle: WeightBundle) -> None:
        """Nothing to load."""

    async def sleep(self) -> None:
        """Nothing to give up."""

    async def close(self) -> None:
        """Nothing to close."""


@dataclass(kw_only=True)
class Seat:
    """One rollout, and a client that calls for it."""

    calls: AgentCalls
    engine: Echo
    client: AsyncOpenAI
    http: httpx.AsyncClient

    async def chat(self, *contents: str, **options: Any) -> Any:
        """Messages in turn of the user and the assistant."""
        messages: Any = [{"role": BOT if n % 2 else USER, "content": text} for n, text in enumerate(contents)]
        return await self.client.chat.completions.create(model="any", messages=messages, **options)

    async def refused(self, path: str, body: Any) -> str:
        reply = await self.http.post(path, json=body)
        assert reply.status_code == 400, reply.text
        return reply.json()["error"]["message"]


MakeSeat = Callable[..., Seat]


@pytest_asyncio.fixture
async def seat(bpe: PreTrainedTokenizerFast) -> AsyncIterator[MakeSeat]:
    endpoint, opened = Endpoint(stops=["Stop."]), list[Any]()
    await endpoint.start()

    def make(
        ids: Sequence[int] = (), *, chat: bool = True, spoken: int = 200, turn: int | None = None
    ) -> Seat:
        tokenizer = Tokenizer(bpe, chat=chat, stop_ids=[END])
        said = ids or [*tokenizer.encode_response(" two ").tolist()[:-1], END]
        engine = Echo(ids=said)
        calls = AgentCalls(
            engine=engine,
            rendering=Rendering(tokenizer=tokenizer, chat=chat),
            name="train-7-0",
            order=7,
            seeds=(0, "train", 7, "p", 0),
            limits=Limits(spoken=spoken, context=500, turn=turn),
            temperature=0.7,
        )
        admitted = endpoint.admitted(calls)
        key = admitted.__enter__()
        client = AsyncOpenAI(base_url=endpoint.url, api_key=key)
        http = httpx.AsyncClient(base_url=endpoint.url, headers={"Authorization": f"Bearer {key}"})
        opened.append((admitted, client, http))
        return Seat(calls=calls, engine=engine, client=client, http=http)

    yield make
    for admitted, client, http in opened:
        admitted.__exit__(None, None, None)
        await client.close()
        await http.aclose()
    await endpoint.close()


async def test_two_turns_are_one_context_that_keeps_the_sampled_ids(
    seat: MakeSeat, bpe: PreTrainedTokenizerFast
) -> None:
    # "tw", "o" are other ids than the tokenizer would choose for "two".
    pieces = [bpe.encode(part, add_special_tokens=False)[0] for part in ("t", "w", "o")]
    agent = seat([*pieces, END])

    first = await agent.chat("what is", temperature=0.1, seed=5, top_p=0.5)
    await agent.chat("what is", "two", "and then")

    assert (first.choices[0].message.content, first.choices[0].finish_reason) == ("two", "stop")
    tokenizer = agent.calls.rendering.tokenizer
    start = tokenizer.encode_prompt("what is").tolist()
    one, two = agent.engine.asked
    assert one.tokens.tolist() == start
    assert two.tokens[: len(start) + 4].tolist() == [*start, *pieces, END]
    assert (
        bpe.decode(two.tokens[len(start) + 4 :])
        == "\n<|im_start|>user\nand then<|im_end|>\n<|im_start|>assistant\n"
    )
    # How it is sampled is the recipe's business, not the caller's.
    assert [request.temperature for request in agent.engine.asked] == [0.7, 0.7]
    assert [r.seed for r in agent.engine.asked] == [derive_seed(0, "train", 7, "p", 0, n) for n in (0, 1)]
    assert [request.id for request in agent.engine.asked] == ["train-7-0-0", "train-7-0-1"]
    assert [request.order for request in agent.engine.asked] == [7, 7]


async def test_an_answer_may_come_back_without_the_spaces_around_it(seat: MakeSeat) -> None:
    agent = seat()

    said = (await agent.chat("what is")).choices[0].message.content
    await agent.chat("what is", said.strip(), "and then")

    assert said == " two "
    assert len(agent.calls.exchanges) == 2


async def test_a_repeated_call_is_a_retry_and_gets_the_same_answer(seat: MakeSeat) -> None:
    agent = seat()

    answers = await asyncio.gather(*(agent.chat("what is") for _ in range(3)))

    assert len(agent.engine.asked) == 1
    assert {answer.choices[0].message.content for answer in answers} == {" two "}


async def test_rollouts_that_call_at_the_same_time_do_not_mix(seat: MakeSeat) -> None:
    agents = [seat(ids) for ids in ([65, 66, END], [70, END])]

    await asyncio.gather(*(agent.chat("hello") for agent in agents))
    said = [agent.calls.exchanges[0].turn.text for agent in agents]
    await asyncio.gather(
        *(agent.chat("hello", text, "and") for agent, text in zip(agents, said, strict=True))
    )

    assert [[one.said.tokens.tolist() for one in a.calls.exchanges] for a in agents] == [
        [[65, 66, END]] * 2,
        [[70, END]] * 2,
    ]


async def test_a_stream_says_the_same_in_one_piece_and_what_it_cost(seat: MakeSeat) -> None:
    agent = seat()

    stream = await agent.chat("what is", stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]

    assert [[c.delta.content for c in chunk.choices] for chunk in chunks] == [[" two "], []]
    assert chunks[0].choices[0].finish_reason == "stop"
    read, said = agent.engine.asked[0].tokens.size, len(agent.engine.ids)
    assert chunks[1].usage.model_dump(exclude_none=True) == {
        "prompt_tokens": read,
        "completion_tokens": said,
        "total_tokens": read + said,
    }


async def test_text_goes_on_where_it_ended_and_token_ids_to_the_id(seat: MakeSeat) -> None:
    plain, ids = seat([65, 66], chat=False), seat([65, 66, END])

    said = await plain.client.completions.create(model="m", prompt="hello", max_tokens=9)
    await plain.client.completions.create(model="m", prompt=f"hello{said.choices[0].text} world")
    echoed = await ids.client.completions.create(
        model="m", prompt=[0, 90, 91], extra_body={"return_token_ids": True}
    )
    await ids.client.completions.create(model="m", prompt=[0, 90, 91, 65, 66, END, 80])

    tokenizer = plain.calls.rendering.tokenizer
    hello = tokenizer.encode_prompt("hello").tolist()
    world = tokenizer.encode_response(" world").tolist()[:-1]
    assert plain.engine.asked[1].tokens.tolist() == [*hello, 65, 66, *world]
    assert echoed.choices[0].model_dump()["token_ids"] == [65, 66, END]
    assert ids.engine.asked[1].tokens.tolist() == [0, 90, 91, 65, 66, END, 80]


async def test_messages_without_a_template_stand_one_after_the_other(seat: MakeSeat) -> None:
    agent = seat(chat=False)

    await agent.chat("hello", "two", "world")

    tokenizer = agent.calls.rendering.tokenizer
    two, world = tokenizer.encode_response("two").tolist(), tokenizer.encode_response("world").tolist()[:-1]
    expected = [*tokenizer.encode_prompt("hello").tolist(), *two, *world]
    assert agent.engine.asked[0].tokens.tolist() == expected


async def test_the_budget_of_a_rollout_is_no_error_until_nothing_is_left(seat: MakeSeat) -> None:
    agent = seat([65, 66, 67, END], chat=False, spoken=6, turn=3)

    first = await agent.client.completions.create(model="m", prompt="hello", max_tokens=2)
    second = await agent.client.completions.create(model="m", prompt=f"hello{first.choices[0].text}")
    text = f"hello{first.choices[0].text}{second.choices[0].text}"
    third = await agent.client.completions.create(model="m", prompt=text)
    with pytest.raises(BadRequestError, match=r"rollouts\.max_tokens allows 6") as error:
        await agent.client.completions.create(model="m", prompt=text + third.choices[0].text)

    # Two by the caller, three by the agent's max_turn_tokens, one that is left.
    assert [request.max_tokens for request in agent.engine.asked] == [2, 3, 1]
    assert [one.choices[0].finish_reason for one in (first, second, third)] == ["length"] * 3
    assert error.value.code == "context_length_exceeded"
    assert agent.calls.full


async def test_an_agent_that_makes_its_history_shorter_is_not_out_of_room(seat: MakeSeat) -> None:
    agent = seat([65, END], chat=False)
    await agent.client.completions.create(model="m", prompt="hello")

    with pytest.raises(BadRequestError, match=r"model\.context_tokens 500 at once"):
        await agent.client.completions.create(model="m", prompt="hello" * 500)
    full = agent.calls.full
    await agent.client.completions.create(model="m", prompt="world")

    assert (full, agent.calls.full) == (True, False)


@pytest.mark.parametrize(
    "contents",
    [
        pytest.param(["what was", " two ", "and"], id="another beginning"),
        pytest.param(["what is", "three", "and"], id="another answer"),
        pytest.param(["what is", " two ", "and", "four", "and"], id="a turn that nobody sampled"),
        pytest.param(["hello"], id="a history made shorter"),
    ],
)
async def test_a_call_that_rewrites_the_past_begins_a_segment_with_all_that_it_says(
    seat: MakeSeat, contents: Sequence[str]
) -> None:
    agent = seat()
    await agent.chat("what is")

    await agent.chat(*contents)
    await agent.chat(*contents, " two ", "what")

    tokenizer = agent.calls.rendering.tokenizer
    messages = [Message(role=BOT if n % 2 else USER, content=text) for n, text in enumerate(contents)]
    first, second, third = (request.tokens.tolist() for request in agent.engine.asked)
    assert second == tokenizer.encode_prompt(messages).tolist()
    # What follows goes on from there, with the ids that were sampled.
    assert third[: len(second) + len(agent.engine.ids)] == [*second, *agent.engine.ids]
    rollout = rollout_of(agent.calls.exchanges)
    (rewrite,) = rollout.rewrites
    assert (rewrite.at, rewrite.context.tolist()) == (len(agent.engine.ids), second)
    # Nothing of the first call comes back, so it costs no budget a second time.
    heard = len(third) - len(second) - len(agent.engine.ids)
    assert rollout.tokens.size == 3 * len(agent.engine.ids) + heard
    assert len(first) == agent.calls.first.size


async def test_text_ids_and_messages_may_follow_each_other_each_from_its_own_beginning(
    seat: MakeSeat,
) -> None:
    agent = seat()

    await agent.chat("what is")
    await agent.client.completions.create(model="m", prompt=[0, 90, 91])
    await agent.client.completions.create(model="m", prompt=[0, 90])

    assert [request.tokens.tolist() for request in agent.engine.asked[1:]] == [[0, 90, 91], [0, 90]]
    assert [one.context.tolist() for one in rollout_of(agent.calls.exchanges).rewrites] == [
        [0, 90, 91],
        [0, 90],
    ]


async def test_a_call_in_which_the_policy_has_the_last_word_is_refused_and_the_rollout_stays_as_it_was(
    seat: MakeSeat,
) -> None:
    agent = seat()
    await agent.chat("what is")

    with pytest.raises(BadRequestError, match="the last one must be the user's"):
        await agent.chat("what is", " two ")
    await agent.chat("what is", " two ", "and then")

    assert len(agent.calls.exchanges) == 2
    assert rollout_of(agent.calls.exchanges).rewrites == ()


HELLO = {"messages": [{"role": USER, "content": "hello"}]}


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("chat/completions", {**HELLO, "n": 2}, "n: expected 1 or nothing, got 2"),
        ("chat/completions", {**HELLO, "tools": [{"type": "function"}]}, "tools: expected [] or nothing"),
        ("chat/completions", {**HELLO, "logprobs": True}, "logprobs: expected false or nothing, got True"),
        ("chat/completions", {**HELLO, "stop": ["\n"]}, "stop: '\\n' does not end responses of this run"),
        ("chat/completions", {**HELLO, "max_tokens": 0}, "max_tokens: Input should be greater than 0, got 0"),
        ("chat/completions", {}, "messages: Field required"),
        ("chat/completions", {"messages": []}, "the last one must be the user's"),
        ("chat/completions", {"messages": [{"role": BOT, "content": ""}]}, "the last one must be the user's"),
        ("chat/completions", {"messages": [{"role": "tool", "content": "4"}]}, "messages.0.role: Input"),
        ("chat/completions", [], "the body must be an object, got []"),
        ("completions", {"prompt": "hello"}, "with model.chat = true call chat/completions"),
        ("completions", {"prompt": [5, 99999]}, "the tokenizer has no id 99999"),
        ("completions", {"prompt": [5, -(2**70)]}, "prompt"),
        ("completions", {"prompt": []}, "the call has no tokens"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
    ],
)
async def test_what_the_endpoint_does_not_do_is_refused_in_a_sentence(
    seat: MakeSeat, path: str, body: Any, reason: str
) -> None:
    agent = seat()

    assert reason in await agent.refused(path, body)
    assert agent.engine.asked == []


async def test_what_changes_nothing_is_accepted(seat: MakeSeat) -> None:
    agent = seat()
    same = {"n": 1, "tools": [], "logprobs": None, "stop": "Stop.", "logit_bias": {}}
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]

    reply = await agent.http.post(
        "chat/completions",
        json={**same, "messages": [{"role": "developer", "content": parts}, *HELLO["messages"]]},
    )

    assert reply.status_code == 200, reply.text
    tokenizer = agent.calls.rendering.tokenizer
    assert tokenizer.decode(agent.engine.asked[0].tokens) == "system\nhello\nuser\nhello\nassistant\n"


async def test_bytes_that_are_no_json_are_refused(seat: MakeSeat) -> None:
    agent = seat()

    for content in (b"{", b"\xff", b"[" * 100_000):
        reply = await agent.http.post("chat/completions", content=content)
        assert (reply.status_code, "the body is not JSON" in reply.text) == (400, True)


async def test_only_a_key_of_a_rollout_under_way_opens_it(seat: MakeSeat) -> None:
    agent = seat()
    models = await agent.client.models.list()
    stranger = agent.client.with_options(api_key="llmrl-guess")

    with pytest.raises(AuthenticationError, match="no rollout under way has this key"):
        await stranger.chat.completions.create(model="m", messages=[{"role": "user", "content": "hello"}])
    assert [model.id for model in models.data] == ["policy"]


async def test_the_end_of_a_rollout_drops_what_is_being_generated(seat: MakeSeat) -> None:
    agent = seat()
    agent.engine.wait = asyncio.Event()
    call = asyncio.create_task(agent.chat("what is"))
    while not agent.engine.asked:
        await asyncio.sleep(0.01)

    agent.calls.end()

    with pytest.raises(BadRequestError, match="the rollout of this key is over"):
        async with asyncio.timeout(5):
            await call
    assert agent.calls.exchanges == []


async def test_a_failure_of_the_engine_is_kept_and_not_the_agents(seat: MakeSeat) -> None:
    class Dead(Echo):
        async def generate(self, request: Request) -> Completion:
            raise KeyError("gone")

    agent = seat()
    agent.calls.engine = Dead(ids=[])

    for _ in range(2):
        with pytest.raises(BadRequestError, match="the engine failed: 'gone'"):
            await agent.chat("what is")
    assert isinstance(agent.calls.failure, KeyError)
