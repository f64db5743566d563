"""report.html: a page about a run, in one file that asks the network for nothing.

The page is markup, style and scripts from ``page/`` around the data of the run. Prompts and responses
are text of others: they reach the page as JSON without a single angle bracket, the scripts put them
there as text nodes, and the content security policy runs no script but ours.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

from llmrl.report.console import duration
from llmrl.report.journal import EvaluationEntry, number
from llmrl.report.story import StageStory, Story, read_story

FILE = "report.html"
SCRIPTS = ("dom.js", "chart.js", "curves.js", "samples.js", "recipe.js", "main.js")


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` into the folder of a run, even while it goes on.

    Raises:
        DataError: no run is in the folder, or a file in it is damaged.
    """
    path = run_folder / FILE
    half = path.with_suffix(".half")
    half.write_text(page(read_story(run_folder)), encoding="utf-8")
    os.replace(half, path)
    return path


def page(story: Story) -> str:
    """Render the page of a run."""
    style = _asset("page.css")
    script = "(() => {\n'use strict';\n" + "\n".join(_asset(name) for name in SCRIPTS) + "})();\n"
    policy = f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    return Template(_asset("page.html")).substitute(
        policy=html.escape(policy),
        name=html.escape(story.name),
        headline=_headline(story),
        facts=_facts(story),
        style=style,
        data=_data(story),
        script=script,
    )


def _asset(name: str) -> str:
    return (resources.files("llmrl.report") / "page" / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(story: Story) -> str:
    """Encode JSON that can neither end its element nor begin another."""
    text = json.dumps(_finite(asdict(story)), allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """Replace values that are not finite by null, as browsers read JSON."""
    match value:
        case dict():
            return {key: _finite(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
        case list() | tuple():
            return [_finite(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
        case float():
            return number(value)
        case _:
            return value


def _headline(story: Story) -> str:
    """The headline: accuracy of the last stage that was evaluated, else its reward or loss."""
    for stage in reversed(story.stages):
        if stage.evaluations:
            name = stage.evaluations[-1].name
            same = [entry for entry in stage.evaluations if entry.name == name]
            return _accuracy(stage, same[0], same[-1])
    stage = story.stages[-1]
    if stage.change is None:
        return _big("Nothing measured yet", "", "", f"stage {stage.name}, no step finished")
    what = "Mean reward" if stage.change.metric == "reward/mean" else "Loss"
    compared = f"first and last tenth of {stage.steps:,} steps" if stage.steps > 1 else "the only step so far"
    return _big(
        what, f"{stage.change.before:.3f}", f"{stage.change.after:.3f}", f"{compared}, stage {stage.name}"
    )


def _accuracy(stage: StageStory, before: EvaluationEntry, after: EvaluationEntry) -> str:
    details = (
        after.basis,
        f"stage {stage.name}, version {before.version} against version {after.version}",
    )
    return _big(f"{after.name} accuracy", f"{before.accuracy:.3f}", f"{after.accuracy:.3f}", *details)


def _big(what: str, before: str, after: str, *details: str) -> str:
    arrow = '<span class="arrow">&rarr;</span>' if after else ""
    return (
        f'<p class="what">{html.escape(what)}</p>'
        f'<p class="big"><span class="before">{before}</span>{arrow}<span class="after">{after}</span></p>'
        + "".join(f'<p class="detail">{html.escape(detail)}</p>' for detail in details)
    )


def _facts(story: Story) -> str:
    facts = {
        "time": duration(sum(stage.seconds for stage in story.stages)),
        "steps": f"{sum(stage.steps for stage in story.stages):,}",
        "trained tokens": rounded(sum(stage.tokens for stage in story.stages)),
        "responses": rounded(sum(stage.responses for stage in story.stages)),
    }
    if bound := next((stage.binding for stage in reversed(story.stages) if stage.binding), None):
        facts["binds"] = bound.part
        facts["idle: policy, engines"] = f"{bound.policy_idle:.0%}, {bound.engines_idle:.0%}"
    return "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts.items())


def rounded(value: float) -> str:
    """Format a count in three digits, with a letter for its size from 10 k on."""
    kept = float(f"{value:.3g}")  # the letter is that of the rounded value: 999,600 is 1 M
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if kept >= max(size, 1e4):
            return f"{kept / size:.3g} {letter}"
    return f"{value:,.0f}"
