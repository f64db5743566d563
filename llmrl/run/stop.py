"""SIGTERM: finish the step, save, and leave; the run goes on later with ``--resume``."""

from __future__ import annotations

import asyncio
import signal


class StopRequest:
    """Whether somebody asked the run to end."""

    def __init__(self) -> None:
        self.made = False

    def listen(self) -> None:
        """Take SIGTERM from now on; called after Ray has started, which installs handlers of its own."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._make)

    def _make(self) -> None:
        self.made = True
