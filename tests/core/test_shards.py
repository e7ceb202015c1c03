"""Logit shards hold what was put in, say whose rows they are, and refuse other tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.core import shards
from distill.core.errors import DistillError
from distill.core.protocols import TokenLogprobs
from distill.core.shards import Shard, ShardInfo, ShardRows


def rows(seed: int, n: int, k: int, vocab: int) -> TokenLogprobs:
    noise = np.random.default_rng(seed)
    logits = noise.normal(size=(n, vocab)) * 3
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    ids = np.argsort(-logprobs, axis=1)[:, :k].astype(np.int32)
    top = np.take_along_axis(logprobs, ids, axis=1)
    tail = np.log1p(-np.exp(top).sum(axis=1))
    present = noise.random(n) > 0.2
    return TokenLogprobs(ids, top.astype(np.float32), tail.astype(np.float32), top[:, 0].astype(np.float32), present)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.lists(st.integers(0, 9), min_size=1, max_size=5), st.sampled_from([40, 70_000]))
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], vocab: int) -> None:
    path = tmp_path_factory.mktemp("shard") / "s.safetensors"
    made = {f"k{i}": rows(seed + i, n, 4, min(vocab, 500)) for i, n in enumerate(lengths)}
    tokens = {key: list(range(len(r.tail_N))) for key, r in made.items()}
    info = ShardInfo("m", "t", None, vocab, 4, value_dtype="float32")

    shards.write(path, [ShardRows(key, tokens[key], r) for key, r in made.items()], info)
    shard = Shard(path)

    assert shard.info == info
    assert shard.keys == list(made)
    for key, expected in made.items():
        got = shard.rows(key, tokens[key])
        np.testing.assert_array_equal(got.present_N, expected.present_N)
        np.testing.assert_array_equal(got.ids_NK, expected.ids_NK)
        np.testing.assert_array_equal(got.logprobs_NK, expected.logprobs_NK)
        np.testing.assert_array_equal(got.tail_N[got.present_N], expected.tail_N[expected.present_N])
        np.testing.assert_array_equal(got.realised_N, expected.realised_N)


@given(st.lists(st.integers(0, (1 << 24) - 1), min_size=4, max_size=40))
def test_three_byte_ids_are_exact(ids: list[int]) -> None:
    ids_RK = np.asarray(ids[: len(ids) // 4 * 4], np.int32).reshape(-1, 4)
    np.testing.assert_array_equal(shards.unpack_ids(shards.pack_ids(ids_RK, 1 << 24)), ids_RK)


def test_a_token_costs_at_most_88_bytes_at_k_16_and_152k_entries(tmp_path: Path) -> None:
    n, path = 4000, tmp_path / "s.safetensors"
    wide = rows(0, n, 16, 200)
    info = ShardInfo("m", "t", None, 151_936, 16)
    shards.write(path, [ShardRows("k" * 64, range(n), wide)], info)
    assert path.stat().st_size / n <= 88.5


def test_rows_of_other_tokens_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    shards.write(path, [ShardRows("k", [1, 2, 3], rows(0, 3, 4, 40))], ShardInfo("m", "t", None, 40, 4))
    with pytest.raises(DistillError, match="belong to other tokens"):
        Shard(path).rows("k", [1, 2, 4])


@pytest.mark.parametrize(
    ("tokens", "info", "text"),
    [
        ([1, 2], ShardInfo("m", "t", None, 40, 4), "3 rows for 2 tokens"),
        ([1, 2, 3], ShardInfo("m", "t", None, 40, 5), "4 entries a row"),
        ([1, 2, 3], ShardInfo("m", "t", None, 10, 4), "outside the vocabulary"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, tokens: list[int], info: ShardInfo, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        shards.write(tmp_path / "s.safetensors", [ShardRows("k", tokens, rows(0, 3, 4, 40))], info)
    assert list(tmp_path.iterdir()) == []


def test_a_temperature_without_its_tail_term_is_refused(tmp_path: Path) -> None:
    path, tail = tmp_path / "s.safetensors", np.zeros(3, np.float32)
    info = ShardInfo("m", "t", None, 40, 4, temperatures=(1.0, 2.0))
    shards.write(path, [ShardRows("k", [1, 2, 3], rows(0, 3, 4, 40), {2.0: tail})], info)
    np.testing.assert_array_equal(Shard(path).tail_at("k", 2.0), tail)
    with pytest.raises(DistillError, match="no tail term for loss_temperature 4"):
        Shard(path).tail_at("k", 4.0)


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(DistillError, match="not a readable logit shard"):
        Shard(path)
