"""A real Chromium for the tests of pages: what went wrong on one, what it asked for, and what is wider than it.

Skips, saying why, where there is no Chromium or no Playwright. `tests/conftest.py` offers the fixture `chromium`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Dialog, Page

NAMES = ("chromium", "chromium-browser", "google-chrome")
HERE = ("file", "data", "blob", "about")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

Scheme = Literal["light", "dark"]
Media = Literal["screen", "print"]

_WIDER_THAN_THE_WINDOW = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push(`the page: ${document.documentElement.scrollWidth}`);
  const scrolls = (e) => { for (let up = e.parentElement; up; up = up.parentElement)
    if (/auto|scroll|hidden/.test(getComputedStyle(up).overflowX)) return true; return false; };
  for (const e of document.querySelectorAll('body *')) {
    const box = e.getBoundingClientRect();
    if (box.right > width + 1 && box.width > 0 && !scrolls(e) && !e.closest('svg'))
      found.push(`${e.tagName.toLowerCase()}.${e.className}: ${Math.round(box.right)}`);
  }
  return found.slice(0, 10);
}"""


@dataclass
class Opened:
    """One page in a window of its own, and what was seen on it since it was opened."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    """Console messages of type `error` or `warning`, uncaught errors, and dialogs: nothing of ours opens one."""
    requests: list[str] = field(default_factory=list)
    """Every address that the page asked for, its own first."""
    answers: dict[str, int] = field(default_factory=dict)
    """HTTP status by address."""

    @property
    def remote(self) -> list[str]:
        """Requests that would leave this machine."""
        return [address for address in self.requests if not _is_here(address)]

    def wider_than_the_window(self) -> list[str]:
        """The page and each element that stands out on the right, unless something around it scrolls or clips."""
        found: list[str] = self.page.evaluate(_WIDER_THAN_THE_WINDOW)
        return found


class Chromium:
    """A browser that is started; `open` gives a fresh window without memory of earlier ones."""

    def __init__(self, browser: Browser) -> None:
        self.browser = browser

    @contextmanager
    def open(
        self,
        address: str,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: Scheme = "light",
        media: Media = "screen",
        **more: Any,
    ) -> Iterator[Opened]:
        """Open an address and wait until it is loaded. `more` goes to Playwright's `new_context`."""
        context = self.browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, **more)
        page = context.new_page()
        opened = Opened(page)
        page.on("console", lambda message: _heard(opened, message.type, message.text))
        page.on("pageerror", lambda error: opened.complaints.append(f"uncaught: {error}"))
        page.on("dialog", lambda dialog: _dismissed(opened, dialog))
        page.on("request", lambda request: opened.requests.append(request.url))
        page.on("response", lambda response: opened.answers.update({response.url: response.status}))
        try:
            page.emulate_media(media=media, color_scheme=scheme)
            page.goto(address, wait_until="load")
            yield opened
        finally:
            context.close()


def find() -> str | None:
    """The program of a Chromium on this machine."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def started(program: str) -> Iterator[Chromium]:
    """A browser of its own, without a window."""
    from playwright.sync_api import sync_playwright

    args = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=args)
        try:
            yield Chromium(browser)
        finally:
            browser.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    """Chromium, started once a module: Playwright keeps an event loop running in this thread while it is open, and
    other modules' tests start loops of their own.
    """
    pytest.importorskip("playwright.sync_api", reason="Playwright is not installed: pip install playwright")
    program = find()
    if program is None:
        pytest.skip("no Chromium here (Debian: apt-get install chromium)")
    with started(program) as browser:
        yield browser


def _heard(opened: Opened, kind: str, text: str) -> None:
    if kind in ("error", "warning"):
        opened.complaints.append(f"{kind}: {text}")


def _dismissed(opened: Opened, dialog: Dialog) -> None:
    opened.complaints.append(f"{dialog.type}: {dialog.message}")
    dialog.dismiss()


def _is_here(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in HERE or parts.hostname in LOOPBACK
