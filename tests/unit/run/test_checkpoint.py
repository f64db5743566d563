"""A checkpoint is whole or it does not exist, and damage is named."""

from __future__ import annotations

import errno
import logging
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from llmrl.errors import CheckpointError
from llmrl.recipe.tables import Tree
from llmrl.run.checkpoint import Checkpoint, Checkpoints, RunState, read_state, verify
from llmrl.run.ledger import Snapshot

TABLES: Tree = {"objective": {"name": "grpo", "options": {}}, "optimizer": {"steps": 3, "lr": 1e-3}}
STATE = RunState(
    step=3, ledger=Snapshot(cursor=9, unfinished=(7,)), memory={"q": [0.5]}, data="d1", tables=TABLES
)


def saved(checkpoints: Checkpoints, step: int, *, ranks: int = 1) -> Path:
    path = checkpoints.begin(step)
    (path / "zero").mkdir()
    (path / "zero" / "rank0.bin").write_bytes(bytes(range(256)) * 4)
    (path / "rng-0.npz").write_bytes(b"random")
    written = [path / f"rng-{rank}.npz" for rank in range(ranks)]
    return checkpoints.commit(path, replace(STATE, step=step), written=written)


def test_what_is_committed_is_read_back(tmp_path: Path) -> None:
    path = saved(Checkpoints(tmp_path, keep=2), 3)

    assert path.name == "step-000003"
    assert read_state(path) == STATE


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        saved(checkpoints, step)

    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000002", "step-000003"]


def test_a_save_that_did_not_finish_is_swept_away_by_the_next_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    good = saved(checkpoints, 1)
    (checkpoints.begin(2) / "half").write_text("x")

    again = Checkpoints(tmp_path, keep=2)
    assert again.newest() == Checkpoint(path=good, state=read_state(good))
    assert [path.name for path in tmp_path.glob(".tmp-*")] == [".tmp-step-000002"]  # looking changes nothing

    saved(again, 2)
    assert not list(tmp_path.glob(".tmp-*"))


def test_an_old_one_that_cannot_be_deleted_yet_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    with monkeypatch.context() as held:
        held.setattr(shutil, "rmtree", busy)  # as NFS says of a folder with a file that an export reads
        for step in (1, 2, 2, 3):
            saved(checkpoints, step)

    assert "cannot be deleted yet" in caplog.text
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-000003"]
    assert len(list(tmp_path.glob(".del-*"))) == 3
    saved(checkpoints, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000004"]


def busy(path: Path) -> None:
    raise OSError(errno.EBUSY, "Device or resource busy", str(path))


def test_what_was_passed_over_takes_no_place_of_what_follows(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    good = saved(checkpoints, 2)
    kept = good.rename(tmp_path / "aside")
    (saved(checkpoints, 9) / "rng-0.npz").write_bytes(b"damaged")
    kept.rename(good)

    assert checkpoints.newest() == Checkpoint(path=good, state=read_state(good))
    later = saved(checkpoints, 4)

    assert [path.name for path in sorted(tmp_path.glob("step-*"))] == [later.name]


def test_what_a_rank_wrote_elsewhere_is_no_checkpoint_and_replaces_none(tmp_path: Path) -> None:
    good = saved(Checkpoints(tmp_path, keep=1), 1)

    with pytest.raises(CheckpointError, match=r"the files of rank 1 of 2 are not here.*run\.folder must be"):
        saved(Checkpoints(tmp_path, keep=1), 2, ranks=2)

    assert Checkpoints(tmp_path, keep=1).newest() == Checkpoint(path=good, state=read_state(good))


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "add", "manifest"])
def test_any_damage_is_found_named_and_passed_over(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    good, bad = saved(checkpoints, 1), saved(checkpoints, 2)
    shard = bad / "zero" / "rank0.bin"
    content = bytearray(shard.read_bytes())
    if damage == "flip":
        content[100] ^= 1
        shard.write_bytes(content)
    elif damage == "truncate":
        shard.write_bytes(content[:-1])
    elif damage == "delete":
        shard.unlink()
    elif damage == "add":
        (bad / "zero" / "stranger").write_text("")
    else:
        (bad / "MANIFEST.json").unlink()

    with caplog.at_level(logging.WARNING):
        newest = checkpoints.newest()

    assert newest is not None
    assert newest.path == good
    assert "step-000002" in caplog.text
    with pytest.raises(CheckpointError, match=r"rank0\.bin|stranger|MANIFEST"):
        verify(bad)


def test_a_file_that_goes_while_it_is_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(file: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), file)

    path = saved(Checkpoints(tmp_path, keep=2), 1)
    monkeypatch.setattr("llmrl.run.checkpoint.described", gone)

    with pytest.raises(
        CheckpointError, match=r"step-000001: rng-0\.npz was removed or cannot be read \(No such file"
    ):
        verify(path)


def test_a_run_never_starts_over_silently_when_every_checkpoint_is_damaged(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    (saved(checkpoints, 1) / "MANIFEST.json").write_text("{}")

    with pytest.raises(CheckpointError, match="none of 1 checkpoints is intact; use --fresh"):
        checkpoints.newest()
