"""The process around one model of a role: questions in, answers out."""

from __future__ import annotations

from collections.abc import Sequence

from llmrl.recipe.schema import Stage
from llmrl.registry import load_plugins
from llmrl.roles import kinds as _kinds  # registers the built-in kinds
from llmrl.roles.role import Answer, Role, role

del _kinds


class RoleWorker:
    """Owns one model. A plain class: ``cluster.spawn`` makes it an actor, tests call it as it is."""

    def __init__(self, stage: Stage, name: str, device: str, plugins: Sequence[str] = ()) -> None:
        self._stage, self._name, self._device, self._plugins = stage, name, device, plugins
        self._role: Role | None = None

    async def start(self) -> None:
        """Load the model."""
        load_plugins(self._plugins)
        table = self._stage.roles[self._name]
        kind = role.build(table.kind, table.options, key=f"roles.{self._name}")
        self._role = await kind.start(self._stage, self._name, device=self._device)

    async def answer(self, route: str, question: bytes) -> Answer:
        """Answer one question, or refuse it with a reason."""
        assert self._role is not None, "start() comes first"
        return await self._role.answer(route, question)

    async def close(self) -> None:
        """Stop the model."""
        if self._role is not None:
            await self._role.close()
