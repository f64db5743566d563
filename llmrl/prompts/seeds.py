"""Where randomness comes from: seeds and orders derived from names and numbers, equal on every machine.

Nothing here keeps a state, so no generator has to be saved, restored or shared between processes.
"""

from __future__ import annotations

import hashlib

ROUNDS = 8


def derive_seed(*parts: int | str) -> int:
    """A seed of 63 bits for whatever ``parts`` name, e.g. ``derive_seed(run_seed, ordinal, sample)``.

    Pure and stable across processes, machines and versions; 1 and "1" are different parts.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        kind, text = ("s", part) if isinstance(part, str) else ("i", str(int(part)))
        encoded = text.encode("utf-8", "surrogatepass")
        # The length keeps ("ab", "c") apart from ("a", "bc").
        digest.update(f"{kind}{len(encoded)}:".encode() + encoded)
    return int.from_bytes(digest.digest(), "big") >> 1


def shuffled(index: int, *, size: int, seed: int) -> int:
    """Where ``seed`` puts ``index`` in an order of ``range(size)``; each place is taken exactly once.

    A Feistel network walked until it lands inside the range: no list is made, so ``size`` may exceed memory.

    Raises:
        IndexError: ``index`` is not in ``range(size)``.
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} is outside of range({size})")
    half_bits = ((size - 1).bit_length() + 1) // 2
    while True:
        index = _permuted(index, half_bits, seed)
        if index < size:
            return index


def _permuted(index: int, half_bits: int, seed: int) -> int:
    mask = (1 << half_bits) - 1
    left, right = index >> half_bits, index & mask
    for number in range(ROUNDS):
        left, right = right, left ^ (derive_seed(seed, number, right) & mask)
    return left << half_bits | right
