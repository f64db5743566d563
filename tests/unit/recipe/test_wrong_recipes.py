"""Every wrong recipe of the corpus is refused in exactly the words that stand in its first comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.errors import RecipeError
from llmrl.recipe.checks import check_recipe
from llmrl.recipe.load import load_recipe

CORPUS = sorted((Path(__file__).parents[2] / "corpus" / "recipes").glob("*.toml"))


def test_the_corpus_is_there() -> None:
    assert len(CORPUS) >= 100


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_a_wrong_recipe_is_refused_in_full_sentences(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    comments = [line.removeprefix("# ") for line in path.read_text().splitlines() if line.startswith("# ")]
    overrides = [c.removeprefix("override: ") for c in comments if c.startswith("override: ")]
    expected = [
        f"{path}: {c.removeprefix('expect: ')}".replace("{cwd}", str(tmp_path))
        for c in comments
        if c.startswith("expect: ")
    ]

    with pytest.raises(RecipeError) as refusal:
        check_recipe(load_recipe(path, overrides))

    for said, line in zip(str(refusal.value).splitlines(), expected, strict=True):
        # What is registered grows, so the list of a registry's names is left open as "Known: ...".
        assert said.startswith(line.removesuffix("...")) if line.endswith("Known: ...") else said == line
        assert said.endswith((".", "?"))
