"""The page in a real browser: what a person does with it, on a phone and a desk, in light and dark."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from distill.view import sources
from distill.view.catalog import Asked
from distill.view.server import Server
from tests.browser import Chromium, Opened
from tests.view.made import make_run, opened, serving

HOSTILE = (
    "</p><script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'> "
    "\\(\\text{<img src=x onerror=window.hacked=3>}\\) \\(\\href{javascript:window.hacked=4}{x}\\) "
    "[x](javascript:window.hacked=5) \u202e\u200b {{7*7}}"
)

DESK: dict[str, Any] = {"width": 1400, "height": 900}
PHONE: dict[str, Any] = {"width": 390, "height": 844, "is_mobile": True, "has_touch": True}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    with opened(sources.of(make_run(folder / "run")), folder / "index") as catalog, serving(catalog) as made:
        yield made


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("hostile")
    rows = [
        {"question": HOSTILE, "response": f"<think>{HOSTILE}</think>{HOSTILE}", "gold": HOSTILE, "verdict": "wrong",
         "model_name": HOSTILE, "domain": HOSTILE, "level": HOSTILE, "reason": HOSTILE, "extracted": HOSTILE},
        {"question": "x" * 3000, "response": "\\(" + "{" * 3000 + "\\)" + "y" * 100_000, "verdict": "correct"},
    ]  # fmt: skip
    path = folder / "<b>rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with opened(sources.of(path), folder / "index") as catalog, serving(catalog) as made:
        yield made


def until(seen: Opened, expression: str) -> None:
    """Wait for it; Playwright's own waiting is `eval`, which the page's policy forbids."""
    due_s = time.monotonic() + 20
    while not seen.page.evaluate(expression):
        assert time.monotonic() < due_s, f"not true within 20 s: {expression}"
        seen.page.wait_for_timeout(20)


def ready(seen: Opened) -> None:
    until(seen, "document.querySelector('#count').textContent.includes(' of ')")


def reading(seen: Opened, columns: int = 1) -> None:
    until(seen, f"document.querySelectorAll('#reader article').length === {columns}")


def name_of(server: Server, text: str, **facets: str) -> str:
    found = server.catalog.search(Asked(text, {name: [value] for name, value in facets.items()}))
    return str(found["entries"][0]["name"])


def fine(seen: Opened) -> None:
    assert seen.complaints == []
    assert seen.remote == []
    assert seen.wider_than_the_window() == []
    assert set(seen.answers.values()) == {200}


def test_search_narrows_the_list_and_marks_what_was_found(chromium: Chromium, server: Server) -> None:
    with chromium.open(server.url, **DESK) as seen:
        ready(seen)
        assert seen.page.inner_text("#count") == "24 of 24 answers"
        seen.page.keyboard.press("/")
        seen.page.keyboard.type("teacher")
        until(seen, "document.querySelector('#count').textContent === '4 of 24 answers'")
        assert "q=teacher" in seen.page.url
        assert seen.page.evaluate("CSS.highlights.get('found').size") == 4
        seen.page.fill("#words", "no such word")
        seen.page.wait_for_selector(".nothing")
        fine(seen)


def test_filters_say_how_many_and_narrow(chromium: Chromium, server: Server) -> None:
    with chromium.open(server.url, **DESK) as seen:
        ready(seen)
        wrong = seen.page.locator("#facets label", has_text="wrong").first
        assert wrong.inner_text().split() == ["wrong", "16"]
        wrong.locator("input").check()
        until(seen, "document.querySelector('#count').textContent === '16 of 24 answers'")
        assert seen.page.evaluate("document.activeElement.value") == "wrong"  # the focus stays where it was
        seen.page.go_back()
        until(seen, "document.querySelector('#count').textContent === '24 of 24 answers'")
        seen.page.go_forward()
        until(seen, "document.querySelector('#count').textContent === '16 of 24 answers'")
        seen.page.click("#clear")
        until(seen, "document.querySelector('#count').textContent === '24 of 24 answers'")
        fine(seen)


def test_a_link_opens_an_answer_with_its_verdict_decision_and_maths(chromium: Chromium, server: Server) -> None:
    name = name_of(server, "\\boxed{1}", verdict="wrong")
    with chromium.open(f"{server.url}#open={name}", **DESK) as seen:
        reading(seen)
        card = seen.page.locator("#reader article")
        assert "✗ wrong" in card.inner_text() and "rejected: verdict" in card.inner_text()
        box = card.locator("math menclose").bounding_box()
        assert box is not None and box["width"] > 5 and box["height"] > 5
        assert (
            seen.page.locator("#reader math").first.evaluate("e => e.namespaceURI")
            == "http://www.w3.org/1998/Math/MathML"
        )
        card.locator("summary", has_text="Details").click()
        assert "wrong: another number" in card.inner_text()
        assert seen.page.locator("#list a[aria-current]").get_attribute("data-name") == name
        fine(seen)


def test_thinking_is_folded_until_it_is_asked_for(chromium: Chromium, server: Server) -> None:
    with chromium.open(f"{server.url}#open={name_of(server, 'Step')}", **DESK) as seen:
        reading(seen)
        assert "Six times seven" not in seen.page.inner_text("#reader")
        assert not any("api/thinking" in address for address in seen.requests)
        seen.page.locator("summary", has_text="Thinking").click()
        seen.page.wait_for_selector("text=Six times seven")
        seen.page.keyboard.press("t")
        until(seen, "location.hash.includes('think=1')")
        seen.page.keyboard.press("j")
        until(seen, "document.querySelector('#reader details.fold[open]') !== null")
        fine(seen)


def test_keys_go_through_the_list(chromium: Chromium, server: Server) -> None:
    with chromium.open(server.url, **DESK) as seen:
        ready(seen)
        names = seen.page.locator("#list a").evaluate_all("links => links.map((link) => link.dataset.name)")
        for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
            seen.page.keyboard.press(key)
            until(seen, f"document.querySelector('#reader article')?.dataset.name === '{names[place]}'")
        seen.page.keyboard.press("?")
        assert seen.page.locator("#help").is_visible()
        seen.page.keyboard.press("Escape")
        seen.page.keyboard.press("Escape")
        seen.page.wait_for_selector(".welcome")
        fine(seen)


def test_the_models_side_by_side(chromium: Chromium, server: Server) -> None:
    name = name_of(server, "", model="teacher")
    with chromium.open(f"{server.url}#open={name}", **DESK) as seen:
        reading(seen)
        seen.page.keyboard.press("m")
        reading(seen, 4)
        titles = seen.page.locator("article h2").all_inner_texts()
        assert [title.split("\n")[0].strip() for title in titles] == [
            "base ✗ wrong", "student · strict ✗ wrong", "teacher ✓ correct", "student · loose ✗ wrong",
        ]  # fmt: skip
        assert seen.page.locator("#reader > .problem").count() == 1
        fine(seen)


def test_two_answers_beside_each_other_and_what_differs(chromium: Chromium, server: Server) -> None:
    pair = [name_of(server, "", model=model) for model in ("teacher", "student")]
    with chromium.open(f"{server.url}#open={','.join(pair)}&differ=1", **DESK) as seen:
        reading(seen, 2)
        assert seen.page.locator("del").all_inner_texts() == ["teacher"]
        assert seen.page.locator("ins").all_inner_texts() == ["student"]
        seen.page.locator("[data-close]").first.click()
        reading(seen, 1)
        seen.page.locator("#list li").nth(2).hover()
        seen.page.locator("#list li").nth(2).locator(".beside").click()
        reading(seen, 2)
        fine(seen)


@pytest.mark.parametrize("seed", range(3))
def test_differences_put_back_are_the_texts(chromium: Chromium, server: Server, seed: int) -> None:
    check = """seed => {
      const next = () => (seed = (seed * 1103515245 + 12345) & 0x7fffffff) / 0x7fffffff;
      const upTo = (most) => Math.floor(next() * most);
      const text = () => Array.from({ length: upTo(30) }, () => "abc 1+"[upTo(6)]).join("");
      const join = (nodes, left) => nodes.map((n) => typeof n === "string" ? n : left(n) ? "" : n.textContent).join("");
      for (let i = 0; i < 300; i++) {
        const a = text(), b = text(), [left, right] = differences(a, b);
        const whole = (nodes) => join(nodes, () => false), same = (nodes) => join(nodes, () => true);
        if (whole(left) !== a || whole(right) !== b || same(left) !== same(right)) return [a, b];
      }
      return null;
    }"""
    with chromium.open(server.url, **DESK) as seen:
        assert seen.page.evaluate(check, 17 + seed) is None
        assert seen.page.evaluate("differences('a '.repeat(4000), 'b '.repeat(4000)) === undefined")


def test_raw_text_shows_its_marks(chromium: Chromium, server: Server) -> None:
    with chromium.open(f"{server.url}#open={name_of(server, 'Step')}&raw=1", **DESK) as seen:
        reading(seen)
        assert seen.page.locator("pre.raw .token").all_inner_texts() == ["</think>", "<|im_end|>"]
        fine(seen)


@pytest.mark.parametrize("state", ["", "&think=1", "&raw=1"])
def test_hostile_text_is_text(chromium: Chromium, hostile: Server, state: str) -> None:
    for row in hostile.catalog.search(Asked())["entries"]:
        with chromium.open(f"{hostile.url}#open={row['name']}{state}", **DESK) as seen:
            reading(seen)
            seen.page.wait_for_timeout(50)
            assert seen.page.evaluate("window.hacked") is None
            assert seen.page.locator("img, iframe, svg, object, body script, a[href^=javascript]").count() == 0
            fine(seen)


def test_markup_is_refused_by_the_policy(chromium: Chromium, server: Server) -> None:
    with chromium.open(server.url, **DESK) as seen:
        refused = seen.page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true } }"
        )

    assert refused


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", [DESK, PHONE, {"width": 900, "height": 700}], ids=["desk", "phone", "tablet"])
def test_it_fits_and_can_be_read(chromium: Chromium, server: Server, hostile: Server, window: Any, scheme: Any) -> None:
    for of, state in ((server, "&models=1&think=1"), (hostile, "&think=1")):
        name = name_of(of, "", verdict="correct")
        with chromium.open(f"{of.url}#open={name}{state}", scheme=scheme, **window) as seen:
            seen.page.wait_for_selector("#reader article")
            fine(seen)
            assert seen.page.evaluate(CONTRAST) == []


def test_a_phone_shows_the_list_or_the_text(chromium: Chromium, server: Server) -> None:
    with chromium.open(server.url, **PHONE) as seen:
        ready(seen)
        assert not seen.page.locator("#reader").is_visible()
        seen.page.locator("#list a").first.click()
        reading(seen)
        assert not seen.page.locator("#results").is_visible()
        seen.page.locator(".back").click()
        seen.page.wait_for_selector("#results", state="visible")
        seen.page.click("#filters-button")
        seen.page.locator("#facets label", has_text="evaluated").locator("input").check()
        until(seen, "document.querySelector('#count').textContent.startsWith('16 of')")
        fine(seen)


def test_every_control_has_a_name(chromium: Chromium, server: Server) -> None:
    with chromium.open(f"{server.url}#open={name_of(server, 'Step')}", **DESK) as seen:
        reading(seen)
        nameless = seen.page.locator("button, input, select, a").evaluate_all(
            """all => all.filter((e) => !(e.textContent || e.ariaLabel || e.labels?.[0]?.textContent || e.title).trim())
                         .map((e) => e.outerHTML)"""
        )

    assert nameless == []


def test_a_server_that_has_gone_is_named(chromium: Chromium, server: Server) -> None:
    with chromium.open(server.url, **DESK) as seen:
        ready(seen)
        seen.page.route("**/api/search**", lambda route: route.abort())
        seen.page.fill("#words", "word")
        seen.page.wait_for_selector("#count.fault")
        assert "is `distill view` still running?" in seen.page.inner_text("#count")


CONTRAST = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const linear = (v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (c) => { const [r, g, b] = c.map(linear); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] === 1) return c.slice(0, 3); } return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.checkVisibility()) continue;
    const a = light(parse(getComputedStyle(e).color).slice(0, 3)), b = light(behind(e));
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) low.push(`${e.tagName} ${e.className} ${ratio.toFixed(1)}`);
  }
  return [...new Set(low)];
}"""
"""Texts whose contrast with what is behind them is under 4.5 (WCAG 2.2, 1.4.3)."""
