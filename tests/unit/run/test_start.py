"""What a run makes of the tables of its recipe before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrl.recipe.schema import Model, Role
from llmrl.run.start import _found

FOLDER = Path("/snapshots/abc")


@pytest.mark.parametrize(
    "table",
    [
        Model(path="org/model", trust_remote_code="org/model"),
        Role(kind="classifier", path="org/model", trust_remote_code="org/model"),
    ],
)
def test_who_trusts_the_code_of_a_model_trusts_it_where_it_was_found(table: Model | Role) -> None:
    found = _found(table, FOLDER)

    assert found.path == found.trust_remote_code == str(FOLDER)


@pytest.mark.parametrize("trusted", [None, "org/other"])
def test_no_other_code_is_trusted_because_of_a_folder(trusted: str | None) -> None:
    assert _found(Model(path="org/model", trust_remote_code=trusted), FOLDER).trust_remote_code is None
