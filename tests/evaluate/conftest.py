"""A workspace with ten test problems and scripted models, for every file of these tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluate.bench import Bench, problem


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Questions 0 to 9 are test problems, 10 is for training, 11 for dev."""
    (tmp_path / "runs").mkdir()
    return Bench(tmp_path, [*(problem(n) for n in range(10)), problem(10, split="train"), problem(11, split="dev")])
