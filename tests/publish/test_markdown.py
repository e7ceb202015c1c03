"""Text of others stays text, whatever it holds: read back with a Markdown parser that allows HTML and tables."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token

from distill.publish import markdown
from distill.publish.markdown import Markdown

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PIECES = (
    *"\\`*_[]<>|~&$!#-+.()1 \n:@{}=^>\t\u2028", "``", "**", "_a_", "~~~", "[a](b)", "![a](b)", "[a]", "[a][b]", "](x)",
    "[a]: b", "[^1]", "<b>", "</td>", "<!--", "<?x", "<https://x.yz>", "https://x.yz", "www.x.yz", "a@b.cd", "&amp;",
    "&#60;", "# h", "- x", "1. x", "2) x", "> q", "---", "===", "$$x$$",
)  # fmt: skip
"""Marks and whole pieces of mark-up: single characters alone would seldom meet as a link or a tag."""
HOSTILE = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=30), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
)


def test_the_pieces_are_mark_up_where_nothing_is_escaped() -> None:
    for piece in ("[a](b)", "<b>", "<https://x.yz>", "_a_", "# h", "- x", "1. x", "> q", "&amp;", "`a`"):
        with pytest.raises(AssertionError):
            assert texts(piece) == [piece]


def texts(source: str) -> list[str]:
    """The texts of all lines and cells; anything but plain text and code in them is a failure."""
    found = []
    for block in PARSER.parse(source):
        assert block.type not in ("heading_open", "html_block", "fence", "hr", "code_block"), block
        if block.type == "inline":
            children: list[Token] = block.children or []
            assert {child.type for child in children} <= {"text", "text_special", "code_inline"}, children
            found.append("".join(child.content for child in children))
    return found


@given(HOSTILE)
@example("[a]")
def test_a_paragraph_says_the_text_and_nothing_else(text: str) -> None:
    plain, shown = markdown.one_line(text), markdown.inline(text)

    if plain:
        assert texts(shown) == [plain]
        assert texts(f"x {shown} y") == [f"x {plain} y"]
        assert texts(f"{shown}{shown}") == [plain + plain]
        assert texts(f"{shown}: http") == [f"{plain}: http"]
        assert texts(markdown.bullets([text])) == [plain]


@given(HOSTILE, HOSTILE)
def test_a_table_has_the_cells_that_it_was_given(a: str, b: str) -> None:
    plain = [markdown.one_line(text) for text in (a, b)]
    coded = [text.replace("|", "\u2502") for text in plain]

    table = markdown.table(["head", b], [[a, markdown.code(b)], [markdown.code(a), b]])

    assert texts(table) == ["head", plain[1], plain[0], coded[1], coded[0], plain[1]]


@given(HOSTILE)
def test_a_block_of_code_ends_where_it_should(text: str) -> None:
    blocks = PARSER.parse(f"{markdown.block(text, 'sh')}\n\nafter")

    assert [block.type for block in blocks] == ["fence", "paragraph_open", "inline", "paragraph_close"]


def test_a_link_goes_to_public_pages_only() -> None:
    assert markdown.link("a]b", "https://spdx.org/x") == "[a]b](<https://spdx.org/x>)"
    assert markdown.link("a", "javascript:alert(1)") == "a"
    assert markdown.link("a", "https://x.org/> <script>") == "a"


def test_what_cannot_be_seen_is_shown() -> None:
    assert markdown.one_line("a\u202eb\x00c\r\nd") == "a⟨U+202E⟩b␀c d"


def test_a_template_escapes_what_is_not_markdown_already(tmp_path, monkeypatch) -> None:
    (tmp_path / "t.jinja").write_text("{{ a }} {{ b }}{# x #}\n\n\n\n{{ 7 }}\n")
    monkeypatch.setattr(markdown, "FOLDER", tmp_path)
    markdown._environment.cache_clear()
    try:
        assert markdown.render("t.jinja", {"a": "*a*", "b": Markdown("*b*")}) == "\\*a\\* *b*\n\n7\n"
    finally:
        markdown._environment.cache_clear()
