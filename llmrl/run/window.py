"""The lag window: which of the groups that are done a step may take, so that none ever comes too late.

Every group has a deadline: the last step that may train on it, ``max_lag`` after the version that engines
served when it was drawn. Steps take groups as they are done, in whatever order they were drawn, but only
while the room that remains until every deadline suffices for those that are still to come (earliest deadline
first, as in the scheduling of real-time tasks: Liu and Layland 1973). A straggler is therefore waited for
only when the step could not otherwise keep its promise to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True, kw_only=True)
class Window:
    """The groups under way, by ordinal, with the step at which each is due."""

    per_step: int
    max_lag: int
    spare: int = 0
    """Groups beyond those that the steps within the window can train on; as many may have to be dropped."""
    due: dict[int, int] = field(default_factory=dict[int, int])

    @property
    def room(self) -> int:
        """Number of groups that may be under way at once, from their draw until their weights are served."""
        return (self.max_lag + 1) * self.per_step + self.spare

    def draw(self, ordinal: int, *, version: int) -> None:
        """Add a group whose tokens will be of ``version`` or newer."""
        self.due[ordinal] = version + self.max_lag

    def finish(self, ordinal: int, *, oldest: int | None) -> None:
        """Mark the group as done; its oldest token, if it has one, may be newer than it had to be."""
        if oldest is not None:
            self.due[ordinal] = max(self.due[ordinal], oldest + self.max_lag)

    def leave(self, ordinal: int) -> None:
        """Remove a group that was taken, refused or dropped."""
        del self.due[ordinal]

    def choose(self, done: Iterable[int], *, step: int, left: int) -> int | None:
        """The group that the step takes next, or None if it must wait for another one.

        Args:
            done: groups that may be taken, in the order in which they were done.
            left: groups that the step still needs, this one included.
        """
        first = min(done, key=self.due.__getitem__, default=None)
        return first if first is not None and self._leaves_room(self.due[first], step, left) else None

    def late(self, *, step: int) -> list[int]:
        """Groups that no step after ``step`` may train on."""
        return [ordinal for ordinal, due in self.due.items() if due <= step]

    def _leaves_room(self, due: int, step: int, left: int) -> bool:
        """Whether the groups that are due earlier still fit if this step gives one place away."""
        places = left - 1 + self.spare
        return all(
            sum(other <= by for other in self.due.values()) <= places + self.per_step * (by - step)
            for by in range(step, due)
        )
