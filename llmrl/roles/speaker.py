"""A role that speaks: an engine whose weights never change, behind the API of OpenAI."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pydantic import ValidationError

from llmrl.prompts.tokenizer import load_tokenizer
from llmrl.recipe.schema import Engines, Model, Role, Stage
from llmrl.roles.role import Answer, refusal
from llmrl.roles.wire import Sampled
from llmrl.rollouts.agents.calls import Answer as Spoken
from llmrl.rollouts.agents.contexts import RefusedCall, Rendering
from llmrl.rollouts.agents.wire import Call, read_call, whole_reply
from llmrl.rollouts.conversations.exchange import Exchange
from llmrl.rollouts.engines import Completion, Engine, Request, Serving, engine
from llmrl.rollouts.environment import Reply, Turn

if TYPE_CHECKING:
    from llmrl.roles.kinds import Generate


MAX_TOKENS = 256
"""Most tokens of an answer, if the question does not say."""


async def started(kind: Generate, stage: Stage, name: str, *, device: str) -> Speaker:
    """Start the model of a role on its engine."""
    serving = _serving(kind, stage.roles[name])
    model, made = serving.model, engine.build(kind.engine, {}, key=f"roles.{name}.options")
    served = await made.start(serving, device=device)
    rendering = Rendering(tokenizer=load_tokenizer(model), chat=model.chat)
    return Speaker(name=name, engine=served, rendering=rendering, context_tokens=model.context_tokens)


def _serving(kind: Generate, table: Role) -> Serving:
    """The settings of the role's engine: nothing of the stage's, as a role has devices of its own."""
    return Serving(
        model=Model.model_validate(
            table.model_dump(include={"path", "dtype", "context_tokens", "chat", "trust_remote_code"})
        ),
        engines=Engines(
            kind=kind.engine,
            tensor_parallel=table.tensor_parallel,
            max_sequences=kind.max_sequences,
            kv_cache_mib=kind.kv_cache_mib,
            gpu_memory_utilization=kind.gpu_memory_utilization,
        ),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Speaker:
    """Answers each question by itself; what was said before has to stand in it."""

    name: str
    engine: Engine
    rendering: Rendering
    context_tokens: int
    _numbers: Iterator[int] = field(default_factory=itertools.count, init=False)

    async def answer(self, route: str, question: bytes) -> Answer:
        """A completion, of ``chat/completions`` or ``completions``, whole and without a stream."""
        if route not in ("chat/completions", "completions"):
            return refusal(f"role '{self.name}' generates; ask it at /v1/chat/completions.", status=404)
        try:
            call = read_call(question, chat=route == "chat/completions", stops=())
            return await self._said(call, self._request(call, Sampled.model_validate_json(question)))
        except ValidationError as error:
            first = error.errors()[0]
            return refusal(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.")
        except RefusedCall as error:
            return refusal(str(error))

    async def close(self) -> None:
        """Stop the engine."""
        await self.engine.close()

    def _request(self, call: Call, sampled: Sampled) -> Request:
        if call.stream:
            raise RefusedCall(f"stream: role '{self.name}' answers as a whole; leave it out.")
        tokens, most = self.rendering.whole(call.context), call.most or MAX_TOKENS
        if tokens.size + most > self.context_tokens:
            raise RefusedCall(
                f"{tokens.size} tokens of the question and max_tokens = {most} of the answer do not fit "
                f"roles.{self.name}.context_tokens = {self.context_tokens}."
            )
        return Request(
            id=f"{self.name}-{next(self._numbers)}",
            tokens=tokens,
            max_tokens=most,
            temperature=sampled.temperature,
            seed=sampled.seed,
        )

    async def _said(self, call: Call, request: Request) -> Answer:
        said = await self.engine.generate(request)
        spoken = Spoken(exchange=self._exchange(said), read=int(request.tokens.size))
        return Answer(body=json.dumps(whole_reply(call, spoken, name=request.id)).encode())

    def _exchange(self, said: Completion) -> Exchange:
        text = self.rendering.tokenizer.decode(said.tokens)
        turn = Turn(text=text, tokens=int(said.tokens.size), finished=said.stop == "stop")
        return Exchange(said=said, turn=turn, reply=Reply(), heard=None)
