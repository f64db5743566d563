"""The picture of a claim as SVG: every run as a thin line, in the colour of its arm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recipes.claims.claim import Claim
from recipes.claims.run import Result

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 16, 44
COLOURS = ("#8a8f98", "#1f6feb", "#d1661a", "#2f9e44", "#c2255c")
"""The first arm is what the others are compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """From values to places."""

    left: float
    right: float
    top: float

    def x(self, along: float) -> float:
        """Place of a value along."""
        return LEFT + (along - self.left) / (self.right - self.left) * (WIDTH - LEFT - RIGHT)

    def y(self, up: float) -> float:
        """Place of a height; heights start at 0."""
        return HEIGHT - BOTTOM - up / self.top * (HEIGHT - TOP - BOTTOM)


def picture(claim: Claim, results: Sequence[Result]) -> str:
    """The runs of a claim."""
    frame = Frame(
        left=min(min(one.along) for one in results),
        right=max(max(one.along) for one in results),
        top=1.05 * max(max(one.up) for one in results),
    )
    colours = dict(zip(claim.arms, COLOURS, strict=False))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="11">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
            *_axes(claim, frame),
            *(_line(one, colours[one.arm], frame) for one in results),
            *(line for place, arm in enumerate(colours) for line in _legend(place, arm, colours[arm])),
            "</svg>\n",
        ]
    )


def _axes(claim: Claim, frame: Frame) -> list[str]:
    floor, end = HEIGHT - BOTTOM, WIDTH - RIGHT
    lines = [
        f'<path d="M{LEFT} {TOP}V{floor}H{end}" fill="none" stroke="#333"/>',
        _text((LEFT + end) / 2, HEIGHT - 8, claim.along, "middle"),
        f'<g transform="translate(14 {(TOP + floor) / 2}) rotate(-90)">{_text(0, 0, claim.up, "middle")}</g>',
    ]
    for part in range(5):
        height = frame.top * part / 4
        lines.append(_text(LEFT - 6, frame.y(height) + 4, f"{height:.2g}", "end"))
        along = frame.left + (frame.right - frame.left) * part / 4
        lines.append(_text(frame.x(along), floor + 16, f"{along:.3g}", "middle"))
    return lines


def _line(one: Result, colour: str, frame: Frame) -> str:
    points = " ".join(
        f"{frame.x(along):.1f},{frame.y(up):.1f}" for along, up in zip(one.along, one.up, strict=True)
    )
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def _legend(place: int, arm: str, colour: str) -> list[str]:
    left, height = WIDTH - RIGHT + 12, TOP + 12 + 18 * place
    return [
        f'<rect x="{left}" y="{height - 5}" width="14" height="3" fill="{colour}"/>',
        _text(left + 20, height, arm, "start"),
    ]


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'
