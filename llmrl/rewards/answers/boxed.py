r"""``\boxed{...}``: where models put a final answer."""

from __future__ import annotations

OPENING = "\\boxed{"


def closing_brace(text: str, start: int) -> int | None:
    """Index of the brace that closes the one just before ``start``; None if there is none."""
    depth = 1
    for index in range(start, len(text)):
        if text[index] == "{":
            depth += 1
        elif text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
    return None


def last_boxed(text: str) -> str | None:
    """The content of the last closed box; None without one."""
    opening = text.rfind(OPENING)
    if opening < 0:
        return None
    start = opening + len(OPENING)
    end = closing_brace(text, start)
    return None if end is None else text[start:end]
