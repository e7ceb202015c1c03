"""Drawings: told apart without colour, hostile names, axes that say what can be."""

from __future__ import annotations

import re

import pytest

from distill.report import plots, svg
from distill.report.plots import Line, Point
from tests.report.synthetic import HOSTILE
from tests.report.test_page import read


def ticks(svg: str) -> list[float]:
    """Numbers that stand in the drawing."""
    texts = [text.replace("−", "-") for text in re.findall(r"<text[^>]*>([^<]*)</text>", svg)]
    return [float(text) for text in texts if re.fullmatch(r"-?[\d.]+", text)]


def test_series_differ_in_shape_and_dash_as_well_as_in_colour():
    looks = [(svg.colour_of(n), svg.marker_of(n), str(svg.dash_of(n))) for n in range(svg.SERIES)]

    assert len(looks) == len(set(looks)) == 36
    for parts in zip(*looks[:6], strict=True):
        assert len(set(parts)) == 6


@pytest.mark.parametrize("shares", [(0.0, 0.0, 0.0), (0.0, 0.2, 0.1), (100.0, 100.0, 100.0), (99.5, 50.0, 0.0)])
def test_an_axis_of_shares_is_neither_below_0_nor_above_all(shares: tuple[float, ...]):
    drawn = plots.lines("x", "x", [Line("a", (1, 2, 3), shares)], "step", "%", highest=100.0)

    assert min(ticks(drawn)) >= 0
    assert max(ticks(drawn)) <= 100


def test_an_axis_of_differences_may_be_below_0():
    assert min(ticks(plots.lines("x", "x", [Line("a", (1, 2, 3), (-5.0, 0.0, 5.0))], "step", "points"))) < 0


def test_bands_and_markers_are_drawn_where_there_are_few_points():
    few = plots.lines("x", "x", [Line("a", (1, 2), (1.0, 2.0), 0, (0.5, 1.5), (1.5, 2.5))], "k", "%", log_x=True)
    many = plots.lines("x", "x", [Line("a", tuple(range(1, 99)), tuple(range(1, 99)))], "k", "%")

    assert "opacity: 0.16" in few and "<use " in few
    assert "opacity" not in many


@pytest.mark.parametrize(("xs", "shown"), [((1, 2, 4, 8), [1, 2, 4, 8]), ((33.0, 130.0, 511.0), [50, 100, 200, 500])])
def test_doublings_have_ticks_that_people_read(xs: tuple[float, ...], shown: list[float]):
    drawn = plots.lines("x", "x", [Line("a", xs, tuple(0.001 for _ in xs))], "tokens", "%", log_x=True)

    assert [tick for tick in ticks(drawn) if tick >= 1] == shown


def test_limits_hold_every_interval_and_0():
    low, high = plots.around_zero([Point("a", 5, 2, 9, ""), Point("b", 3, None, None, "")])

    assert low < 0 and high > 9


def test_hostile_names_are_escaped():
    drawn = plots.dots("x", HOSTILE, [Point("$x_1$" + HOSTILE, 1.0, 0.5, 1.5, HOSTILE)], HOSTILE, limits=(0, 2))
    drawn += plots.groups("y", HOSTILE, [(HOSTILE, [Point(HOSTILE, 1.0, 0.5, 1.5, "")])], HOSTILE, limits=(0, 2))

    reader = read(drawn)
    assert not [tag for tag, _ in reader.tags if tag in ("script", "img")]
    assert "$x_1$" in "".join(reader.text)
    assert "\u202e" not in drawn and "\x00" not in drawn


def test_ids_of_two_drawings_do_not_meet():
    svgs = [plots.dots(name, "", [Point("a", 1, 0, 2, "1")], "x", limits=(0, 2)) for name in ("one", "two")]

    ids = [set(re.findall(r'\bid="([^"]+)"', svg)) for svg in svgs]
    assert ids[0] and not ids[0] & ids[1]
