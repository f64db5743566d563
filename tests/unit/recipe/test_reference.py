"""The page that the schema writes about itself."""

from __future__ import annotations

from pathlib import Path

from llmrl.recipe.reference import render_reference

PAGE = Path(__file__).resolve().parents[3] / "docs" / "recipe-reference.md"


def test_the_committed_reference_is_what_the_schema_says() -> None:
    assert PAGE.read_text() == render_reference(), (
        "run: .venv/bin/llmrl show --reference > docs/recipe-reference.md"
    )


def test_a_row_says_type_default_and_meaning() -> None:
    page = render_reference()

    assert "| `lr` | number > 0 | `1e-06` | Peak learning rate. |" in page
    assert (
        "| `steps` | integer > 0 | required | Steps of this stage; each trains on `prompts.per_step` groups "
        "and makes one weight version. |" in page
    )
    assert '| `offload` | `"none"`, `"cpu"`, `"nvme"` | `"none"` |' in page
    assert "| `betas` | array of 2 x number >= 0 and < 1 | `[0.9, 0.95]` | Adam's decay rates. |" in page


def test_every_table_has_a_section_and_shared_ones_are_described_once() -> None:
    page = render_reference()

    for heading in (
        "[run]",
        "[model.lora]",
        "[[prompts.sources]]",
        "[rewards.<name>]",
        "[objective]",
        "[report]",
    ):
        assert page.count(f"## `{heading}`\n") == 1
    assert "## `[[evaluation.sources]]`\n\nSources of held-out prompts" in page
    assert page.count("| `template` |") == 1
