"""Small models on several cores: whole batches side by side, not one batch's operations split up.

A small model's operations take microseconds. Shared among threads they end in a barrier each, and where another process
wants a core too, every barrier waits for it: two torch threads were measured ten times slower than one on a busy
machine. So each worker here is a Python thread of one torch thread with batches of its own; torch lets go of the
interpreter's lock inside its operations.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

T = TypeVar("T")


def side_by_side(work: Callable[[], Iterator[T]], n: int) -> Iterator[T]:
    """Run `work()` in `n` threads of one torch thread each; yield what they yield, as it comes.

    The copies share out their tasks themselves. What one raises is raised here. Leaving the iterator early ends them
    all at their next item.
    """
    items: queue.SimpleQueue[tuple[bool, T | BaseException | None]] = queue.SimpleQueue()
    left = threading.Event()

    def run() -> None:
        torch.set_num_threads(1)  # this thread's own number
        try:
            for item in work():
                items.put((True, item))
                if left.is_set():
                    break
            items.put((False, None))
        except BaseException as error:  # whatever it is, it belongs to the thread that asked
            items.put((False, error))

    threads = [threading.Thread(target=run, name=f"draw-{i}", daemon=True) for i in range(n)]
    try:
        for thread in threads:
            thread.start()
        running = n
        while running:
            is_item, value = items.get()
            if is_item:
                yield value  # type: ignore[misc]  # an item of `work`
            elif value is not None:
                raise value  # type: ignore[misc]  # what `work` raised
            else:
                running -= 1
    finally:
        left.set()
        for thread in threads:
            thread.join()
        torch.set_num_threads(torch.get_num_threads())  # new threads start with this number again
