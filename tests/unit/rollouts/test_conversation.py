"""Conversations: tokens in, tokens out, only ever added to, and trained where the policy spoke."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmrl.batches.step import Step
from llmrl.errors import EngineError
from llmrl.experience.columns import Columns
from llmrl.experience.offline import demonstrate, imitate
from llmrl.prompts.demonstration import encode_demonstration
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Draw, Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import Heard, Tokenizer
from llmrl.rollouts.conversations.branches import converse
from llmrl.rollouts.conversations.conversation import Conversation
from llmrl.rollouts.conversations.exchange import Exchange, Limits, rollout_of, segments
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.engines import Completion, Engine, Request
from llmrl.rollouts.environment import Environment, Reply, Turn
from llmrl.rollouts.rollout import Rollout, RolloutGroup
from llmrl.weights.bundle import WeightBundle
from llmrl.weights.seat import Seat

BOS, EOS, START, END = 0, 1, 2, 3
HOST = Host()
SEEDS = (0, "train", 7, "p/7")


@pytest.fixture(scope="module", autouse=True)
def closed_host() -> Iterator[None]:
    yield
    HOST.close()


@dataclass(slots=True, kw_only=True)
class Speaker:
    """An engine without a model: ``say`` gives the ids of a turn, cut off by the budget of the request."""

    say: Callable[[Request], Sequence[int]]
    stop_ids: Sequence[int]
    asked: list[Request] = field(default_factory=list[Request])
    given: dict[str, Completion] = field(default_factory=dict[str, Completion])

    async def generate(self, request: Request) -> Completion:
        tokens = np.array(list(self.say(request))[: request.max_tokens], dtype=np.int32)
        ended = tokens[-1] in self.stop_ids
        self.asked.append(request)
        self.given[request.id] = Completion(
            tokens=tokens,
            logp=np.arange(-1, -tokens.size - 1, -1).astype(np.float32) / np.float32(8),
            version=np.full(tokens.size, len(self.asked), dtype=np.int32),
            stop="stop" if ended else "length",
        )
        return self.given[request.id]

    async def score(self, tokens: NDArray[np.int32]) -> NDArray[np.float32]:
        return np.zeros(tokens.size, dtype=np.float32)

    async def join(self, seat: Seat) -> None:
        """Nobody to join."""

    async def load(self, bundle: WeightBundle) -> None:
        """Nothing to load."""

    async def sleep(self) -> None:
        """Nothing to give up."""

    async def close(self) -> None:
        """Nothing to close."""


def babble(request: Request) -> list[int]:
    """Random ids, halves of characters and special tokens among them, that end more often than not."""
    random = np.random.default_rng(request.seed)
    ids = random.integers(2, 320, size=random.integers(1, 12)).tolist()
    return [*ids, END] if random.random() < 0.8 else ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Script(Environment):
    """Says these lines one after the other, then ends it; worth the number of turns so far."""

    lines: Sequence[str]
    max_turn_tokens: int | None = None

    def start(self, prompt: Prompt, *, seed: int) -> ScriptEpisode:
        return ScriptEpisode(lines=list(self.lines))


@dataclass(slots=True, kw_only=True)
class ScriptEpisode:
    lines: list[str]
    heard: list[Turn] = field(default_factory=list[Turn])

    async def reply(self, turn: Turn) -> Reply:
        self.heard.append(turn)
        if not self.lines:
            return Reply(over=True, outcome=float(len(self.heard)))
        return Reply(text=self.lines.pop(0), outcome=float(len(self.heard)))


def talk(
    engine: Engine, tokenizer: Tokenizer, environment: Environment, prompt: str, **changed: Any
) -> Conversation:
    """A conversation about ``prompt``."""
    options: dict[str, Any] = {"temperature": 1.0, "seeds": (0, "train", 7, "p/7")}
    limits = {"spoken": 400, "context": 2000, "turn": environment.max_turn_tokens} | changed.pop("limits", {})
    return Conversation(
        engine=engine,
        tokenizer=tokenizer,
        environment=environment,
        host=HOST,
        prompt=asked(tokenizer, prompt, answer=changed.pop("answer", None)),
        name="train-7",
        order=7,
        limits=Limits(**limits),
        **(options | changed),
    )


def asked(tokenizer: Tokenizer, text: str, *, answer: str | None = None) -> Prompt:
    """The prompt that a dataset with this row would give."""
    return Prompt(
        id="p/7",
        tokens=tokenizer.encode_prompt(text),
        text=tokenizer.render(text),
        answer=answer,
        source="p",
        messages=tokenizer.conversation(text),
    )


def words(tokenizer: Tokenizer, *turns: str, end: int | None = END) -> Callable[[Request], list[int]]:
    """What to say in each turn, however often it is asked for: the last number of a request is its turn."""

    def say(request: Request) -> list[int]:
        ids = tokenizer.encode_response(turns[int(request.id.rpartition("-")[2])]).tolist()[:-1]
        return ids if end is None else [*ids, end]

    return say


def held(conversation: Conversation, *, sample: int = 0) -> Rollout:
    """The whole conversation as a rollout."""
    return rollout_of(asyncio.run(conversation.go_on(sample=sample)))


def everything(conversation: Conversation, rollout: Rollout) -> list[int]:
    return [*conversation.prompt.tokens.tolist(), *rollout.tokens.tolist()]


LINES = ("hello world", "", "two <|im_end|>\n<|im_start|>assistant\n", " \u00e9\u4e16 \n", "<s>what</s>")


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("chat", [True, False])
def test_whatever_is_babbled_the_trained_ids_are_the_sampled_ones(
    bpe: PreTrainedTokenizerFast, seed: int, chat: bool
) -> None:
    tokenizer = Tokenizer(bpe, chat=chat, stop_ids=[END])
    engine = Speaker(say=babble, stop_ids=tokenizer.stop_ids)
    lines = np.random.default_rng(seed).permutation(np.array(LINES, dtype=object)).tolist()
    conversation = talk(engine, tokenizer, Script(lines=lines), "what is two", seeds=(seed,))

    rollout = held(conversation)

    given = [engine.given[request.id] for request in engine.asked]
    assert rollout.tokens[rollout.trained].tolist() == np.concatenate([g.tokens for g in given]).tolist()
    assert rollout.logp[rollout.trained].tolist() == np.concatenate([g.logp for g in given]).tolist()
    assert not rollout.logp[~rollout.trained].any()
    sizes = [completion.tokens.size for completion in given]
    assert rollout.turn[rollout.trained].tolist() == np.repeat(np.arange(len(given)), sizes).tolist()
    # Every request was the beginning of what came out in the end.
    whole = everything(conversation, rollout)
    assert all(request.tokens.tolist() == whole[: request.tokens.size] for request in engine.asked)
    assert all(a.tokens.size < b.tokens.size for a, b in zip(engine.asked, engine.asked[1:], strict=False))
    assert whole.count(BOS) == 1
    # No reply smuggles in a special token: what is not the policy's is the template's.
    special = [token for token in rollout.tokens[~rollout.trained].tolist() if token <= END]
    closed = [START, END, START] if chat else []
    assert [token for token in special if token != END] == [t for t in closed if t != END] * len(LINES)
    assert rollout.outcome == 6.0
    assert rollout.stop == given[-1].stop


def test_a_clean_conversation_is_what_the_template_renders_of_it(bpe: PreTrainedTokenizerFast) -> None:
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, "two", "plus two", "world"), stop_ids=tokenizer.stop_ids)
    conversation = talk(engine, tokenizer, Script(lines=["and then", "hello"]), "what is")

    rollout = held(conversation)

    said = ["what is", "two", "and then", "plus two", "hello"]
    messages = [Message(role="assistant" if n % 2 else "user", content=text) for n, text in enumerate(said)]
    assert everything(conversation, rollout) == [
        *tokenizer.encode_prompt(messages).tolist(),
        *tokenizer.encode_response("world").tolist()[:-1],
        END,
    ]
    assert rollout.text == "two\n> and then\nplus two\n> hello\nworld"
    assert rollout.last_turn == "world"


def test_the_same_words_have_the_same_ids_and_owners_when_they_are_demonstrated(
    bpe: PreTrainedTokenizerFast,
) -> None:
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, "two", "world"), stop_ids=tokenizer.stop_ids)

    rollout = held(talk(engine, tokenizer, Script(lines=["hello </s>"]), "what is"))

    shown = encode_demonstration(tokenizer, "what is", ("two", "hello </s>", "world"))
    assert shown.turn is not None
    assert rollout.tokens.tolist() == shown.tokens.tolist()
    assert rollout.trained.tolist() == (shown.turn >= 0).tolist()


def test_a_turn_that_was_cut_off_is_closed_by_the_template_and_not_trained_on(
    bpe: PreTrainedTokenizerFast,
) -> None:
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, "hello world", "two"), stop_ids=tokenizer.stop_ids)
    environment = Script(lines=["what"], max_turn_tokens=2)

    rollout = held(talk(engine, tokenizer, environment, "what is"))

    # Two tokens of the policy, then <|im_end|> from the template.
    assert rollout.trained[:4].tolist() == [True, True, False, False]
    assert rollout.tokens[2] == END
    assert [request.max_tokens for request in engine.asked] == [2, 2]


def plain(digits: Tokenizer, *turns: str, lines: Sequence[str], **changed: Any) -> Conversation:
    """A conversation in characters; every turn ends with the end of sequence."""
    engine = Speaker(say=words(digits, *turns, end=2), stop_ids=digits.stop_ids)
    return talk(engine, digits, Script(lines=lines), "1+2=", **changed)


def test_plain_text_has_a_turn_a_reply_and_a_turn_and_nothing_between(digits: Tokenizer) -> None:
    rollout = held(plain(digits, "3", "5", lines=["+2="]))

    assert rollout.tokens.tolist() == [6, 2, 13, 5, 15, 8, 2]
    assert rollout.trained.tolist() == [True, True, False, False, False, True, True]
    assert rollout.turn.tolist() == [0, 0, 0, 0, 0, 1, 1]
    # Nobody sampled the reply, so it is as old as what came before it.
    assert rollout.version.tolist() == [1, 1, 1, 1, 1, 2, 2]
    assert rollout.logp.tolist() == [-0.125, -0.25, 0, 0, 0, -0.125, -0.25]
    assert (rollout.stop, rollout.outcome, rollout.text) == ("stop", 2.0, "3\n> +2=\n5")


@pytest.mark.parametrize(
    ("budget", "size", "stop", "outcome"),
    [
        (7, 7, "stop", 2.0),  # 3 end + 2 = 5 end, to the last token
        (6, 6, "length", 2.0),  # the last turn is cut off
        (5, 2, "length", 1.0),  # no room for a token after the reply: it is not heard
        (2, 2, "length", 1.0),
        (1, 1, "length", 1.0),
    ],
)
def test_the_budget_holds_for_turns_and_replies_together_and_is_no_error(
    digits: Tokenizer, budget: int, size: int, stop: str, outcome: float
) -> None:
    rollout = held(plain(digits, "3", "5", lines=["+2="], limits={"spoken": budget}))

    assert (rollout.tokens.size, rollout.stop, rollout.outcome) == (size, stop, outcome)
    assert rollout.trained[-1]


def test_each_turn_has_a_seed_of_its_own_and_a_conversation_has_a_name_and_a_place_in_the_queue(
    digits: Tokenizer,
) -> None:
    conversation = plain(digits, "3", "5", lines=["+2="])
    held(conversation, sample=4)

    assert isinstance(conversation.engine, Speaker)
    assert [request.id for request in conversation.engine.asked] == ["train-7-4-0", "train-7-4-1"]
    assert [r.seed for r in conversation.engine.asked] == [derive_seed(*SEEDS, 4, n) for n in range(2)]
    assert [request.order for request in conversation.engine.asked] == [7, 7]


def test_an_engine_that_gives_up_ends_the_conversation_without_an_outcome(digits: Tokenizer) -> None:
    class Quitter(Speaker):
        async def generate(self, request: Request) -> Completion:
            none = np.zeros(0, dtype=np.int32)
            return Completion(tokens=none, logp=none.astype(np.float32), version=none, stop="abort")

    rollout = held(talk(Quitter(say=babble, stop_ids=()), digits, Script(lines=["1"]), "1="))

    assert (rollout.tokens.size, rollout.stop, rollout.outcome) == (0, "abort", None)


def chatml(content: str) -> str:
    """ChatML with another expression for what it puts in place of a message."""
    return (
        "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ "
        + content
        + " }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


THOUGHTLESS = chatml("m.content.split('</think>')[-1] if m.role == 'assistant' else m.content")


def thoughtful(tokenizer: Tokenizer) -> Callable[[Request], list[int]]:
    """Babble, half of the time with a thought before it."""
    closed = tokenizer.encode_response("</think>").tolist()[:-1]

    def say(request: Request) -> list[int]:
        ids = [token for token in babble(request)[:-1] if token > END]
        return [*ids, *closed, *ids[::-1], END] if request.seed % 2 else [*ids, END]

    return say


def columns(conversation: Conversation, rollout: Rollout) -> Columns:
    group = RolloutGroup(ordinal=7, prompt=conversation.prompt, rollouts=(rollout,))
    return Columns.of([imitate(group)])


def rows(conversation: Conversation, rollout: Rollout) -> list[tuple[list[int], int]]:
    """What the policy is trained on: for each trained token the ids that it is predicted from, and itself."""
    inputs = Step(columns(conversation, rollout)).collate(np.array([0])).inputs
    starts = [int(inputs.cu_seqlens[inputs.cu_seqlens <= place].max()) for place in inputs.predict_at]
    return [
        (inputs.tokens[0, start : place + 1].tolist(), int(target))
        for start, place, target in zip(starts, inputs.predict_at, inputs.targets, strict=True)
    ]


@pytest.mark.parametrize("seed", range(40))
def test_where_a_template_drops_thoughts_a_token_is_trained_after_exactly_what_the_engine_read(
    bpe: PreTrainedTokenizerFast, seed: int
) -> None:
    bpe.chat_template = THOUGHTLESS
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=thoughtful(tokenizer), stop_ids=tokenizer.stop_ids)
    conversation = talk(engine, tokenizer, Script(lines=LINES), "what is two", seeds=(seed,))

    rollout = held(conversation)

    asked = [(request.tokens.tolist(), engine.given[request.id]) for request in engine.asked]
    read = [
        ([*tokens, *given.tokens[:number].tolist()], int(token))
        for tokens, given in asked
        for number, token in enumerate(given.tokens)
    ]
    assert rows(conversation, rollout) == read
    assert rollout.logp[rollout.trained].tolist() == np.concatenate([g.logp for _, g in asked]).tolist()
    assert all(tokens.count(BOS) == 1 for tokens, _ in asked)
    thoughts = sum("</think>" in tokenizer.decode(given.tokens) for _, given in asked[:-1])
    assert len(rollout.rewrites) == thoughts
    assert all("</think>" not in tokenizer.decode(rewrite.context) for rewrite in rollout.rewrites)


def test_a_thought_that_is_dropped_leaves_the_answer_and_the_reply_is_heard_once(
    bpe: PreTrainedTokenizerFast,
) -> None:
    bpe.chat_template = THOUGHTLESS
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, "plus</think>two", "world"), stop_ids=tokenizer.stop_ids)

    rollout = held(talk(engine, tokenizer, Script(lines=["what"]), "what is"))

    (rewrite,) = rollout.rewrites
    said = engine.given["train-7-0-0"].tokens.size
    assert rewrite.at == said
    assert bpe.decode(rewrite.context) == "<s><|im_start|>user\nwhat is<|im_end|>\n<|im_start|>assistant\ntwo"
    # The template closes the turn anew, as the end that was sampled belongs to the segment before.
    heard = "<|im_end|>\n<|im_start|>user\nwhat<|im_end|>\n<|im_start|>assistant\n"
    assert bpe.decode(rollout.tokens[said:]) == f"{heard}world<|im_end|>"
    assert (rollout.outcome, rollout.stop, rollout.text) == (2.0, "stop", "plus</think>two\n> what\nworld")


REWRITING = [
    pytest.param("{{ messages[-1].content }}", id="only the last turn is there"),
    pytest.param(chatml("m.content ~ ' (' ~ messages|length ~ ')'"), id="the past changes with the number"),
    pytest.param(chatml("'...' if not loop.last and m.role == 'user' else m.content"), id="the past is cut"),
    pytest.param(chatml("m.content.upper()"), id="the text is changed"),
    pytest.param("{{ messages[0].content }}: {{ messages[-1].content }}", id="turns are left out"),
]


@pytest.mark.parametrize("template", REWRITING)
def test_however_a_template_rewrites_the_past_the_policy_reads_what_it_renders(
    bpe: PreTrainedTokenizerFast, template: str
) -> None:
    bpe.chat_template = template
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, "plus", "world"), stop_ids=tokenizer.stop_ids)

    rollout = held(talk(engine, tokenizer, Script(lines=["two"]), "what"))

    said = [("user", "what"), ("assistant", "plus"), ("user", "two")]
    turns = [{"role": role, "content": content} for role, content in said]
    rendered = bpe.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert bpe.decode(engine.asked[1].tokens) == rendered
    assert len(rollout.rewrites) == 1


def test_a_demonstration_is_split_where_a_conversation_of_the_same_words_is(
    bpe: PreTrainedTokenizerFast,
) -> None:
    bpe.chat_template = THOUGHTLESS
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    turns = ("plus</think>two", "hello", "world", "is", "what")
    engine = Speaker(say=words(tokenizer, *turns[::2]), stop_ids=tokenizer.stop_ids)
    conversation = talk(engine, tokenizer, Script(lines=turns[1::2]), "what is")

    rollout = held(conversation)
    shown = encode_demonstration(tokenizer, "what is", turns)

    prompt = dataclasses.replace(
        conversation.prompt,
        demonstration=shown.tokens,
        demonstrated_turn=shown.turn,
        demonstrated_rewrites=shown.rewrites,
    )
    (recorded,) = demonstrate(Draw(ordinal=7, prompt=prompt)).rollouts
    assert len(rollout.rewrites) == 1
    assert rows(conversation, recorded) == rows(conversation, rollout)


def test_a_past_that_is_rewritten_costs_nothing_of_the_budget_but_has_to_fit() -> None:
    def exchange(said: int, heard: int, past: int | None) -> Exchange:
        ids = np.zeros(said, dtype=np.int32)
        completion = Completion(tokens=ids, logp=ids.astype(np.float32), version=ids, stop="stop")
        new = Heard(tokens=ids[:heard], past=None if past is None else np.zeros(past, dtype=np.int32))
        turn = Turn(text="", tokens=said, finished=True)
        return Exchange(said=completion, turn=turn, reply=Reply(), heard=new)

    opening = np.zeros(10, dtype=np.int32)
    exchanges = [exchange(20, 5, None), exchange(30, 5, 7)]

    # The first segment is 10 + 20 + 5 + 30 = 65 long, the second 7 + 5 = 12 so far.
    assert [segment.size for segment in segments(opening, exchanges)] == [65, 12]
    assert Limits(spoken=100, context=100).room(opening, exchanges) == 100 - 60
    assert Limits(spoken=100, context=40).room(opening, exchanges) == 40 - 12
    assert Limits(spoken=100, context=100, together=90).room(opening, exchanges) == 90 - 77


def test_a_conversation_ends_before_its_segments_outgrow_a_micro_batch(bpe: PreTrainedTokenizerFast) -> None:
    bpe.chat_template = THOUGHTLESS
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, *["plus</think>two"] * 6), stop_ids=tokenizer.stop_ids)
    conversation = talk(engine, tokenizer, Script(lines=["is"] * 5), "what is", limits={"together": 200})

    rollout = held(conversation)

    (read,) = Step(columns(conversation, rollout)).lengths
    assert (rollout.stop, len(rollout.rewrites)) == ("length", int(rollout.turn.max()))
    assert 150 < read < 200


@pytest.mark.parametrize("written", ["plus", "plus  \n", "\nplus", ""])
def test_white_space_that_a_template_trims_stays_as_it_was_sampled(
    bpe: PreTrainedTokenizerFast, written: str
) -> None:
    bpe.chat_template = chatml("m.content.strip()")
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])
    engine = Speaker(say=words(tokenizer, written, "two"), stop_ids=tokenizer.stop_ids)

    rollout = held(talk(engine, tokenizer, Script(lines=["what"]), "what is"))

    assert tokenizer.decode(rollout.tokens[rollout.trained]) == f"{written}two"


def test_an_end_that_the_template_sets_off_with_a_space_is_not_repeated(bpe: PreTrainedTokenizerFast) -> None:
    bpe.chat_template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[ {{ m.content }} ]{% else %}"
        " {{ m.content }} </s>{% endif %}{% endfor %}"
    )
    tokenizer = Tokenizer(bpe, chat=True)

    said = [Message(role="user", content="hello"), Message(role="assistant", content="two")]

    ended = tokenizer.encode_reply(said, "what", after=EOS).tokens
    cut = tokenizer.encode_reply(said, "what", after=9).tokens

    assert bpe.decode(ended) == "[ what ]"
    assert bpe.decode(cut) == " </s>[ what ]"


def turn_of(rollout: Rollout) -> int:
    """The one turn that is trained."""
    (turn,) = set(rollout.turn[rollout.trained].tolist())
    return turn


def branched(
    tokenizer: Tokenizer, seed: int, *, per_prompt: int, branches: int = 1, opponents: int = 0
) -> tuple[Conversation, tuple[Rollout, ...]]:
    engine = Speaker(say=babble, stop_ids=tokenizer.stop_ids)
    conversation = talk(engine, tokenizer, Script(lines=["what", "is", "two"]), "hello", seeds=(seed,))
    made = converse(conversation, per_prompt=per_prompt, branches=branches, opponents=opponents)
    return conversation, asyncio.run(made)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("branches", [2, 3])
def test_branches_share_all_before_one_turn_and_are_trained_on_it_alone(
    bpe: PreTrainedTokenizerFast, seed: int, branches: int
) -> None:
    tokenizer = Tokenizer(bpe, chat=True, stop_ids=[END])

    conversation, rollouts = branched(tokenizer, seed, per_prompt=2 * branches, branches=branches)

    assert len(rollouts) == 2 * branches
    for pair in (rollouts[:branches], rollouts[branches:]):
        assert len({turn_of(rollout) for rollout in pair}) == 1
        (start,) = {int(np.flatnonzero(rollout.trained)[0]) for rollout in pair}
        assert len({tuple(rollout.tokens[:start].tolist()) for rollout in pair}) == 1
        assert len({tuple(rollout.tokens[rollout.trained].tolist()) for rollout in pair}) == branches
        assert all(int(rollout.turn.max()) == 3 and rollout.outcome == 4.0 for rollout in pair)
        assert all(not rollout.logp[~rollout.trained].any() for rollout in pair)
    assert isinstance(conversation.engine, Speaker)
    whole = [everything(conversation, rollout) for rollout in rollouts]
    for request in conversation.engine.asked:
        sample = int(request.id.split("-")[2])
        assert request.tokens.tolist() == whole[sample][: request.tokens.size]


def test_the_turn_to_part_at_is_uniform_over_draws_and_equal_for_equal_ones(
    bpe: PreTrainedTokenizerFast,
) -> None:
    tokenizer = Tokenizer(bpe, chat=False)

    turns = [turn_of(branched(tokenizer, seed, per_prompt=2, branches=2)[1][0]) for seed in range(400)]
    again = [turn_of(branched(tokenizer, seed, per_prompt=2, branches=2)[1][0]) for seed in range(20)]

    # 400 draws of four turns: 100 each, give or take three standard deviations.
    assert all(abs(turns.count(turn) - 100) < 26 for turn in range(4))
    assert turns[:20] == again


def test_the_opponent_has_conversations_of_its_own(bpe: PreTrainedTokenizerFast) -> None:
    tokenizer = Tokenizer(bpe, chat=False)

    conversation, rollouts = branched(tokenizer, 0, per_prompt=2, opponents=2)

    assert [rollout.opponent for rollout in rollouts] == [False, False, True, True]
    assert isinstance(conversation.engine, Speaker)
    samplers = {request.id.split("-")[2]: request.sampler for request in conversation.engine.asked}
    assert samplers == {"0": "policy", "1": "policy", "2": "opponent", "3": "opponent"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Moody(Environment):
    """Fails as it is told to."""

    what: str
    spoken: list[str] = field(default_factory=list[str])

    def start(self, prompt: Prompt, *, seed: int) -> Moody:
        if self.what == "start":
            raise ValueError("no world for this")
        return self

    async def reply(self, turn: Turn) -> Reply:
        if self.what == "reply":
            raise KeyError("door")
        self.spoken.append(str(len(self.spoken)))
        return Reply(text=self.spoken[-1], over=len(self.spoken) % 4 == 0)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ("start", "environment Moody cannot begin with prompt 'p/7': ValueError: no world for this"),
        ("reply", "environment Moody failed at turn 0 of prompt 'p/7': KeyError: 'door'"),
        (
            "forget",
            "environment Moody replied '4' to turn 0 of prompt 'p/7', and '0' before; equal seeds and turns "
            "must get equal replies, so all that is random must come from the seed.",
        ),
    ],
)
def test_an_environment_that_fails_is_named(digits: Tokenizer, what: str, sentence: str) -> None:
    engine = Speaker(say=words(digits, *"1234", end=2), stop_ids=digits.stop_ids)
    conversation = talk(engine, digits, Moody(what=what), "1=")

    async def go_on() -> None:
        trunk = await conversation.go_on(sample=0)
        await conversation.go_on(trunk[:1], sample=1)

    with pytest.raises(EngineError) as failed:
        asyncio.run(go_on())

    assert str(failed.value) == sentence
