"""What a stage leaves behind is whole, or known not to be."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from llmrl.cluster.actor import Actor
from llmrl.errors import DeadProcessError
from llmrl.report.card import FILE, has_card
from llmrl.run.crew import Crew
from llmrl.run.devices import OwnDevices
from llmrl.run.stage import _export


class DyingRank:
    """Dies in the middle of an export."""

    def send(self, method: str, folder: Path) -> DyingRank:
        assert method == "export"
        (folder / "model.safetensors").write_bytes(b"half of it")
        return self

    async def result(self, *, deadline_s: float) -> None:
        raise DeadProcessError("policy-0 died")


async def test_an_older_card_does_not_vouch_for_an_export_that_was_cut_short(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("# of an earlier export")
    crew = Crew(engines=(), ranks=[cast("Actor", DyingRank())], roles={}, devices=OwnDevices(), deadline_s=5)

    with pytest.raises(DeadProcessError):
        await _export(crew, tmp_path)

    assert not has_card(tmp_path)
