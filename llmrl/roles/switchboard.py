"""One server in each process that asks roles: it forwards their questions to the roles' processes."""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aiohttp import web

from llmrl.errors import DeadlineError, DeadProcessError, LlmrlError
from llmrl.roles.role import Answer, refusal

_log = logging.getLogger(__name__)

QUESTION_BYTES = 16 * 2**20
"""Bytes of the largest question."""


class Member(Protocol):
    """A handle on one process of a role."""

    name: str

    async def call(self, method: str, *args: Any, deadline_s: float) -> Any:
        """Call a method of its RoleWorker."""
        ...


@dataclass(slots=True, kw_only=True, eq=False)
class Switchboard:
    """A server for this machine alone, at an address that cannot be guessed."""

    url: str = ""
    """URL of all roles; known after ``open``, before any role is connected."""
    _members: dict[str, list[Member]] = field(default_factory=dict[str, list[Member]])
    _last_words: dict[str, str] = field(default_factory=dict[str, str])
    """Error of the last process that died, by role."""
    _deadline_s: float = 0.0
    _under_way: Counter[str] = field(default_factory=Counter[str])
    _runner: web.AppRunner | None = None

    async def open(self) -> None:
        """Listen on a free port of the loopback interface."""
        key = secrets.token_urlsafe(16)
        app = web.Application(client_max_size=QUESTION_BYTES)
        app.router.add_post(f"/{key}/{{role}}/v1/{{route:.+}}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/{key}"

    def connect(self, members: Mapping[str, Sequence[Member]], *, deadline_s: float) -> None:
        """Forward questions to these processes from now on, by the name of their role."""
        self._members = {role: list(processes) for role, processes in members.items()}
        self._deadline_s = deadline_s

    def disconnect(self) -> None:
        """Stop asking processes; a waiting caller is refused when its process ends."""
        self._members = {}

    async def close(self) -> None:
        """Stop answering."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        role, route = request.match_info["role"], request.match_info["route"]
        answer = await self._put_through(role, route, await request.read())
        return web.Response(status=answer.status, body=answer.body, content_type="application/json")

    async def _put_through(self, role: str, route: str, question: bytes) -> Answer:
        """Ask the process with the least to do; if it fails, the next."""
        reason = self._last_words.get(role, f"role '{role}' has no process now.")
        asked = set[str]()
        while left := [one for one in self._members.get(role, ()) if one.name not in asked]:
            member = min(left, key=lambda one: self._under_way[one.name])
            asked.add(member.name)
            self._under_way[member.name] += 1
            try:
                return await member.call("answer", route, question, deadline_s=self._deadline_s)
            except DeadlineError as error:
                return refusal(str(error), status=504)
            except LlmrlError as error:
                reason = str(error).partition("\n")[0]
                if isinstance(error, DeadProcessError):
                    self._lose(member, role, reason)
            finally:
                self._under_way[member.name] -= 1
        return refusal(reason, status=503)

    def _lose(self, member: Member, role: str, reason: str) -> None:
        members = self._members.get(role, [])
        if member in members:
            members.remove(member)
            self._last_words[role] = reason
            _log.warning("role '%s' goes on with %d processes: %s", role, len(members), reason)
