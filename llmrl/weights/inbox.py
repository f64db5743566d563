"""Engine side of a weight sync: every bundle becomes complete weights in memory that can be mapped."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from llmrl.errors import WeightSyncError
from llmrl.weights.adapter import merged
from llmrl.weights.bundle import ORIGINAL, Mapped, TensorSpec, WeightBundle, Words, aligned, words
from llmrl.weights.folder import read_folder
from llmrl.weights.header import read_headers
from llmrl.weights.memory import SharedMemory, machine, mapped
from llmrl.weights.parcel import parcel, tensor_of

Contents = Iterable[tuple[TensorSpec, NDArray[np.uint8]]]
"""Every array that travels, with its bytes."""


class Inbox:
    """Holds the weights that later bundles change: none, the last version's, or the model folder's."""

    def __init__(self, folder: Path, *, dtype: str) -> None:
        """An inbox for an engine that loaded the model in ``folder`` and computes in ``dtype``."""
        self._folder, self._dtype = folder, getattr(torch, dtype)
        self._memory = SharedMemory()
        self._block: NDArray[np.uint8] = self._memory.array(0)
        self._specs: dict[str, TensorSpec] = {}
        self._version: int | None = None
        self._originals: dict[str, torch.Tensor] = {}

    def take(self, bundle: WeightBundle, copy: NDArray[np.uint8] | None = None) -> WeightBundle:
        """Complete mapped weights, in a place that this machine's processes can map; others pass as they are.

        Args:
            bundle: complete weights, or changes of those held here.
            copy: the bytes of the bundle's file, if this machine cannot open it.

        Raises:
            WeightSyncError: it changes a version that is not held here, or a folder differs from its seal.
        """
        way = bundle.way
        if not isinstance(way, Mapped):
            return bundle  # the engine's own processes get it, and complete it
        if way.machine is None:
            bundle = _read_own(bundle, way.place)
        readable = copy is None and way.machine in (None, machine())
        if bundle.base is None and not bundle.kept and readable:
            return bundle
        return self.complete(bundle, way.arrays(bundle.specs, {} if copy is None else {"": copy}))

    def complete(self, bundle: WeightBundle, contents: Contents) -> WeightBundle:
        """Complete a bundle in memory of this process from its contents.

        Raises:
            WeightSyncError: it changes a version that is not held here.
        """
        # A version that is held already was sent again: its engine did not get to load it.
        if bundle.version != self._version:
            self._apply(bundle, contents)
        way = Mapped(place=self._memory.path, machine=machine())
        return replace(bundle, base=None, specs=tuple(self._specs.values()), way=way)

    def _apply(self, bundle: WeightBundle, contents: Contents) -> None:
        held, self._version = self._version, None
        if bundle.base is None:
            self._replace(contents)
        elif bundle.base == ORIGINAL:
            self._merge(contents, left_out=bundle.left_out)
        elif bundle.base == held:
            self._patch(contents)
        else:
            raise WeightSyncError(
                f"weights {bundle.version} were sent as changes of weights {bundle.base}, but this engine "
                f"holds {'none' if held is None else held}; set weights.delta = false to send all of them."
            )
        self._version = bundle.version

    def _replace(self, contents: Contents) -> None:
        listed = list(contents)
        self._lay_out([spec for spec, _ in listed])
        for spec, data in listed:
            self._bytes(spec.name)[:] = data

    def _patch(self, contents: Contents) -> None:
        index: Words = np.empty(0, np.uint32)
        for spec, data in contents:
            if spec.part == "whole":
                self._bytes(spec.name)[:] = data
            elif spec.part == "index":
                index = data.view(np.uint32)
            else:
                elements = int(np.prod(self._specs[spec.name].shape))
                words(self._bytes(spec.name), elements=elements)[index] = words(data, elements=index.size)

    def _merge(self, contents: Contents, *, left_out: Container[str]) -> None:
        factors: dict[str, dict[str, torch.Tensor]] = {}
        for spec, data in contents:
            factors.setdefault(spec.name, {})[spec.part] = tensor_of(spec, data)
        if not self._originals:
            self._read_originals(adapted=factors, left_out=left_out)
        for name, of in factors.items():
            whole = merged(self._originals[name], down=of["down"], up=of["up"], scale=float(of["scale"]))
            self._bytes(name)[:] = parcel(name, "whole", whole).host

    def _read_originals(self, *, adapted: Container[str], left_out: Container[str]) -> None:
        """Read the model folder's tensors into memory that only adapted ones will change.

        The others stay as they are: a model may keep some in float32, whatever it computes in.
        """
        found = {name: spec for name, spec in read_headers(self._folder).items() if name not in left_out}
        for name, spec in found.items():
            data = mapped(self._folder / spec.file)[spec.start : spec.stop]
            tensor = tensor_of(spec, data)
            self._originals[name] = tensor.to(self._dtype) if name in adapted else tensor
        parcels = [parcel(name, "whole", tensor) for name, tensor in self._originals.items()]
        self._lay_out([one.at(0) for one in parcels])
        for one in parcels:
            self._bytes(one.name)[:] = one.host

    def _lay_out(self, tensors: list[TensorSpec]) -> None:
        end = 0
        self._specs = {}
        for spec in tensors:
            start = aligned(end)
            end = start + spec.stop - spec.start
            self._specs[spec.name] = replace(spec, start=start, stop=end, file="")
        self._block = self._memory.array(end)

    def _bytes(self, name: str) -> NDArray[np.uint8]:
        spec = self._specs[name]
        return self._block[spec.start : spec.stop]


def _read_own(bundle: WeightBundle, place: Path) -> WeightBundle:
    """The bundle that the policy left in its folder, unless another run has written there since."""
    found = read_folder(place)
    if not np.array_equal(found.probe.logp, bundle.probe.logp):
        raise WeightSyncError(
            f"{place} has other weights than the policy sent; another run writes into weights.folder: "
            "give each its own."
        )
    return found
