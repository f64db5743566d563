"""What people read while a run goes on, and the sentence at its end."""

from __future__ import annotations

import io

import pytest
import rich.console

from llmrl.report.console import ConsoleReport, duration, final_line
from llmrl.report.journal import EvaluationEntry, StepEntry


def an_evaluation(accuracy: float, low: float, high: float, **pass_at: float) -> EvaluationEntry:
    return EvaluationEntry(
        stage="grpo", step=0, version=0, name="held-out", correct=211, n=512,
        accuracy=accuracy, low=low, high=high,
        pass_at_k={int(k[1:]): value for k, value in pass_at.items()}, tokens_mean=30,
    )  # fmt: skip


def a_step(step: int, **more: float) -> StepEntry:
    metrics = {
        "reward/mean": 0.4123, "policy/entropy": 0.3, "lag/mean": 0.5, "time/step": 0.5,
        "rollout/tokens_per_second": 12345.6,
    }  # fmt: skip
    return StepEntry(stage="grpo", step=step, version=step, seconds=0.5 * step, metrics={**metrics, **more})


def plain() -> tuple[ConsoleReport, io.StringIO]:
    out = io.StringIO()
    return ConsoleReport(rich.console.Console(file=out, width=40, force_terminal=False)), out


def test_one_aligned_line_per_step_however_narrow_the_terminal() -> None:
    report, out = plain()

    with report:
        report.stage("grpo", steps=100)
        report.step(a_step(1))
        report.evaluation(an_evaluation(0.412, 0.370, 0.455))
        report.step(a_step(21))

    assert out.getvalue().splitlines() == [
        "stage grpo: 100 steps",
        "step   1/100  reward  0.412  entropy 0.300  lag 0.50   12,346 tokens/s    0.50 s",
        "held-out accuracy 0.412 (n = 512, 95 % 0.370-0.455) at version 0",
        "step  21/100  reward  0.412  accuracy 0.412  entropy 0.300  lag 0.50   12,346 tokens/s    0.50 s"
        "  40 s left",
    ]


def test_a_stage_without_rewards_shows_its_loss() -> None:
    report, out = plain()

    report.stage("sft", steps=5, done=2)
    metrics = {"policy/loss": 1.25, "policy/tokens_per_second": 900.0}
    report.step(StepEntry(stage="sft", step=3, version=3, seconds=1, metrics=metrics))

    assert out.getvalue().splitlines() == [
        "stage sft: 5 steps, going on after step 2",
        "step 3/5  loss  1.2500      900 tokens/s",
    ]


def test_markup_in_a_text_of_others_means_nothing() -> None:
    report, out = plain()

    report.note("answer [bold]4[/bold] [/]")

    assert out.getvalue() == "answer [bold]4[/bold] [/]\n"


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    out = io.StringIO()
    console = rich.console.Console(file=out, width=120, force_terminal=True, color_system=None)

    with ConsoleReport(console) as report:
        report.stage("grpo", steps=10)
        report.step(a_step(4))
        report.step(a_step(8))

    written = out.getvalue()
    assert "8/10" in written
    assert "1 s left" in written
    assert written.count("step  4/10") == 1
    assert written.rstrip().endswith("\x1b[2K")


def test_pass_at_k_stands_beside_the_accuracy() -> None:
    report, out = plain()

    report.evaluation(an_evaluation(0.5, 0.4, 0.6, k1=0.5, k8=0.875))

    assert (
        out.getvalue() == "held-out accuracy 0.500 (n = 512, 95 % 0.400-0.600), pass@8 0.875 at version 0\n"
    )


def test_the_final_line() -> None:
    before, after = an_evaluation(0.40625, 0.36, 0.45), an_evaluation(0.984375, 0.9696, 0.992)

    line = final_line(before, after, 151.2)

    assert line == "held-out accuracy 0.406 -> 0.984 (n = 512, 95 % 0.970-0.992), 2 min 31 s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (151.2, "2 min 31 s"),
        (3599.7, "1 h 0 min"),
        (11100, "3 h 5 min"),
    ],
)
def test_durations_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
