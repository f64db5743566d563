"""One array that travels: a tensor's bytes, or what changed of it, under the tensor's name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from llmrl.weights.bundle import Part, TensorSpec, Words, words


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parcel:
    """Bytes with the name, part, dtype and shape that they belong to."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    part: Part
    data: Tensor
    """Flat bytes, on the tensor's device."""

    @property
    def host(self) -> NDArray[np.uint8]:
        """The bytes in the host's memory; without a copy if they are there."""
        return self.data.cpu().numpy()

    @property
    def words(self) -> Words:
        """The bits of each element."""
        return words(self.host, elements=int(np.prod(self.shape)))

    def with_part(self, part: Part, array: NDArray[Any], *, dtype: str) -> Parcel:
        """A parcel with a part of the same tensor."""
        data = torch.from_numpy(array.view(np.uint8))
        return Parcel(name=self.name, shape=array.shape, dtype=dtype, part=part, data=data)

    def at(self, start: int, *, file: str = "") -> TensorSpec:
        """The specification of this array at an offset."""
        stop = start + self.data.nbytes
        return TensorSpec(
            name=self.name,
            shape=self.shape,
            dtype=self.dtype,
            part=self.part,
            start=start,
            stop=stop,
            file=file,
        )


def parcel(name: str, part: Part, tensor: Tensor) -> Parcel:
    """The bytes of a tensor on its device; without a copy if it is contiguous."""
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    dtype = str(tensor.dtype).removeprefix("torch.")
    return Parcel(name=name, shape=tuple(tensor.shape), dtype=dtype, part=part, data=flat)


def tensor_of(spec: TensorSpec, data: NDArray[np.uint8] | Tensor) -> Tensor:
    """The tensor of a specification, over the same bytes."""
    flat = data if isinstance(data, Tensor) else torch.from_numpy(data)
    return flat.view(getattr(torch, spec.dtype)).reshape(spec.shape)
