"""Trackers: accelerate's loggers by name, each in a thread of its own that can never stop the run."""

from __future__ import annotations

import importlib.util
import logging
import math
import queue
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from llmrl.errors import RecipeError, did_you_mean, shown

log = logging.getLogger(__name__)

# A literal, because accelerate's own table costs an import of torch; a test compares the two.
# Each is also the name of the package that accelerate then needs.
KNOWN = ("aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "tensorboard", "trackio", "wandb")

BACKLOG = 10_000
"""Number of points that may wait for a slow tracker before points are dropped."""

GRACE_S = 20.0
"""Longest wait for a tracker to finish at the end of a run."""


def check_trackers(names: Iterable[str], *, key: str = "report.trackers") -> None:
    """Refuse trackers that cannot be used, without importing anything.

    Raises:
        RecipeError: an unknown name, or a package that is not installed.
    """
    for name in names:
        if name not in KNOWN:
            raise RecipeError(f"{key}: no tracker named {shown(name)}.{did_you_mean(name, KNOWN)}")
        if importlib.util.find_spec(name) is None:
            install = f"pip install {name.replace('_', '-')}"
            raise RecipeError(
                f"{key}: the package of '{name}' is not installed; run '{install}' or remove the name."
            )


class Trackers:
    """All trackers of a run. TensorBoard writes to ``folder/tensorboard/run_name``."""

    def __init__(
        self, names: Iterable[str], *, run_name: str, folder: Path, options: Mapping[str, object]
    ) -> None:
        """Start the trackers.

        Args:
            folder: folder for trackers with files, which go into ``folder/<name of the tracker>``.
            options: the recipe, which a tracker shows as the run's configuration.
        """
        self._threads = [
            _Tracker(name, run_name=run_name, folder=folder / name, options=options) for name in names
        ]
        self._newest = 0

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Hand over the numbers of one step and return at once; values that are not finite are left out.

        Numbers that arrive after those of a newer step, as of a slow evaluation, are logged with the newer
        step: some trackers drop steps that go back.
        """
        self._newest = max(self._newest, step)
        values = {name: float(value) for name, value in metrics.items() if math.isfinite(value)}
        for tracker in self._threads:
            tracker.put(values, self._newest)

    def close(self) -> None:
        """Wait a while for the points that are still to be sent."""
        for tracker in self._threads:
            tracker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Tracker:
    """One tracker and its thread: a slow or failing service costs points, never time."""

    def __init__(self, name: str, *, run_name: str, folder: Path, options: Mapping[str, object]) -> None:
        self._name, self._run_name, self._folder, self._options = name, run_name, folder, options
        self._points: queue.Queue[tuple[dict[str, float], int] | None] = queue.Queue(BACKLOG)
        self._alive = True
        self._thread = threading.Thread(target=self._run, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def put(self, values: dict[str, float], step: int) -> None:
        if not self._alive:
            return
        try:
            self._points.put_nowait((values, step))
        except queue.Full:
            self._disable(f"it is {BACKLOG} points behind")

    def close(self) -> None:
        if not self._alive:
            return
        try:
            self._points.put_nowait(None)
        except queue.Full:
            self._disable(f"it is {BACKLOG} points behind")
            return
        self._thread.join(GRACE_S)
        if self._thread.is_alive():
            self._disable(f"it did not finish within {GRACE_S:.0f} s")

    def _run(self) -> None:
        try:
            tracker = _start(self._name, run_name=self._run_name, folder=self._folder, options=self._options)
            while self._alive and (point := self._points.get()) is not None:
                values, step = point
                tracker.log(values, step=step)
            tracker.finish()
        except Exception as error:  # noqa: BLE001  a tracker is foreign code, and the run goes on without it
            self._disable(f"{type(error).__name__}: {error}")

    def _disable(self, why: str) -> None:
        if self._alive:
            self._alive = False
            log.warning("Tracker '%s' is switched off for the rest of the run: %s", self._name, why)


def _start(name: str, *, run_name: str, folder: Path, options: Mapping[str, object]) -> Any:
    from accelerate import PartialState  # noqa: PLC0415  imports torch, which the driver can do without
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS  # noqa: PLC0415

    PartialState(cpu=True)  # accelerate's loggers refuse to speak without it
    tracker_class: Any = LOGGER_TYPE_TO_CLASS[name]
    if tracker_class.requires_logging_directory:
        folder.mkdir(parents=True, exist_ok=True)
        tracker = tracker_class(run_name, folder)
    else:
        tracker = tracker_class(run_name)
    tracker.start()
    tracker.store_init_configuration(_flat(options))
    return tracker


def _flat(options: Mapping[str, object], prefix: str = "") -> dict[str, str | int | float | bool]:
    """Flatten to dotted keys with plain values, the only ones that every tracker takes."""
    flat: dict[str, str | int | float | bool] = {}
    for key, value in options.items():
        match value:
            case Mapping():
                flat |= _flat(value, f"{prefix}{key}.")  # pyright: ignore[reportUnknownArgumentType]
            case bool() | int() | float() | str():
                flat[prefix + key] = value
            case _:
                flat[prefix + key] = str(value)
    return flat
