"""The report in a real Chromium: nothing complains, nothing is loaded, nothing stands out, all text can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.browser import Chromium, Scheme

FAINT = """() => {
  const numbers = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = (colour) => numbers(colour).slice(0, 3).map((c) => c / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (e) => { for (; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor; const [, , , alpha = 1] = numbers(colour);
      if (alpha > 0) return colour; } return 'rgb(255, 255, 255)'; };
  const found = new Map(); let seen = 0;
  for (const e of document.querySelectorAll('body, body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    const ink = e.closest('svg') ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [luminance(ink), luminance(behind(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05); seen += 1;
    if (ratio < 4.5) found.set(`${ink} on ${behind(e)}`, `${e.tagName}.${e.getAttribute('class')} ${ratio.toFixed(2)}`);
  }
  return {seen, found: [...found.entries()].map(([where, what]) => `${what}: ${where}`)};
}"""
"""Texts whose contrast is below 4.5:1 (WCAG 2.2, success criterion 1.4.3)."""

PALE = """() => {
  const luminance = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16) / 255)
    .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const style = getComputedStyle(document.documentElement);
  const value = (name) => luminance(style.getPropertyValue(name).trim());
  return [1, 2, 3, 4, 5, 6].map((n) => `--series-${n}`).filter((name) => {
    const [a, b] = [value(name), value('--paper')].sort((x, y) => y - x); return (a + 0.05) / (b + 0.05) < 3; });
}"""
"""Colours of series that stand out from the page by less than 3:1 (WCAG 2.2, success criterion 1.4.11)."""


@pytest.fixture(scope="module")
def report(hostile_html: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page full of attacks, without the policy that forbids scripts: escaping alone has to hold, and a script that
    was planted would run.
    """
    lifted = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", hostile_html)
    assert lifted != hostile_html
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(lifted, encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_on_screen(chromium: Chromium, report: Path, width: int, scheme: Scheme):
    with chromium.open(report.as_uri(), width=width, scheme=scheme) as opened:
        background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        opened.page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true })")
        wide, faint = opened.wider_than_the_window(), opened.page.evaluate(FAINT)
        pale = opened.page.evaluate(PALE)

    assert opened.complaints == []
    assert opened.requests == [report.as_uri()]
    assert background == ("rgb(21, 24, 27)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert wide == []
    assert faint["seen"] > 500
    assert faint["found"] == []
    assert pale == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_a_comparison_on_screen(chromium: Chromium, comparison_html: str, tmp_path: Path, width: int, scheme: Scheme):
    path = tmp_path / "comparison.html"
    path.write_text(comparison_html, encoding="utf-8")
    with chromium.open(path.as_uri(), width=width, scheme=scheme) as opened:
        wide, faint = opened.wider_than_the_window(), opened.page.evaluate(FAINT)

    assert opened.complaints == [] and opened.requests == [path.as_uri()]
    assert wide == [] and faint["found"] == []


def test_on_paper(chromium: Chromium, report: Path):
    with chromium.open(report.as_uri(), width=794, scheme="dark", media="print") as opened:
        background = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
        navigation = opened.page.evaluate("getComputedStyle(document.querySelector('nav')).display")
        folded = opened.page.evaluate(
            "[...document.querySelectorAll('details')].filter((d) => d.getBoundingClientRect().height < 40).length"
        )
        wide, faint = opened.wider_than_the_window(), opened.page.evaluate(FAINT)
        pdf = opened.page.pdf(format="A4")

    assert opened.complaints == [] and opened.requests == [report.as_uri()]
    assert background == "rgb(255, 255, 255)", "a dark page would empty the cartridge"
    assert navigation == "none"
    assert folded == 0, "what is folded on the screen is open on paper"
    assert wide == [] and faint["found"] == []
    assert pdf.startswith(b"%PDF")


def test_hostile_text_is_text(chromium: Chromium, report: Path):
    with chromium.open(report.as_uri()) as opened:
        shown = opened.page.inner_text("#samples")
        planted = opened.page.evaluate("document.querySelectorAll('script, img, iframe').length")

    assert planted == 0 and opened.complaints == []
    assert "<script>alert('pwned')</script><img src=x onerror=alert(1)>" in shown
    assert "{{ 7*7 }} ⟨U+202E⟩gnp.exe␀␛[31m" in shown
    assert "characters left out" in shown


def test_the_looking_sees_what_is_wrong(chromium: Chromium, tmp_path: Path):
    path = tmp_path / "bad.html"
    path.write_text(
        "<body style='background: #fff'><p style='color: #999'>faint</p><div style='width: 3000px'>wide</div>"
        "<script>alert(1); console.error('no'); throw new Error('uncaught')</script><img src='https://example.com/x'>",
        encoding="utf-8",
    )
    with chromium.open(path.as_uri(), width=390) as opened:
        wide, faint = opened.wider_than_the_window(), opened.page.evaluate(FAINT)

    assert {text.split(":")[0] for text in opened.complaints} >= {"alert", "error", "uncaught"}
    assert opened.remote == ["https://example.com/x"]
    assert wide and faint["found"]
