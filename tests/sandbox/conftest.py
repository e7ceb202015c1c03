"""A sandbox that works here, or a reason to skip."""

from __future__ import annotations

import pytest

from distill.sandbox.box import Box, Unavailable, open_box


@pytest.fixture(scope="session")
def box() -> Box:
    """A bubblewrap box; tests that need one skip where there can be none, saying why."""
    try:
        return open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
