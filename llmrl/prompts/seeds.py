"""Sources of randomness: seeds and orders derived from names and numbers, equal on every machine.

Nothing here keeps a state, so no generator has to be saved, restored or shared between processes.
"""

from __future__ import annotations

import hashlib
from math import isqrt

ROUNDS = 8


def derive_seed(*parts: int | str) -> int:
    """Derive a seed of 63 bits from ``parts``, such as ``derive_seed(run_seed, ordinal, sample)``.

    Pure and stable across processes, machines and versions; 1 and "1" are different parts.
    """
    # The length keeps ("ab", "c") apart from ("a", "bc").
    named = "".join(f"s{len(p)}:{p}" if isinstance(p, str) else f"i{int(p)};" for p in parts)
    digest = hashlib.blake2b(named.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def shuffled(index: int, *, size: int, seed: int) -> int:
    """The place of ``index`` in an order of ``range(size)`` by ``seed``; each place is taken exactly once.

    A Feistel network on the smallest rectangle that holds the range, walked until it lands inside: no list
    is made, so ``size`` may exceed memory.

    Raises:
        IndexError: ``index`` is not in ``range(size)``.
    """
    if not 0 <= index < size:
        raise IndexError(f"index {index} is outside of range({size})")
    wide = isqrt(size - 1) + 1
    high = -(-size // wide)
    while True:
        index = _permuted(index, wide, high, seed)
        if index < size:
            return index


def _permuted(index: int, wide: int, high: int, seed: int) -> int:
    """The place of ``index`` in ``range(wide * high)``; each round can be undone, so no two places meet."""
    left, right = divmod(index, high)
    for number in range(0, ROUNDS, 2):
        left = (left + derive_seed(seed, number, right)) % wide
        right = (right + derive_seed(seed, number + 1, left)) % high
    return left * high + right
