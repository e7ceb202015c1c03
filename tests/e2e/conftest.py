"""One finished small run for all tests of the whole road."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.e2e import small


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished small run, its output in first.out and first.err, its seconds in first.seconds."""
    folder = tmp_path_factory.mktemp("finished")
    small.prepare(folder)
    began_s = time.monotonic()
    done = small.run(folder, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    (folder / "first.seconds").write_text(str(time.monotonic() - began_s))
    (folder / "first.out").write_text(done.stdout)
    (folder / "first.err").write_text(done.stderr)
    return folder
