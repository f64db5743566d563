"""Rates that were measured on a machine, as a small JSON file that later plans read."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

from llmrl.errors import DataError, shown
from llmrl.plan.hardware import Device
from llmrl.plan.rates import Rates

FILE = Path("llmrl-calibration.json")
"""Read by default, from the folder where ``llmrl`` is started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was measured, with which device and dtype; its numbers replace those of ``Rates``."""

    device: str
    dtype: str
    said: str
    """When, and with which model."""
    read: float
    decode: float
    step_s: float
    sequence_s: float
    cache: float
    prefill: float
    train: float
    score: float
    update_s: float
    sync_s: float
    contention: float

    def write(self, file: Path) -> None:
        """Write the calibration as JSON."""
        file.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def check_place(file: Path) -> None:
    """Refuse a file that cannot be written before minutes are spent on what goes into it.

    Raises:
        DataError: its folder is not here, or may not be written to.
    """
    if file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise DataError(
            f"--calibration: {shown(str(file))} cannot be written; name a file in a folder that is here and "
            "may be written to."
        )


def read_calibration(file: Path) -> Calibration:
    """Read what ``Calibration.write`` wrote.

    Raises:
        DataError: it is not that.
    """
    try:
        written = json.loads(file.read_text(encoding="utf-8"))
        return Calibration(**cast("dict[str, Any]", written))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"--calibration: {shown(str(file))} cannot be read ({error}); make it again with --measure."
        ) from error


def calibrated(rates: Rates, file: Path | None, *, device: Device, dtype: str) -> Rates:
    """Replace rates by what was measured on such a device; a file of another device is only named.

    Raises:
        DataError: the file was asked for by name and is missing, or is no calibration.
    """
    if file is None and not FILE.is_file():
        return rates
    found = read_calibration(file or FILE)
    if (found.device, found.dtype) != (device.name, dtype):
        unread = f"{file or FILE} is of {found.device} in {found.dtype}, so it is not used"
        return replace(rates, said=f"{rates.said}; {unread}")
    known = {field.name for field in fields(Rates)}
    measured = {name: value for name, value in asdict(found).items() if name in known}
    return replace(rates, **measured | {"said": f"measured, {found.said}"})
