"""Trainer side of a weight sync: tensors in, bucket by bucket; a bundle out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from torch import Tensor

from llmrl.weights.bundle import Part, Probe, WeightBundle
from llmrl.weights.delta import Held
from llmrl.weights.parcel import Parcel, parcel
from llmrl.weights.store import Store

Tensors = Sequence[tuple[str, Part, Tensor]]


class Outbox:
    """Sends versions in order; with ``deltas`` each but the first contains only the changes."""

    def __init__(self, store: Store, *, deltas: bool, left_out: frozenset[str] = frozenset()) -> None:
        """Send into ``store``; ``left_out`` are the model folder's tensors that the policy does not have."""
        self._store, self._left_out = store, left_out
        self._held = Held() if deltas else None

    def send(
        self, buckets: Iterable[Tensors], *, version: int, probe: Probe, base: int | None = None
    ) -> WeightBundle:
        """Write a version into the store.

        Args:
            buckets: all tensors, or with a ``base`` what is added to it; each bucket is done with before
                the next one is asked for.
            version: version of the weights.
            probe: the probe with the policy's logprobs.
            base: None, or ``ORIGINAL`` for adapters.
        """
        held = self._held
        changes = held.begin() if held else base
        written = self._store.write(version, self._parcels(buckets, changes))
        if held:
            held.version = version
        bundle = WeightBundle(
            version=version,
            base=changes,
            kept=held is not None,
            changed=held.changed / held.elements if held else 1.0,
            specs=written.specs,
            left_out=self._left_out,
            way=written.way,
            probe=probe,
        )
        self._store.seal(bundle)
        return bundle

    def release(self, version: int) -> None:
        """Free a version that every engine has taken."""
        self._store.release(version)

    def _parcels(self, buckets: Iterable[Tensors], base: int | None) -> Iterator[list[Parcel]]:
        for bucket in buckets:
            parcels = [parcel(name, part, tensor) for name, part, tensor in bucket]
            if self._held is None:
                yield parcels
            else:
                yield [change for one in parcels for change in self._held.changes(one, base=base)]
