"""Runs that several files of tests look at, made and drawn once."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.evaluate import compare
from distill.report import comparison, page
from distill.report.parts import Section
from distill.report.run_data import RunData, collect
from tests.report.synthetic import HOSTILE, make_run


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of two arms and two answers a problem. Read it, never change it."""
    return make_run(tmp_path_factory.mktemp("runs") / "quickstart", problems=100)


@pytest.fixture(scope="session")
def data(run: Path) -> RunData:
    """What it holds."""
    return collect(run)


@pytest.fixture(scope="session")
def chapters(data: RunData) -> list[Section]:
    """Its chapters."""
    return page.sections(data)


@pytest.fixture(scope="session")
def html(data: RunData, chapters: list[Section]) -> str:
    """Its page."""
    return page.render(data, chapters)


@pytest.fixture(scope="session")
def compared(run: Path) -> compare.Comparison:
    """Its arms and its base."""
    return compare.table(["quickstart:reasoning", "quickstart:answer_only", "quickstart:reasoning@base"], run.parent)


@pytest.fixture(scope="session")
def comparison_html(compared: compare.Comparison) -> str:
    """The page of that."""
    return comparison.render(compared)


@pytest.fixture(scope="session")
def hostile_html(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run in which every text is an attack."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "hostile", problems=40, hostile=HOSTILE)
    return page.render(collect(folder))
