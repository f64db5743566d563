"""An OpenAI-compatible server on this machine, through which agents with a key call the policy."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from llmrl.rollouts.agents.calls import AgentCalls
from llmrl.rollouts.agents.contexts import RefusedCall
from llmrl.rollouts.agents.wire import error_reply, read_call, streamed_reply, whole_reply

BODY_BYTES = 64 * 2**20
"""Largest body of a call; a context of a million tokens is about 4 MiB."""


@dataclass(slots=True, kw_only=True, eq=False)
class Endpoint:
    """A server for this machine alone. Every rollout has a key, so a call is never another rollout's."""

    stops: Sequence[str] = ()
    """Texts that end a response, ``rollouts.stop``."""
    url: str = ""
    """Base URL for agents; known after ``start``."""
    _calls: dict[str, AgentCalls] = field(default_factory=dict[str, AgentCalls])
    _runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen on a free port of the loopback interface."""
        app = web.Application(client_max_size=BODY_BYTES)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._text)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def close(self) -> None:
        """Stop answering."""
        for calls in self._calls.values():
            calls.end()
        if self._runner is not None:
            await self._runner.cleanup()

    @contextmanager
    def admitted(self, calls: AgentCalls) -> Generator[str]:
        """Issue a key with which ``calls`` are made until the block ends."""
        key = f"llmrl-{secrets.token_urlsafe(32)}"
        self._calls[key] = calls
        try:
            yield key
        finally:
            del self._calls[key]
            calls.end()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=True)

    async def _text(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, chat=False)

    async def _answer(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        calls = self._of(request)
        if calls is None:
            return _refused()
        try:
            call = read_call(await request.read(), chat=chat, stops=self.stops)
            answer = await calls.answer(call.context, most=call.most)
        except RefusedCall as error:
            return web.json_response(error_reply(str(error), code=error.code), status=400)
        if call.stream:
            events = "".join(streamed_reply(call, answer, name=calls.name))
            return web.Response(text=events, content_type="text/event-stream")
        return web.json_response(whole_reply(call, answer, name=calls.name))

    async def _models(self, request: web.Request) -> web.StreamResponse:
        if self._of(request) is None:
            return _refused()
        policy = {"id": "policy", "object": "model", "created": 0, "owned_by": "llmrl"}
        return web.json_response({"object": "list", "data": [policy]})

    def _of(self, request: web.Request) -> AgentCalls | None:
        return self._calls.get(request.headers.get("Authorization", "").removeprefix("Bearer "))


def _refused() -> web.Response:
    reason = "no rollout under way has this key; use the api_key that this rollout was given."
    return web.json_response(error_reply(reason, code="invalid_api_key"), status=401)
