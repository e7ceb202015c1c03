"""Model text as paragraphs, code and maths: what is understood, and that nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.view.blocks import Block, blocks

WORDS = re.compile(r"[^\W_]+")


def unrendered(formulas: Sequence[tuple[str, bool]]) -> list[Any]:
    return [None] * len(formulas)


def formulas_of(text: str) -> list[tuple[str, bool]]:
    asked: list[tuple[str, bool]] = []

    def remember(formulas: Sequence[tuple[str, bool]]) -> list[Any]:
        asked.extend(formulas)
        return [None] * len(formulas)

    blocks(text, remember)
    return asked


def shown(found: Sequence[Block]) -> str:
    texts = []
    for block in found:
        texts += [block["language"], block["text"]] if block["kind"] == "code" else [
            part.get("text") or part.get("strong") or part.get("code") or part.get("math") for part in block["parts"]
        ]  # fmt: skip
        texts.append("\n")
    return " ".join(texts)


@pytest.mark.parametrize(
    ("text", "formulas"),
    [
        ("so $x^2$ and \\(y\\)", [("x^2", False), ("y", False)]),
        ("$$ a $$ then \\[\nb\n\n c\\]", [("a", True), ("b\n\n c", True)]),
        ("It costs $5 and $6.", []),
        ("$5-$6 or $5/$6", []),
        ("$5, or $x$", [("x", False)]),
        ("\\$5 and $a\\$b$", [("a\\$b", False)]),
        ("Answer: \\boxed{\\frac{1}{2}}!", [("\\boxed{\\frac{1}{2}}", False)]),
        ("\\begin{align*}x&=1\\end{align*}", [("\\begin{align*}x&=1\\end{align*}", True)]),
        ("`$x$` and\n```\n$y$\n```", []),
        ("**$x$**", [("x", False)]),
        ("\\[ never closed", []),
        ("\\boxed{ never closed", []),
        ("$a\n\nb$", []),
        ("$$$$", []),
    ],
)
def test_formulas(text: str, formulas: list[tuple[str, bool]]) -> None:
    assert formulas_of(text) == formulas


def test_structure() -> None:
    fenced = "```python\nprint('$x$')\n\n# no title\n```"
    text = f"# Title $x$\nOne\nline.\n\nTwo **bold** and `code`.\n\n{fenced}\nend"

    found = blocks(text, unrendered)

    assert [block["kind"] for block in found] == ["heading", "text", "text", "code", "text"]
    assert found[0]["parts"][0] == {"text": "Title "}
    assert found[1]["parts"] == [{"text": "One\nline."}]
    assert found[2]["parts"] == [
        {"text": "Two "},
        {"strong": "bold"},
        {"text": " and "},
        {"code": "code"},
        {"text": "."},
    ]
    assert (found[3]["language"], found[3]["text"]) == ("python", "print('$x$')\n\n# no title")


def test_what_cannot_be_rendered_is_shown_as_it_was_written() -> None:
    [block] = blocks("a $x$ b", unrendered)

    assert block["parts"][1] == {"math": "$x$", "display": False, "tree": None}


@given(st.lists(st.sampled_from(
    ["$", "$$", "\\[", "\\]", "\\(", "\\)", "\\boxed{", "{", "}", "`", "```", "**", "# ", "\n", "\n\n", " ", "word",
     "7", "\\begin{align}", "\\end{align}", "\\", "~~~"]
), max_size=40))  # fmt: skip
def test_no_word_is_lost_and_none_moves(pieces: list[str]) -> None:
    text = "".join(pieces)

    assert WORDS.findall(shown(blocks(text, unrendered))) == WORDS.findall(text)
