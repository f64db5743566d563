"""report.html is one file that asks for nothing, runs nothing of others, and shows what happened."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmrl.experience.experience import Experience
from llmrl.prompts.prompt import Prompt
from llmrl.report.html import rounded, write_report
from llmrl.report.journal import Journal, StepEntry
from llmrl.report.samples import write_samples
from llmrl.rewards.judgement import Judgement
from llmrl.rollouts.rollout import Rollout, RolloutGroup

ATTACK = "</script><img src=x onerror=\"document.title='owned'\"><!--<script>"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Tags(HTMLParser):
    """Every start tag of a page, with its attributes, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def attack(folder: Path) -> None:
    """Put the attack wherever a run lets others write: prompt, response, token, answer, note, part, stage."""
    prompt = Prompt(id=ATTACK, tokens=np.array([1], np.int32), text=ATTACK, answer=ATTACK, source=ATTACK)
    rollout = Rollout(
        tokens=np.array([1], np.int32), logp=np.zeros(1, np.float32), version=np.zeros(1, np.int32),
        trained=np.ones(1, np.bool_), turn=np.zeros(1, np.int32), stop="stop", text=ATTACK,
    )  # fmt: skip
    verdict = Judgement(status="score", reward=1.0, parts={ATTACK: 1.0}, note=ATTACK)
    experience = Experience(
        group=RolloutGroup(ordinal=1, prompt=prompt, rollouts=(rollout, replace(rollout))),
        judgements=(verdict, verdict),
        advantages=(np.ones(1, np.float32), -np.ones(1, np.float32)),
        lag=0,
    )
    write_samples(folder, step=999, experiences=[experience], decode=lambda _: ATTACK)
    with Journal(folder) as journal:
        metrics = {f"reward/part/{ATTACK}": 1.0}
        journal.step(StepEntry(stage=ATTACK, step=321, version=321, seconds=80, metrics=metrics))


def data_of(text: str) -> dict[str, Any]:
    (data,) = re.findall(r'<script type="application/json" id="story">(.*?)</script>', text)
    return json.loads(data)


def open_in_browser(page: Path, profile: Path) -> str:
    """The document after its scripts have run."""
    assert CHROMIUM is not None
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --dump-dom "
        "--virtual-time-budget=4000 --window-size=1280,2400"
    )
    command = [CHROMIUM, *flags.split(), f"--user-data-dir={profile}", f"file://{page}"]
    return subprocess.run(command, capture_output=True, check=True, timeout=120, text=True).stdout


def test_the_headline_is_the_accuracy_before_and_after(fake_run: Path) -> None:
    text = write_report(fake_run).read_text()

    assert (
        '<span class="before">0.379</span><span class="arrow">&rarr;</span><span class="after">0.979</span>'
        in text
    )
    assert "n = 512, 95 % 0.962-0.988" in text
    assert "<dt>steps</dt><dd>380</dd>" in text
    assert "<dt>responses</dt><dd>41 k</dd>" in text


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (9_990, "9,990"),
        (41_234, "41.2 k"),
        (999_499, "999 k"),
        (999_600, "1 M"),
        (999_999_999, "1 G"),
        (1.5e12, "1.5 T"),
    ],
)
def test_a_count_has_the_letter_of_what_is_shown(count: float, said: str) -> None:
    assert rounded(count) == said


def test_nothing_is_fetched_and_only_our_script_may_run(fake_run: Path) -> None:
    text = write_report(fake_run).read_text()

    tags = Tags(text).found
    (policy,) = [attributes["content"] for _, attributes in tags if "http-equiv" in attributes]
    links = [a.get("src") or a.get("href") for _, a in tags if a.get("src") or a.get("href")]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert links == ["data:,", "#summary", "#curves", "#samples", "#recipe"]
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|\beval\(|fetch\(|XMLHttp", text)


def test_text_of_others_cannot_become_markup(fake_run: Path) -> None:
    before = [tag for tag, _ in Tags(write_report(fake_run).read_text()).found]
    attack(fake_run / "1-grpo")

    text = write_report(fake_run).read_text()

    assert [tag for tag, _ in Tags(text).found] == before
    assert ATTACK in data_of(text)["excerpts"]["strings"]


def test_a_run_folder_with_a_hostile_name_is_only_text(fake_run: Path) -> None:
    folder = fake_run.rename(fake_run.parent / "<img src=x onerror=alert(1)>")

    text = write_report(folder).read_text()

    assert "img" not in [tag for tag, _ in Tags(text).found]
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def test_a_run_without_evaluations_shows_its_reward(fake_run: Path) -> None:
    journal = fake_run / "1-grpo" / "metrics.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in lines if '"evaluation"' not in line))

    text = write_report(fake_run).read_text()

    assert '<p class="what">Mean reward</p>' in text
    assert "first and last tenth of 320 steps, stage 1-grpo" in text


def test_a_run_that_has_only_begun_has_a_report(tmp_path: Path) -> None:
    Journal(tmp_path / "0-sft").close()

    text = write_report(tmp_path).read_text()

    assert "Nothing measured yet" in text


def test_numbers_that_are_not_finite_do_not_break_the_page(tmp_path: Path) -> None:
    with Journal(tmp_path / "0-sft") as journal:
        metrics = {"policy/loss": float("nan"), "policy/grad_norm": float("inf")}
        journal.step(StepEntry(stage="sft", step=1, version=1, seconds=float("nan"), metrics=metrics))

    story = data_of(write_report(tmp_path).read_text())

    assert story["stages"][0]["curves"]["metrics"]["policy/loss"]["mean"] == [None]


def test_a_long_run_makes_a_small_page(tmp_path: Path) -> None:
    with Journal(tmp_path / "0-grpo") as journal:
        for step in range(1, 5001):
            metrics = {"reward/mean": step / 5000, "policy/entropy": 1.0}
            journal.step(StepEntry(stage="grpo", step=step, version=step, seconds=step, metrics=metrics))

    path = write_report(tmp_path)

    curve = data_of(path.read_text())["stages"][0]["curves"]["metrics"]["reward/mean"]
    assert len(curve["mean"]) == 500
    assert curve["mean"][-1] == pytest.approx(np.mean(np.arange(4991, 5001)) / 5000, rel=1e-4)
    assert path.stat().st_size < 200_000


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page")
def test_a_browser_draws_the_page_and_runs_no_script_of_others(fake_run: Path, tmp_path: Path) -> None:
    attack(fake_run / "1-grpo")

    shown = open_in_browser(write_report(fake_run), tmp_path / "profile")

    assert "data-ready" in shown[:400]  # set by the last line of the script
    assert "<title>digit-sum - llmrl</title>" in shown
    assert "<img" not in shown
    assert shown.count('<svg class="chart"') >= 13
    assert "&lt;/script&gt;&lt;img src=x onerror=" in shown  # the response, as text
    assert 'class="setting chosen"' in shown


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed to open the page")
def test_a_browser_draws_a_run_that_has_only_begun(tmp_path: Path) -> None:
    Journal(tmp_path / "run" / "0-sft").close()

    shown = open_in_browser(write_report(tmp_path / "run"), tmp_path / "profile")

    assert "data-ready" in shown[:400]
    assert "No step has been finished yet." in shown
    assert "This run wrote no samples" in shown
