"""Training tests compare bits, and the models are tiny: one thread is both exact and fastest."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def _libraries_set_aside() -> Iterator[None]:
    """accelerate collects garbage at the start of every training; what the libraries hold is most of that second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
