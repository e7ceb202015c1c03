"""One fault server for all tests of served teachers; each test names an endpoint of its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.served.process import FaultServer


@pytest.fixture(scope="session")
def server() -> Iterator[FaultServer]:
    """A running server with seed 0."""
    running = FaultServer.start()
    yield running
    running.close()
