"""Logit shards: safetensors files that hold teacher log-probabilities and describe themselves.

Layout (version 1). R rows over all samples, k entries a row, S samples; row `offset[s] + j` is the teacher's
distribution of completion token j of sample s, at temperature 1, whatever the prompt was.

    ids         uint16 [R, k] when the vocabulary has at most 65,536 entries, else uint8 [R, k, 3] little-endian
    logprobs    float16 or float32 [R, k], nats, most probable first
    tail        float32 [R]   log of the mass outside the k ids; NaN: the engine gave nothing for this token
    realised    float32 [R]   log-probability of the token that was drawn, also when it is outside the top k
    offset      int64 [S + 1]
    token_hash  uint64 [S]    first 8 bytes of SHA-256 over the completion ids: proves whose rows these are
    tail@T      float32 [R]   log sum of p^(1/T) outside the k ids, for each extra loss temperature T that was recorded

The metadata names mode (`topk`), k, tokenizer and model fingerprints, template hash, vocabulary size, the
temperatures whose tail is there, value dtype and the sample keys in order. A reader refuses what does not match.
At k = 16 and 152k entries this is 16 * (3 + 2) + 8 = 88 bytes a token, plus 16 bytes and the key a sample.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from distill.core.errors import DistillError
from distill.core.files import atomic
from distill.core.protocols import TokenLogprobs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = "distill-logits-1"


@dataclass(frozen=True)
class ShardInfo:
    """What a shard says of itself; the trainer refuses a mismatch of tokenizer."""

    model_id: str
    tokenizer: str | None
    template: str | None
    vocab_size: int
    top_k: int
    mode: str = "topk"
    value_dtype: str = "float16"
    temperatures: tuple[float, ...] = (1.0,)


@dataclass(frozen=True)
class ShardRows:
    """One sample's rows on their way into a shard. `tails` holds the tail term of each extra loss temperature."""

    key: str
    completion_ids: Sequence[int]
    logprobs: TokenLogprobs
    tails: dict[float, NDArray[np.float32]] = field(default_factory=dict)


def token_hash(completion_ids: Sequence[int]) -> int:
    """First 8 bytes, big-endian, of SHA-256 over the ids as little-endian int32."""
    import numpy as np

    return int.from_bytes(hashlib.sha256(np.asarray(completion_ids, dtype="<i4").tobytes()).digest()[:8], "big")


def write(path: Path, rows: Iterable[ShardRows], info: ShardInfo) -> int:
    """Write one shard, atomically and synced; returns the number of token rows.

    Raises ValueError if a sample has not exactly one row a completion token, or an id is outside the vocabulary.
    """
    import numpy as np
    from safetensors.numpy import save_file

    ids, values, tails, realised, offsets, hashes, keys = [], [], [], [], [0], [], []
    extra: dict[float, list[NDArray[np.float32]]] = {t: [] for t in info.temperatures if t != 1.0}
    for row in rows:
        got = row.logprobs
        if len(got.tail_N) != len(row.completion_ids):
            raise ValueError(f"sample {row.key[:12]}: {len(got.tail_N)} rows for {len(row.completion_ids)} tokens")
        if got.ids_NK.shape[1] != info.top_k:
            raise ValueError(f"sample {row.key[:12]}: {got.ids_NK.shape[1]} entries a row, the shard has {info.top_k}")
        if got.ids_NK.size and (got.ids_NK.min() < 0 or got.ids_NK.max() >= info.vocab_size):
            raise ValueError(f"sample {row.key[:12]}: an id outside the vocabulary of {info.vocab_size}")
        ids.append(got.ids_NK)
        values.append(got.logprobs_NK)
        tails.append(np.where(got.present_N, got.tail_N, np.float32(np.nan)).astype(np.float32))
        realised.append(got.realised_N.astype(np.float32))
        for temperature, column in extra.items():
            column.append(row.tails[temperature])
        offsets.append(offsets[-1] + len(got.tail_N))
        hashes.append(token_hash(row.completion_ids))
        keys.append(row.key)
    flat_ids = np.concatenate(ids) if ids else np.zeros((0, info.top_k), np.int32)
    tensors: dict[str, NDArray[Any]] = {
        "ids": pack_ids(flat_ids, info.vocab_size),
        "logprobs": (np.concatenate(values) if values else np.zeros((0, info.top_k))).astype(info.value_dtype),
        "tail": np.concatenate(tails) if tails else np.zeros(0, np.float32),
        "realised": np.concatenate(realised) if realised else np.zeros(0, np.float32),
        "offset": np.asarray(offsets, np.int64),
        "token_hash": np.asarray(hashes, np.uint64),
    }
    for temperature, column in extra.items():
        tensors[f"tail@{temperature}"] = np.concatenate(column) if column else np.zeros(0, np.float32)
    about = {
        "format": FORMAT, "mode": info.mode, "top_k": info.top_k, "vocab_size": info.vocab_size,
        "model": info.model_id, "tokenizer": info.tokenizer, "template": info.template,
        "value_dtype": info.value_dtype, "temperatures": list(info.temperatures), "keys": keys,
    }  # fmt: skip
    with atomic(path) as partial:
        save_file(tensors, partial, metadata={"distill": json.dumps(about)})
    return offsets[-1]


def pack_ids(ids_RK: NDArray[np.int32], vocab_size: int) -> NDArray[Any]:
    """Ids in two bytes each where the vocabulary allows, else in three."""
    import numpy as np

    if vocab_size <= 1 << 16:
        return ids_RK.astype(np.uint16)
    if vocab_size > 1 << 24:
        raise ValueError(f"a vocabulary of {vocab_size} does not fit three bytes an id")
    wide = np.ascontiguousarray(ids_RK.astype("<u4")).view(np.uint8).reshape(*ids_RK.shape, 4)
    return np.ascontiguousarray(wide[..., :3])


def unpack_ids(packed: NDArray[Any]) -> NDArray[np.int32]:
    """What `pack_ids` packed."""
    import numpy as np

    if packed.ndim == 2:
        return packed.astype(np.int32)
    wide = np.zeros((*packed.shape[:2], 4), np.uint8)
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
        if about.get("format") != FORMAT:
            raise DistillError(f"{path}: logit shard format {about.get('format')!r}, this version reads {FORMAT!r}")
        self.path = path
        self.info = ShardInfo(
            model_id=about["model"], tokenizer=about["tokenizer"], template=about["template"],
            vocab_size=about["vocab_size"], top_k=about["top_k"], mode=about["mode"],
            value_dtype=about["value_dtype"], temperatures=tuple(about["temperatures"]),
        )  # fmt: skip
        self.keys: list[str] = about["keys"]
        self._position = {key: place for place, key in enumerate(self.keys)}
        self._offset = self._file.get_tensor("offset")
        self._hash = self._file.get_tensor("token_hash")

    def __contains__(self, key: str) -> bool:
        return key in self._position

    def rows(self, key: str, completion_ids: Sequence[int]) -> TokenLogprobs:
        """Rows of one sample, in order of its completion tokens.

        Raises DistillError if the rows were recorded for other tokens than `completion_ids`.
        """
        import numpy as np

        place = self._position[key]
        if int(self._hash[place]) != token_hash(completion_ids):
            raise DistillError(f"{self.path}: rows of sample {key[:12]} belong to other tokens than its trace has")
        span = slice(int(self._offset[place]), int(self._offset[place + 1]))
        tail_N = self._column("tail", span)
        return TokenLogprobs(
            ids_NK=unpack_ids(self._column("ids", span)),
            logprobs_NK=self._column("logprobs", span).astype(np.float32),
            tail_N=tail_N,
            realised_N=self._column("realised", span),
            present_N=~np.isnan(tail_N),
        )

    def tail_at(self, key: str, temperature: float) -> NDArray[np.float32]:
        """The tail term at a loss temperature other than 1. Raises DistillError where the shard lacks it."""
        if temperature not in self.info.temperatures:
            raise DistillError(
                f"{self.path}: no tail term for loss_temperature {temperature}; it has {list(self.info.temperatures)}"
            )
        place = self._position[key]
        span = slice(int(self._offset[place]), int(self._offset[place + 1]))
        return self._column(f"tail@{temperature}", span)

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
