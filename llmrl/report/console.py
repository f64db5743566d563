"""The console: one line per step, a live bar on a terminal, and the sentence that ends a run."""

from __future__ import annotations

from collections import deque
from typing import Self

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from llmrl.report.journal import EvaluationEntry, StepEntry

WINDOW = 20
"""Number of steps whose mean duration predicts the time left."""


class ConsoleReport:
    """Prints a run as it happens: coloured with a live bar on a terminal, plain aligned lines elsewhere."""

    def __init__(self, console: rich.console.Console | None = None) -> None:
        self._console = console or rich.console.Console(highlight=False, emoji=False)
        self._progress: Progress | None = None
        self._bar = TaskID(0)
        self._steps = 0
        self._accuracy: float | None = None
        self._clock: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)

    def stage(self, name: str, *, steps: int, done: int = 0) -> None:
        """Begin a stage of ``steps`` steps, of which ``done`` were taken before a restart."""
        self.close()
        self._steps, self._accuracy = steps, None
        self._clock.clear()
        self.note(f"stage {name}: {steps} steps" + (f", going on after step {done}" if done else ""))
        if self._console.is_terminal:
            name_column, left_column = TextColumn("{task.description}"), TextColumn("{task.fields[left]}")
            columns = (name_column, BarColumn(), MofNCompleteColumn(), left_column)
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._bar = self._progress.add_task(name, total=steps, completed=done, left="")
            self._progress.start()

    def step(self, entry: StepEntry) -> None:
        """Print one step."""
        self._clock.append((entry.step, entry.seconds))
        left = self._left(entry.step)
        self._print(self._line(entry, left))
        if self._progress is not None:
            self._progress.update(self._bar, completed=entry.step, left=left)

    def evaluation(self, entry: EvaluationEntry) -> None:
        """Print one evaluation."""
        self._accuracy = entry.accuracy
        others = "".join(f", pass@{k} {value:.3f}" for k, value in entry.pass_at_k.items() if k > 1)
        result = f"{entry.name} accuracy {_with_interval(entry)}{others} at version {entry.version}"
        self._print(Text(result, style="bold"))

    def note(self, text: str) -> None:
        """Print a sentence in between; markup in it is printed as it is."""
        self._print(Text(text))

    def close(self) -> None:
        """Remove the bar; what was printed stays."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print(self, text: Text) -> None:
        self._console.print(text, soft_wrap=True)

    def _left(self, step: int) -> str:
        (first, began), (last, now) = self._clock[0], self._clock[-1]
        if last == first or step >= self._steps:
            return ""
        return f"{duration((now - began) / (last - first) * (self._steps - step))} left"

    def _line(self, entry: StepEntry, left: str) -> Text:
        get = entry.metrics.get
        width = len(str(self._steps))
        line = Text(f"step {entry.step:>{width}}/{self._steps}", style="bold")
        for label, value, form in (
            ("reward", get("reward/mean"), "6.3f"),
            ("loss", get("policy/loss") if "reward/mean" not in entry.metrics else None, "7.4f"),
            ("accuracy", self._accuracy, "5.3f"),
            ("entropy", get("policy/entropy"), "5.3f"),
            ("lag", get("lag/mean"), "4.2f"),
        ):
            if value is not None:
                line.append(f"  {label} ", style="not bold dim").append(f"{value:{form}}", style="not bold")
        rate = get("rollout/tokens_per_second", get("policy/tokens_per_second"))
        took = get("time/step")
        tail = [
            f"{rate:>7,.0f} tokens/s" if rate is not None else "",
            f"{took:6.2f} s" if took is not None else "",
            left,
        ]
        return line.append("".join(f"  {part}" for part in tail if part), style="not bold")


def final_line(before: EvaluationEntry, after: EvaluationEntry, seconds: float) -> str:
    """The last line of a run: its effect on the held-out accuracy, and how long that took.

    The interval is that of ``after``.
    """
    return f"held-out accuracy {before.accuracy:.3f} -> {_with_interval(after)}, {duration(seconds)}"


def _with_interval(entry: EvaluationEntry) -> str:
    return f"{entry.accuracy:.3f} ({entry.basis})"


def duration(seconds: float) -> str:
    """Format seconds as ``47 s``, ``2 min 31 s`` or ``3 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
