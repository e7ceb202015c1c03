"""Logit shards: safetensors files that hold teacher log-probabilities and describe themselves.

R rows over all samples, S samples; row `offset[s] + j` is the teacher's distribution of completion token j of sample s,
at temperature 1, whatever the prompt was. Every shard has

    realised    float32 [R]   log-probability of the token that was drawn, whether or not it is among the entries
    offset      int64 [S + 1]
    token_hash  uint64 [S]    first 8 bytes of SHA-256 over the completion ids: proves whose rows these are

Mode `topk`, k entries a row:

    ids         uint16 [R, k] when the vocabulary has at most 65,536 entries, else uint8 [R, k, 3] little-endian
    logprobs    float16 or float32 [R, k], nats, most probable first
    tail        float32 [R]   log of the mass outside the k ids; NaN: the engine gave nothing for this token
    tail@T      float32 [R]   log sum of p^(1/T) outside the k ids, for each extra loss temperature T; NaN: not recorded

Mode `sampled`, E entries over all rows (the distinct ids among the draws of each row):

    entries      uint8 or uint16 [R]  entries of the row; 0: the engine gave nothing for this token
    entry_offset int64 [S + 1]        first entry of each sample
    ids          uint16 [E] or uint8 [E, 3], ascending in a row
    counts       uint8 or uint16 [E]  how often the id was drawn; a row's sum is `draws`
    entropy      float32 [R]          of the whole distribution, nats
    logprobs     float16 or float32 [E]  log p of the entry      } only where temperatures
    normaliser@T float32 [R]   log sum of p^(1/T)                } other than 1 were asked for,
    entropy@T    float32 [R]   entropy of the distribution at T  } the last two for each T

The metadata names format, mode, k or draws, tokenizer and model fingerprints, template hash, vocabulary size, the
temperatures that were recorded, value dtype and the sample keys in order. A reader refuses what does not match. At
k = 16 and 152k entries a row is 16 * (3 + 2) + 8 = 88 bytes, and a sample 16 bytes and its key more.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from distill.core.errors import DistillError
from distill.core.files import atomic
from distill.core.protocols import SampledLogprobs, TokenLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "distill-logits-2"
READABLE = (FORMAT, "distill-logits-1")
"""Formats that can be read. The first knew mode `topk` alone, and is otherwise the same."""

Mode = Literal["topk", "sampled"]


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says of itself; the trainer refuses a mismatch of tokenizer.

    `top_k` counts in mode `topk`, `draws` in mode `sampled`. `temperatures` are those at which the rows can be used,
    1 among them.
    """

    model_id: str
    tokenizer: str | None
    template: str | None
    vocab_size: int
    top_k: int = 0
    mode: Mode = "topk"
    value_dtype: str = "float16"
    temperatures: tuple[float, ...] = (1.0,)
    draws: int = 0

    @property
    def others(self) -> tuple[float, ...]:
        """The temperatures other than 1."""
        return tuple(t for t in self.temperatures if t != 1.0)


@dataclass(frozen=True)
class ShardRows:
    """One sample's rows on their way into a shard."""

    key: str
    completion_ids: Sequence[int]
    logprobs: TokenLogprobs | SampledLogprobs


def token_hash(completion_ids: Sequence[int]) -> int:
    """First 8 bytes, big-endian, of SHA-256 over the ids as little-endian int32."""
    import numpy as np

    return int.from_bytes(hashlib.sha256(np.asarray(completion_ids, dtype="<i4").tobytes()).digest()[:8], "big")


def write(path: Path, rows: Iterable[ShardRows], info: ShardInfo) -> int:
    """Write one shard, atomically and synced; returns the number of token rows.

    Raises ValueError if a sample has not exactly one row a completion token, its rows are of another mode or size than
    the shard's, lack a figure that `info` promises, or name an id outside the vocabulary.
    """
    import numpy as np
    from safetensors.numpy import save_file

    columns = _Columns(info)
    offsets, hashes, keys = [0], [], []
    for row in rows:
        columns.add(row)
        offsets.append(offsets[-1] + len(row.completion_ids))
        hashes.append(token_hash(row.completion_ids))
        keys.append(row.key)
    tensors = columns.tensors()
    tensors["offset"] = np.asarray(offsets, np.int64)
    tensors["token_hash"] = np.asarray(hashes, np.uint64)
    about = {
        "format": FORMAT, "mode": info.mode, "top_k": info.top_k, "draws": info.draws, "vocab_size": info.vocab_size,
        "model": info.model_id, "tokenizer": info.tokenizer, "template": info.template,
        "value_dtype": info.value_dtype, "temperatures": list(info.temperatures), "keys": keys,
    }  # fmt: skip
    with atomic(path) as partial:
        save_file(tensors, partial, metadata={"distill": json.dumps(about)})
    return offsets[-1]


def column_types(info: ShardInfo) -> dict[str, Any]:
    """The columns of a shard's rows and their types; `ids` are packed when they are written."""
    import numpy as np

    value, many = info.value_dtype, np.uint8 if info.draws <= np.iinfo(np.uint8).max else np.uint16
    found: dict[str, Any] = {"ids": np.int32, "realised": np.float32}
    if info.mode == "topk":
        found |= {"logprobs": value, "tail": np.float32}
        return found | {f"tail@{t}": np.float32 for t in info.others}
    found |= {"entries": many, "entry_offset": np.int64, "counts": many, "entropy": np.float32}
    if info.others:
        found["logprobs"] = value
    return found | {f"{name}@{t}": np.float32 for t in info.others for name in ("normaliser", "entropy")}


class _Columns:
    """The columns of a shard while its samples are gathered."""

    def __init__(self, info: ShardInfo) -> None:
        import numpy as np

        self.info = info
        self._dtypes = column_types(info)
        self._parts: dict[str, list[NDArray[Any]]] = {name: [] for name in self._dtypes}
        self._entries = 0
        if info.mode == "sampled":
            self._parts["entry_offset"].append(np.zeros(1, np.int64))

    def add(self, row: ShardRows) -> None:
        """One sample. Raises ValueError as `write` does."""
        got, name = row.logprobs, f"sample {row.key[:12]}"
        if isinstance(got, SampledLogprobs) != (self.info.mode == "sampled"):
            raise ValueError(f"{name}: rows of another mode than the shard's, which is `{self.info.mode}`")
        if len(got.realised_N) != len(row.completion_ids):
            raise ValueError(f"{name}: {len(got.realised_N)} rows for {len(row.completion_ids)} tokens")
        ids = got.ids_E if isinstance(got, SampledLogprobs) else got.ids_NK
        if ids.size and (ids.min() < 0 or ids.max() >= self.info.vocab_size):
            raise ValueError(f"{name}: an id outside the vocabulary of {self.info.vocab_size}")
        found = self._sampled(got, name) if isinstance(got, SampledLogprobs) else self._topk(got, name)
        for column, values in (found | {"ids": ids, "realised": got.realised_N}).items():
            self._parts[column].append(values.astype(self._dtypes[column]))

    def _topk(self, got: TokenLogprobs, name: str) -> dict[str, NDArray[Any]]:
        import numpy as np

        if got.ids_NK.shape[1] != self.info.top_k:
            raise ValueError(f"{name}: {got.ids_NK.shape[1]} entries a row, the shard has {self.info.top_k}")
        _promised(got.tails, self.info, name)
        absent_N = np.float32(np.nan)
        found = {"logprobs": got.logprobs_NK, "tail": np.where(got.present_N, got.tail_N, absent_N)}
        return found | {f"tail@{t}": np.where(got.present_N, got.tails[t], absent_N) for t in self.info.others}

    def _sampled(self, got: SampledLogprobs, name: str) -> dict[str, NDArray[Any]]:
        import numpy as np

        entries_N = np.diff(got.offset)
        drawn = np.concatenate([np.zeros(1, np.int64), np.cumsum(got.counts_E, dtype=np.int64)])
        if (np.diff(drawn[got.offset]) != np.where(got.present_N, self.info.draws, 0)).any():
            raise ValueError(f"{name}: a row whose draws are not {self.info.draws}")
        _promised(got.normalisers, self.info, name)
        _promised(got.entropies, self.info, name)
        if self.info.others and got.logprobs_E is None:
            raise ValueError(f"{name}: no log-probabilities of its draws, which temperatures other than 1 need")
        self._entries += len(got.ids_E)
        found = {
            "entries": entries_N, "counts": got.counts_E, "entropy": got.entropy_N,
            "entry_offset": np.asarray([self._entries]),
        }  # fmt: skip
        if self.info.others and got.logprobs_E is not None:
            found["logprobs"] = got.logprobs_E
        for t in self.info.others:
            found |= {f"normaliser@{t}": got.normalisers[t], f"entropy@{t}": got.entropies[t]}
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All that was gathered, in the types of the file."""
        import numpy as np

        wide = (0, self.info.top_k) if self.info.mode == "topk" else (0,)
        shapes = {"ids": wide, "logprobs": wide}
        whole = {
            name: np.concatenate(parts) if parts else np.zeros(shapes.get(name, (0,)), self._dtypes[name])
            for name, parts in self._parts.items()
        }
        return whole | {"ids": pack_ids(whole["ids"], self.info.vocab_size)}


def _promised(figures: Mapping[float, Any], info: ShardInfo, name: str) -> None:
    if missing := [t for t in info.others if t not in figures]:
        raise ValueError(f"{name}: nothing recorded for temperature {missing[0]:g}")


def narrow(got: TokenLogprobs, top_k: int) -> TokenLogprobs:
    """Keep the first `top_k` entries of each row; the others join its tail terms, exactly."""
    import numpy as np

    if got.ids_NK.shape[1] <= top_k:
        return got
    beyond_NK = got.logprobs_NK[:, top_k:].astype(np.float32)

    def whole(tail_N: NDArray[np.float32], temperature: float) -> NDArray[np.float32]:
        softer_N: NDArray[np.float32] = np.logaddexp.reduce(beyond_NK / np.float32(temperature), axis=1)
        return np.logaddexp(tail_N, softer_N)

    return replace(
        got,
        ids_NK=got.ids_NK[:, :top_k],
        logprobs_NK=got.logprobs_NK[:, :top_k],
        tail_N=whole(got.tail_N, 1.0),
        tails={t: whole(tail_N, t) for t, tail_N in got.tails.items()},
    )


def pack_ids(ids: NDArray[np.int32], vocab_size: int) -> NDArray[Any]:
    """Ids of any shape in two bytes each where the vocabulary allows, else in three: a last axis, little-endian."""
    import numpy as np

    if vocab_size <= 1 << 16:
        return ids.astype(np.uint16)
    if vocab_size > 1 << 24:
        raise ValueError(f"a vocabulary of {vocab_size} does not fit three bytes an id")
    wide = np.ascontiguousarray(ids.astype("<u4")).view(np.uint8).reshape(*ids.shape, 4)
    return np.ascontiguousarray(wide[..., :3])


def unpack_ids(packed: NDArray[Any]) -> NDArray[np.int32]:
    """What `pack_ids` packed."""
    import numpy as np

    if packed.dtype != np.uint8:
        return packed.astype(np.int32)
    wide = np.zeros((*packed.shape[:-1], 4), np.uint8)
    wide[..., :3] = packed
    return wide.view("<u4")[..., 0].astype(np.int32)


class Shard:
    """A shard opened for reading; rows are read from the mapped file when asked for."""

    def __init__(self, path: Path) -> None:
        from safetensors import SafetensorError, safe_open

        try:
            self._file = cast(Any, safe_open(path, framework="numpy"))  # it has no type information
            about = json.loads((self._file.metadata() or {}).get("distill", "{}"))
        except (SafetensorError, json.JSONDecodeError) as error:
            raise DistillError(f"{path}: not a readable logit shard ({error})") from error
        if about.get("format") not in READABLE:
            raise DistillError(
                f"{path}: logit shard format {about.get('format')!r}, this version reads {', '.join(READABLE)}"
            )
        self.path = path
        try:
            self.info = ShardInfo(
                model_id=about["model"], tokenizer=about["tokenizer"], template=about["template"],
                vocab_size=about["vocab_size"], top_k=about["top_k"], mode=about["mode"],
                value_dtype=about["value_dtype"], temperatures=tuple(about["temperatures"]),
                draws=about.get("draws", 0),
            )  # fmt: skip
            self.keys: list[str] = about["keys"]
        except KeyError as error:
            raise DistillError(f"{path}: a logit shard whose metadata lack {error}") from error
        there = set(self._file.keys())
        if missing := sorted(({"offset", "token_hash"} | set(column_types(self.info))) - there):
            raise DistillError(f"{path}: a logit shard of mode `{self.info.mode}` without `{missing[0]}`")
        self._position = {key: place for place, key in enumerate(self.keys)}
        self._offset = self._file.get_tensor("offset")
        self._hash = self._file.get_tensor("token_hash")
        rows = self._file.get_slice("realised").get_shape()[0]
        if len(self._offset) != len(self.keys) + 1 or len(self._hash) != len(self.keys) or self._offset[-1] != rows:
            raise DistillError(f"{path}: a logit shard whose offsets do not fit its {len(self.keys):,} keys")

    def __contains__(self, key: str) -> bool:
        return key in self._position

    def has(self, key: str, completion_ids: Sequence[int]) -> bool:
        """Whether there are rows of exactly these tokens of a sample."""
        place = self._position.get(key)
        return place is not None and int(self._hash[place]) == token_hash(completion_ids)

    def rows(self, key: str, completion_ids: Sequence[int]) -> TokenLogprobs:
        """Rows of one sample in mode `topk`, in order of its completion tokens.

        Raises DistillError if the rows were recorded for other tokens than `completion_ids`.
        """
        import numpy as np

        if self.info.mode != "topk":
            raise ValueError(f"{self.path}: holds draws")
        span = self._span(key, completion_ids)
        tail_N = self._column("tail", span)
        return TokenLogprobs(
            ids_NK=unpack_ids(self._column("ids", span)),
            logprobs_NK=self._column("logprobs", span).astype(np.float32),
            tail_N=tail_N,
            realised_N=self._column("realised", span),
            present_N=~np.isnan(tail_N),
            tails={t: self._column(f"tail@{t}", span) for t in self.info.others},
        )

    def draws(self, key: str, completion_ids: Sequence[int]) -> SampledLogprobs:
        """Rows of one sample in mode `sampled`. Raises DistillError as `rows` does."""
        import numpy as np

        if self.info.mode != "sampled":
            raise ValueError(f"{self.path}: holds the largest entries, not draws")
        span, place = self._span(key, completion_ids), self._position[key]
        first, last = (int(at) for at in self._column("entry_offset", slice(place, place + 2)))
        entries_N, held = self._column("entries", span).astype(np.int64), slice(first, last)
        others = self.info.others
        return SampledLogprobs(
            offset=np.concatenate([np.zeros(1, np.int64), np.cumsum(entries_N)]),
            ids_E=unpack_ids(self._column("ids", held)),
            counts_E=self._column("counts", held).astype(np.int32),
            logprobs_E=self._column("logprobs", held).astype(np.float32) if others else None,
            entropy_N=self._column("entropy", span),
            realised_N=self._column("realised", span),
            present_N=entries_N > 0,
            normalisers={t: self._column(f"normaliser@{t}", span) for t in others},
            entropies={t: self._column(f"entropy@{t}", span) for t in others},
        )

    def _span(self, key: str, completion_ids: Sequence[int]) -> slice:
        if not self.has(key, completion_ids):
            raise DistillError(f"{self.path}: rows of sample {key[:12]} belong to other tokens than its trace has")
        place = self._position[key]
        return slice(int(self._offset[place]), int(self._offset[place + 1]))

    def _column(self, name: str, span: slice) -> NDArray[Any]:
        column: NDArray[Any]
        if span.start == span.stop:  # safetensors refuses an empty slice at the very end of a tensor
            column = self._file.get_tensor(name)[:0]
        else:
            column = self._file.get_slice(name)[span]
        return column


def find(folder: Path) -> list[Shard]:
    """The logit shards of a stage folder, in order; none if it recorded none."""
    return [Shard(path) for path in sorted(folder.glob("logits*.safetensors"))]
