"""A test Hub for a module, and made runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.publish import made_run
from tests.publish.process import HubProcess


@pytest.fixture(scope="module")
def running_hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    """One server for all tests of a module; small pages, so that every listing has several."""
    server = HubProcess.start(tmp_path_factory.mktemp("hub"), "--page", "7")
    yield server
    server.close()


@pytest.fixture
def hub(running_hub: HubProcess) -> HubProcess:
    """The server with an empty log and without faults."""
    running_hub.forget()
    return running_hub


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A finished run, `made` in tmp_path/runs; its model repository is named by the test's own folder."""
    return made_run.make(tmp_path / "runs" / "made", publish={"repo": repo_of(tmp_path)})


def repo_of(folder: Path) -> str:
    """A repository that no other test uses."""
    return f"you/{folder.name.replace('_', '-').strip('-')}-{folder.parent.name.rpartition('-')[2]}"[:90]
