"""Pictures as SVG text: places, words, and what a reader of the file finds in it."""

from xml.etree import ElementTree as ET

import pytest

from experiments.benchmarks.pictures import Axis, Drawing

SVG = "{http://www.w3.org/2000/svg}"


def parse(drawing: Drawing) -> ET.Element:
    return ET.fromstring(drawing.svg())  # noqa: S314  # our own text


@pytest.mark.parametrize(("start", "end", "middle"), [(10, 110, 60), (110, 10, 60)])
def test_an_axis_maps_its_ends_to_its_ends(start: float, end: float, middle: float) -> None:
    axis = Axis(low=-1.0, high=3.0, start=start, end=end)
    assert [axis.at(-1.0), axis.at(1.0), axis.at(3.0)] == [start, middle, end]
    assert axis.at(4.0) == pytest.approx(end + (end - start) / 4)
    assert [axis.clipped(-7.0), axis.clipped(1.0), axis.clipped(4.0)] == [start, middle, end]


def test_y_points_upwards() -> None:
    drawing = Drawing(width=100, height=80)
    drawing.line(0, 0, 100, 80)
    drawing.circle(5, 70, filled=False)
    picture = parse(drawing)
    (line,), (circle,) = picture.findall(f"{SVG}line"), picture.findall(f"{SVG}circle")
    assert [line.get(name) for name in ("x1", "y1", "x2", "y2")] == ["0.0", "80.0", "100.0", "0.0"]
    assert (circle.get("cy"), circle.get("fill")) == ("10.0", "white")
    assert picture.get("viewBox") == "0 0 100 80"


def test_an_area_has_its_corners() -> None:
    drawing = Drawing(width=100, height=80)
    drawing.area([(0, 0), (10, 80), (20, 0)], color="red")
    (area,) = parse(drawing).findall(f"{SVG}polygon")
    assert (area.get("points"), area.get("fill")) == ("0.0,80.0 10.0,0.0 20.0,80.0", "red")


def test_words_may_have_any_letters_and_turn_around_their_place() -> None:
    drawing = Drawing(width=100, height=80)
    drawing.text(20, 30, 'a < b & "c"', upright=True)
    (text,) = parse(drawing).findall(f"{SVG}text")
    assert text.text == 'a < b & "c"'
    assert text.get("transform") == "rotate(-90 20.0 50.0)"
