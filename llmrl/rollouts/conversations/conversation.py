"""A conversation of the policy with an environment: tokens in, tokens out, and only ever added to.

The ids that were sampled are kept as they are, and replies become ids once, by the model's template. Where
the template rewrites the past, the policy goes on from what it made of it: a new segment of the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmrl.errors import DeadlineError
from llmrl.prompts.example import Message
from llmrl.prompts.prompt import Prompt
from llmrl.prompts.seeds import derive_seed
from llmrl.prompts.tokenizer import Heard, Tokenizer
from llmrl.rollouts.conversations.exchange import Exchange, Limits, segments
from llmrl.rollouts.conversations.host import Host
from llmrl.rollouts.conversations.partner import Partner
from llmrl.rollouts.engines import Completion, Engine, Request, Sampler
from llmrl.rollouts.environment import Environment, Reply, Turn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Conversation:
    """The conversations that begin with one draw; each has a number, and may share its beginning."""

    engine: Engine
    tokenizer: Tokenizer
    environment: Environment
    host: Host
    """The thread in which the environment replies."""
    prompt: Prompt
    name: str
    """Name of its requests; unique in a run."""
    order: int
    """Priority of its requests."""
    seeds: tuple[int | str, ...]
    """Parts of every seed: the run, the purpose and the draw."""
    limits: Limits
    temperature: float

    async def go_on(
        self, before: Sequence[Exchange] = (), *, sample: int, sampler: Sampler = "policy"
    ) -> tuple[Exchange, ...]:
        """Sample until either side ends it: from the prompt, or from where ``before`` leads.

        Args:
            before: earlier exchanges, none of them the last of its conversation; included in the result.
            sample: number of this conversation, which its seeds depend on.
        Raises:
            EngineError: the engine or the environment failed, or it replied otherwise than before. An
                environment without a reply in time aborts the conversation instead.
        """
        seed = derive_seed(*self.seeds, "world")
        partner = Partner(environment=self.environment, prompt=self.prompt, seed=seed, host=self.host)
        exchanges = list(before)
        while not exchanges or exchanges[-1].heard is not None:
            exchanges.append(await self._exchange(partner, exchanges, sample, sampler))
        return tuple(exchanges)

    def _asked(self, before: Sequence[Exchange], sample: int, sampler: Sampler) -> Request:
        number, room = len(before), self.limits.room(self.prompt.tokens, before)
        return Request(
            id=f"{self.name}-{sample}-{number}",
            tokens=segments(self.prompt.tokens, before)[-1],
            max_tokens=min(room, self.limits.turn or room),
            temperature=self.temperature,
            seed=derive_seed(*self.seeds, sample, number),
            sampler=sampler,
            order=self.order,
        )

    async def _exchange(
        self, partner: Partner, before: Sequence[Exchange], sample: int, sampler: Sampler
    ) -> Exchange:
        said = await self.engine.generate(self._asked(before, sample, sampler))
        turn = Turn(
            text=self.tokenizer.decode(said.tokens),
            tokens=int(said.tokens.size),
            finished=said.stop == "stop",
        )
        if said.stop == "abort":
            return _aborted(said, turn, "the engine aborted the request")
        try:
            reply = await partner.reply(turn, [(one.turn, one.reply) for one in before])
        except DeadlineError as late:
            return _aborted(said, turn, str(late))
        if reply.over:
            return Exchange(said=said, turn=turn, reply=reply, heard=None)
        heard = self._heard(before, said, turn, reply)
        exchange = Exchange(said=said, turn=turn, reply=reply, heard=heard)
        if self.limits.room(self.prompt.tokens, [*before, exchange]) < 1:
            return replace(exchange, reply=replace(reply, text=""), heard=None)
        return exchange

    def _heard(self, before: Sequence[Exchange], said: Completion, turn: Turn, reply: Reply) -> Heard:
        messages = list(self.prompt.messages)
        for text, answer in ((one.turn.text, one.reply.text) for one in before):
            messages += [Message(role="assistant", content=text), Message(role="user", content=answer)]
        messages.append(Message(role="assistant", content=turn.text))
        return self.tokenizer.encode_reply(messages, reply.text, after=int(said.tokens[-1]))


def _aborted(said: Completion, turn: Turn, reason: str) -> Exchange:
    return Exchange(said=said, turn=turn, reply=Reply(over=True), heard=None, abort=reason)
