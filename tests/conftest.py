"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.tiny import make_tiny_model

# A shell's background job has it ignored, and so would every process that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
