"""Workers side by side: everything arrives, errors surface, leaving early ends them, thread counts stay."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator

import pytest
import torch

from distill.decoding.threads import side_by_side


def test_tasks_are_shared_out_and_all_arrive():
    tasks, seen = deque(range(200)), set()

    def work() -> Iterator[int]:
        seen.add(threading.current_thread().name)
        assert torch.get_num_threads() == 1
        while tasks:
            yield tasks.popleft()

    assert sorted(side_by_side(work, 3)) == list(range(200))
    assert len(seen) == 3


def test_what_a_worker_raises_is_raised_here():
    def work() -> Iterator[int]:
        yield 1
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        list(side_by_side(work, 2))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("draw-")]


def test_leaving_early_ends_the_workers():
    def work() -> Iterator[int]:
        while True:
            yield 1

    stream = side_by_side(work, 2)
    next(stream)
    stream.close()

    assert not [thread for thread in threading.enumerate() if thread.name.startswith("draw-")]


def test_the_caller_keeps_its_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert list(side_by_side(lambda: iter([1]), 2)) == [1, 1]
        assert torch.get_num_threads() == 2
        counted: list[int] = []
        thread = threading.Thread(target=lambda: counted.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert counted == [2]
    finally:
        torch.set_num_threads(before)
