"""`distill view`: index once, serve until the user ends it."""

from __future__ import annotations

import os
import platform
import webbrowser
from pathlib import Path

from distill.core.config import digest
from distill.core.stage import say
from distill.view import index, sources
from distill.view.catalog import Catalog
from distill.view.server import Server, listen

FOLDER = ".view"
"""Holds the index: in the run's folder; of a file, or of a run that may not be written to, in the workspace."""


def serve(target: Path, *, workspace: Path, port: int | None, browser: bool) -> None:
    """Show a run or a file at a local address until Ctrl-C, which is the way to end it and no failure."""
    catalog = Catalog(_index(target, workspace))
    try:
        with listen(catalog, port) as server:
            _serve(server, catalog, browser=browser)
    finally:
        catalog.close()


def _serve(server: Server, catalog: Catalog, *, browser: bool) -> None:
    try:
        say(f"view      {catalog.count:,} answers of {catalog.title}; Ctrl-C ends")
        print(server.url, flush=True)
        if browser and _has_screen():
            webbrowser.open(server.url)
        server.serve_forever()
    except KeyboardInterrupt:
        say("view      ended")


def _index(target: Path, workspace: Path) -> Path:
    source = sources.of(target)
    if target.is_dir() and os.access(target, os.W_OK):
        return index.ensure(source, target / FOLDER, "run")
    return index.ensure(source, workspace / FOLDER, f"at-{digest(str(target.resolve()))[:12]}")


def _has_screen() -> bool:
    """Whether a browser could show itself: without a screen `webbrowser` may take over the terminal."""
    needs_one = platform.system() == "Linux"
    return not needs_one or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
