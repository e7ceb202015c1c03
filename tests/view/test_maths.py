"""LaTeX to MathML: what is rendered, what is refused, and that nothing hangs or gets through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from xml.etree.ElementTree import Element, SubElement

import pytest

from distill.view import maths
from distill.view.maths import ATTRIBUTES, ELEMENTS, Renderer, clean, convert


@pytest.fixture(scope="module")
def renderer() -> Iterator[Renderer]:
    made = Renderer()
    yield made
    made.close()


def nodes(tree: Any) -> Iterator[Any]:
    yield tree
    for child in tree[2]:
        if not isinstance(child, str):
            yield from nodes(child)


def text(tree: Any) -> str:
    return "".join(child if isinstance(child, str) else text(child) for child in tree[2])


def test_a_fraction() -> None:
    one, two = ["mrow", {}, [["mn", {}, ["1"]]]], ["mrow", {}, [["mn", {}, ["2"]]]]

    tree = convert(("\\frac{1}{2}", True))

    assert tree == ["math", {"display": "block"}, [["mrow", {}, [["mfrac", {}, [one, two]]]]]]


def test_signs_are_characters_not_references() -> None:
    tree = convert(("a \\leq b \\times \\infty", False))

    assert tree is not None
    assert text(tree) == "a≤b×∞"


@pytest.mark.parametrize(
    "latex",
    [
        "\\text{<script>alert(1)</script>}",
        "\\href{javascript:alert(1)}{x}",
        "\\style{position:fixed}{x}",
        "\\class{top}{x}",
        "\\color{red}x",
        "\\text{<img src=x onerror=alert(1)>}",
        "&lt;script&gt;",
        "\\unicode{x3C}script",
    ],
)
def test_only_known_elements_and_attributes_come_out(latex: str) -> None:
    tree = convert((latex, False))

    assert tree is not None
    for tag, attributes, _ in nodes(tree):
        assert tag in ELEMENTS
        assert set(attributes) <= ATTRIBUTES


def test_clean_refuses_what_it_does_not_know() -> None:
    math = Element("math", {"onclick": "alert(1)", "display": "block", "href": "javascript:x", "style": "x"})
    SubElement(math, "mi").text = "x"

    assert clean(math, [10]) == ["math", {"display": "block"}, [["mi", {}, ["x"]]]]

    SubElement(math, "annotation-xml")
    assert clean(math, [10]) is None


def test_clean_refuses_too_many_and_too_deep() -> None:
    math = inner = Element("math")
    for _ in range(maths.DEEPEST + 1):
        inner = SubElement(inner, "mrow")

    assert clean(math, [10_000]) is None
    assert clean(Element("math"), [0]) is None


def test_hostile_formulas_end_and_the_next_one_is_rendered(renderer: Renderer) -> None:
    hostile = [
        "{" * 3000,
        "\\frac" * 900,
        "\\sqrt{" * 600 + "}" * 600,
        "\\newcommand{\\a}{\\a\\a}\\a",
        "\\left" * 500,
        "x" * (maths.MOST_CHARACTERS + 1),
        "^",
        "\\begin{matrix}",
    ]

    trees = renderer.render([(latex, False) for latex in [*hostile, "x"]])

    assert trees[:-1] == [None] * len(hostile)
    assert trees[-1] is not None


def test_a_formula_that_never_ends_is_killed() -> None:
    made = Renderer()
    made._workers.function = "tests.view.test_maths:stubborn"
    made._workers.limits = maths.Limits(cpu_s=0.1, wall_s=20.0)
    try:
        assert made.render([("spin", False), ("x", False)]) == [None, ["math", {}, ["x"]]]
    finally:
        made.close()


def stubborn(formula: tuple[str, bool]) -> Any:
    while formula[0] == "spin":
        pass
    return ["math", {}, [formula[0]]]


def test_without_time_formulas_are_left_as_they_are(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "PATIENCE_S", -1.0)

    assert renderer.render([("never_{seen}", False)]) == [None]

    monkeypatch.undo()
    assert renderer.render([("never_{seen}", False)]) != [None]  # it was not remembered as a failure


def test_what_is_remembered_has_a_bound(renderer: Renderer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maths, "KEPT", 3)

    renderer.render([(f"x_{n}", False) for n in range(10)])

    assert len(renderer._known) == 3
