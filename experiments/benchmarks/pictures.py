"""Pictures of benchmarks as SVG text: lines, circles and words, without a library, so that they can stand in documents.

Coordinates are those of a diagram: x to the right, y upwards, (0, 0) the lower left corner, in pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

INK = "#0b6e99"
GREY = "#999"
COLORS = (INK, "#e08a1e", "#7a3e9d", "#2e8b57", "#c0392b", "#5d6d7e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Where values lie along one side of a picture.

    Attributes:
        low, high: the values at the two ends, low < high.
        start, end: their places in pixels.
    """

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The place of a value; one outside of the ends lies outside."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def clipped(self, value: float) -> float:
        """The place of a value, or the end nearest to it."""
        return self.at(min(max(value, self.low), self.high))


class Drawing:
    """A white sheet that is drawn on; `svg` is what it becomes."""

    def __init__(self, *, width: int, height: int) -> None:
        self._width, self._height = width, height
        self._parts: list[str] = []

    def line(self, x1: float, y1: float, x2: float, y2: float, *, color: str = GREY, dashed: bool = False) -> None:
        """Draw a line."""
        style = ' stroke-dasharray="4 4"' if dashed else ""
        y1, y2 = self._height - y1, self._height - y2
        self._parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{color}"{style}/>')

    def circle(self, x: float, y: float, *, radius: float = 5, color: str = INK, filled: bool = True) -> None:
        """Draw a circle around (x, y)."""
        fill, y = color if filled else "white", self._height - y
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" stroke="{color}" fill="{fill}"/>')

    def area(self, corners: Sequence[tuple[float, float]], *, color: str = INK) -> None:
        """Fill the polygon between some corners (x, y), so lightly that what lies below is seen."""
        points = " ".join(f"{x:.1f},{self._height - y:.1f}" for x, y in corners)
        self._parts.append(f'<polygon points="{points}" fill="{color}" fill-opacity="0.15"/>')

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        anchor: str = "middle",
        size: int | None = None,
        upright: bool = False,
    ) -> None:
        """Write words on the base line y.

        Args:
            x: the middle, start or end of the words, as `anchor` says.
            y: the base line.
            words: any text; escaped here.
            anchor: "start", "middle" or "end".
            size: of the letters, 12 if None.
            upright: turned by a quarter, from below to above, with (x, y) where it would be otherwise.
        """
        y = self._height - y
        more = "" if size is None else f' font-size="{size}"'
        more += f' transform="rotate(-90 {x:.1f} {y:.1f})"' if upright else ""
        self._parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(words)}</text>')

    def svg(self) -> str:
        """The picture as the text of an SVG file."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self._width} {self._height}" '
        head += 'font-family="sans-serif" font-size="12">'
        sheet = f'<rect width="{self._width}" height="{self._height}" fill="white"/>'
        return "\n".join([head, sheet, *self._parts, "</svg>\n"])
