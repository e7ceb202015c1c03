"""Rows that were scored before: by this stage until it was killed, or by a finished one for another choice of traces.

What a pass has scored is written to small shards in the stage's scratch folder every now and then, and lost there at
most. Finished `score` stages of the same workspace lend theirs: after another filter only the new traces are scored.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.core import rundir, shards
from distill.core.errors import DistillError
from distill.core.files import remove_partials
from distill.core.protocols import SampledLogprobs, TokenLogprobs
from distill.core.shards import Shard, ShardInfo, ShardRows

PART_TOKENS = 1 << 18
"""Token rows that are held at most before they are written."""

OPEN_SHARDS = 64


class Scores:
    """Rows by sample, of one teacher and one way to record it."""

    def __init__(self, folder: Path, info: ShardInfo, lent: Iterable[Path], every_s: float) -> None:
        """`folder` takes what is put; `lent` are shards of other stages, used where they say the same of themselves.

        What is put is written once `every_s` seconds have passed since the last time, or memory demands it.
        """
        self.folder, self.info, self.every_s = folder, info, every_s
        folder.mkdir(parents=True, exist_ok=True)
        remove_partials(folder)
        self._of: dict[str, Path] = {}
        self._open: OrderedDict[Path, Shard] = OrderedDict()
        own = sorted(folder.glob("part-*.safetensors"))
        for path in (*lent, *own):
            try:
                shard = Shard(path)
            except DistillError:  # of another version: nobody's loss here
                continue
            if shard.info == info:
                self._of.update(dict.fromkeys(shard.keys, path))
        self._next = len(own)
        self._held: list[ShardRows] = []
        self._held_tokens = 0
        self._written_s = time.monotonic()

    def has(self, key: str, completion_ids: Sequence[int]) -> bool:
        """Whether there are rows of exactly these tokens on disk."""
        return key in self._of and self._shard(key).has(key, completion_ids)

    def get(self, key: str, completion_ids: Sequence[int]) -> TokenLogprobs | SampledLogprobs:
        """The rows of a sample that is there."""
        shard = self._shard(key)
        read = shard.rows if self.info.mode == "topk" else shard.draws
        return read(key, completion_ids)

    def put(self, row: ShardRows) -> None:
        """Take the rows of a sample; they are on disk after the next `flush` at the latest."""
        self._held.append(row)
        self._held_tokens += len(row.completion_ids)
        if self._held_tokens >= PART_TOKENS or time.monotonic() - self._written_s >= self.every_s:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        if self._held:
            path = self.folder / f"part-{self._next:06d}.safetensors"
            shards.write(path, self._held, self.info)
            self._next += 1
            self._of.update(dict.fromkeys((row.key for row in self._held), path))
            self._held, self._held_tokens = [], 0
        self._written_s = time.monotonic()

    def _shard(self, key: str) -> Shard:
        path = self._of[key]
        if path not in self._open:
            self._open[path] = Shard(path)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        return self._open[path]


def lent_by(workspace: Path, stage: str, but: Path) -> list[Path]:
    """The logit shards of the finished stages of this name in a workspace, the stage in folder `but` left out."""
    found = sorted(workspace.glob(f"*/{stage}-*/logits-*.safetensors"))
    return [path for path in found if path.parent != but and (path.parent / rundir.MANIFEST).exists()]
