"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import settings

from tests.browser import chromium  # noqa: F401  # a fixture, for every folder of tests
from tests.tiny import make_tiny_model

# Property tests draw the same examples on every run, so that a run's result depends on the code alone. To look for new
# counterexamples: HYPOTHESIS_PROFILE=explore (`make accept` does).
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.register_profile("explore", deadline=None, max_examples=500, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# A shell's background job has it ignored, and so would every process that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--update-golden` records golden files anew instead of comparing; the commit says why."""
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/* from what the code gives now")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of the real data that tests may read: $DISTILL_SHARED_DATA, or ../shared/data beside the repository."""
    named = os.environ.get("DISTILL_SHARED_DATA")
    folder = Path(named) if named else Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real data is not at {folder}; set DISTILL_SHARED_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Qwen3 model with tokenizer, template and generation config. Read it, never change it."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "model")
