"""A small recipe that is right, for tests that make it wrong or look at it."""

from __future__ import annotations

from pathlib import Path

import pytest

GOOD = """\
[model]
config = { model_type = "qwen3", hidden_size = 64 }
characters = "0123456789+=,#"
context_tokens = 128

[prompts]
per_step = 32
max_tokens = 32

[[prompts.sources]]
task = "digit_sum"
rows = 2000
options = { digits_min = 3 }

[rollouts]
per_prompt = 8
max_tokens = 64

[rewards.correct]
kind = "number"
weight = 1.0

[objective]
name = "grpo"
options = { clip_high = 0.3 }

[optimizer]
steps = 100
lr = 1e-3

[evaluation]
every_steps = 40

[[evaluation.sources]]
task = "digit_sum"
rows = 200
skip = 2000
options = { digits_min = 3 }
"""

STAGES = """
[[stages]]
name = "warm"
objective.name = "sft"
optimizer.steps = 50

[[stages]]
name = "rl"
"""


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """A recipe of one stage."""
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    return path


@pytest.fixture
def staged(tmp_path: Path) -> Path:
    """The same tables shared by two stages."""
    path = tmp_path / "staged.toml"
    path.write_text(GOOD + STAGES)
    return path
