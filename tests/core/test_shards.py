"""Logit shards hold what was put in, say whose rows they are, and refuse other tokens."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from distill.core import shards
from distill.core.errors import DistillError
from distill.core.protocols import SampledLogprobs, TokenLogprobs
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


def test_a_token_costs_less_than_90_bytes_at_k_16_and_152k_entries(tmp_path: Path) -> None:
    """Everything included: keys, hashes, offsets and the file's own header, for samples as short as 100 tokens."""
    path, n = tmp_path / "s.safetensors", 100
    info = ShardInfo("m" * 32, "t" * 16, "p" * 16, 151_936, 16)
    made = [ShardRows(f"{i:064x}", range(n), rows(i, n, 16, 200)) for i in range(40)]
    assert shards.write(path, made, info) == 4000
    assert path.stat().st_size / 4000 <= 90


def drawn(
    seed: int, n: int, vocab: int, draws: int, *, temperatures: tuple[float, ...] = (), absent: float = 0.2
) -> SampledLogprobs:
    """Draws of made-up rows, some of them absent."""
    noise = np.random.default_rng(seed)
    present = noise.random(n) > absent
    picked = [np.unique(noise.integers(0, vocab, draws), return_counts=True) for _ in range(n)]
    entries = [len(ids) if here else 0 for (ids, _), here in zip(picked, present, strict=True)]
    kept = [pair for pair, here in zip(picked, present, strict=True) if here]
    ids = np.concatenate([ids for ids, _ in kept] or [np.zeros(0)]).astype(np.int32)
    counts = np.concatenate([counts for _, counts in kept] or [np.zeros(0)]).astype(np.int32)
    figures = {t: noise.normal(size=n).astype(np.float32) for t in temperatures}
    return SampledLogprobs(
        np.concatenate([[0], np.cumsum(entries)]).astype(np.int64), ids, counts,
        -noise.random(len(ids)).astype(np.float32) if temperatures else None,
        noise.random(n).astype(np.float32), -noise.random(n).astype(np.float32), present,
        figures, {t: -values for t, values in figures.items()},
    )  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 99), st.lists(st.integers(0, 9), min_size=0, max_size=5), st.sampled_from([40, 70_000]),
    st.sampled_from([1, 50, 255, 256, 1000]), st.sampled_from([(), (2.0,), (0.7, 4.0)]),
)  # fmt: skip
def test_draws_come_back(
    tmp_path_factory: pytest.TempPathFactory, seed: int, lengths: list[int], vocab: int, draws: int,
    temperatures: tuple[float, ...],
) -> None:  # fmt: skip
    path = tmp_path_factory.mktemp("shard") / "s.safetensors"
    made = {f"k{i}": drawn(seed + i, n, vocab, draws, temperatures=temperatures) for i, n in enumerate(lengths)}
    tokens = {key: list(range(len(r.realised_N))) for key, r in made.items()}
    info = ShardInfo(
        "m", "t", None, vocab, mode="sampled", draws=draws, temperatures=(1.0, *temperatures), value_dtype="float32"
    )

    assert shards.write(path, [ShardRows(key, tokens[key], r) for key, r in made.items()], info) == sum(lengths)
    shard = Shard(path)

    assert shard.info == info
    for key, expected in made.items():
        got = shard.draws(key, tokens[key])
        for name, values in vars(expected).items():
            if isinstance(values, dict):
                assert set(getattr(got, name)) == set(values)
                for t in values:
                    np.testing.assert_array_equal(getattr(got, name)[t], values[t])
            else:
                np.testing.assert_array_equal(getattr(got, name), values)


def test_a_row_with_other_draws_than_the_shard_s_is_refused(tmp_path: Path) -> None:
    info = ShardInfo("m", "t", None, 40, mode="sampled", draws=9)
    with pytest.raises(ValueError, match="a row whose draws are not 9"):
        shards.write(tmp_path / "s.safetensors", [ShardRows("k", [1, 2], drawn(0, 2, 40, 8, absent=0.0))], info)


def test_the_two_modes_do_not_mix(tmp_path: Path) -> None:
    topk = ShardInfo("m", "t", None, 40, 4)
    sampled = ShardInfo("m", "t", None, 40, mode="sampled", draws=8)
    for info, got in ((sampled, rows(0, 2, 4, 40)), (topk, drawn(0, 2, 40, 8))):
        with pytest.raises(ValueError, match=f"another mode than the shard's, which is `{info.mode}`"):
            shards.write(tmp_path / "s.safetensors", [ShardRows("k", [1, 2], got)], info)
    shards.write(tmp_path / "d.safetensors", [ShardRows("k", [1, 2], drawn(0, 2, 40, 8))], sampled)
    shards.write(tmp_path / "t.safetensors", [ShardRows("k", [1, 2], rows(0, 2, 4, 40))], topk)
    with pytest.raises(ValueError, match="holds draws"):
        Shard(tmp_path / "d.safetensors").rows("k", [1, 2])
    with pytest.raises(ValueError, match="not draws"):
        Shard(tmp_path / "t.safetensors").draws("k", [1, 2])


def test_draws_at_other_temperatures_need_their_figures(tmp_path: Path) -> None:
    info = ShardInfo("m", "t", None, 40, mode="sampled", draws=8, temperatures=(1.0, 2.0))
    with pytest.raises(ValueError, match="nothing recorded for temperature 2"):
        shards.write(tmp_path / "s.safetensors", [ShardRows("k", [1], drawn(0, 1, 40, 8))], info)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.5])
def test_fewer_entries_and_the_same_mass(temperature: float) -> None:
    noise = np.random.default_rng(0)
    logits = noise.normal(size=(6, 50)) * 3
    whole = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    order = np.argsort(-whole, axis=1)

    def kept(k: int) -> TokenLogprobs:
        def tail(t: float) -> np.ndarray:
            return np.logaddexp.reduce(np.take_along_axis(whole, order[:, k:], axis=1) / t, axis=1).astype(np.float32)

        ids = order[:, :k].astype(np.int32)
        top = np.take_along_axis(whole, ids, axis=1).astype(np.float32)
        return TokenLogprobs(ids, top, tail(1.0), top[:, 0], np.ones(6, bool), {temperature: tail(temperature)})

    got, expected = shards.narrow(kept(16), 4), kept(4)
    np.testing.assert_array_equal(got.ids_NK, expected.ids_NK)
    np.testing.assert_array_equal(got.logprobs_NK, expected.logprobs_NK)
    np.testing.assert_allclose(got.tail_N, expected.tail_N, rtol=1e-5)
    np.testing.assert_allclose(got.tails[temperature], expected.tails[temperature], rtol=1e-5)
    assert shards.narrow(expected, 4) is expected


def test_shards_of_the_first_format_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that were paid for in its time keep their log-probabilities."""
    path, made = tmp_path / "s.safetensors", rows(0, 3, 4, 40)
    monkeypatch.setattr(shards, "FORMAT", "distill-logits-1")
    shards.write(path, [ShardRows("k", [1, 2, 3], made)], ShardInfo("m", "t", None, 40, 4, value_dtype="float32"))
    monkeypatch.undo()
    np.testing.assert_array_equal(Shard(path).rows("k", [1, 2, 3]).logprobs_NK, made.logprobs_NK)
    monkeypatch.setattr(shards, "FORMAT", "distill-logits-9")
    shards.write(path, [ShardRows("k", [1, 2, 3], made)], ShardInfo("m", "t", None, 40, 4))
    with pytest.raises(DistillError, match=r"format 'distill-logits-9', this version reads distill-logits-2"):
        Shard(path)


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
    path, made = tmp_path / "s.safetensors", rows(0, 3, 4, 40)
    info = ShardInfo("m", "t", None, 40, 4, temperatures=(1.0, 2.0))
    tail = np.zeros(3, np.float32)
    shards.write(path, [ShardRows("k", [1, 2, 3], replace(made, tails={2.0: tail}))], info)
    got = Shard(path).rows("k", [1, 2, 3])
    np.testing.assert_array_equal(got.tails[2.0][got.present_N], 0.0)
    assert np.isnan(got.tails[2.0][~got.present_N]).all()
    assert list(got.tails) == [2.0]
    with pytest.raises(ValueError, match="nothing recorded for temperature 2"):
        shards.write(path, [ShardRows("k", [1, 2, 3], made)], info)


@pytest.mark.parametrize(
    ("tensors", "about", "message"),
    [
        ({}, {"vocab_size": None}, "whose metadata lack 'vocab_size'"),
        ({"tail": None}, {}, "of mode `topk` without `tail`"),
        ({}, {"temperatures": [1.0, 2.0]}, "of mode `topk` without `tail@2.0`"),
        ({}, {"mode": "sampled"}, "of mode `sampled` without `counts`"),
        ({"offset": np.zeros(1, np.int64)}, {}, "whose offsets do not fit its 1 keys"),
        ({"offset": np.array([0, 9])}, {}, "whose offsets do not fit its 1 keys"),
    ],
)
def test_what_another_scorer_wrote_is_refused_where_something_is_missing(
    tmp_path: Path, tensors: dict[str, np.ndarray | None], about: dict[str, object], message: str
) -> None:
    path = tmp_path / "s.safetensors"
    shards.write(path, [ShardRows("k", [1, 2, 3], rows(0, 3, 4, 40))], ShardInfo("m", "t", None, 40, 4))
    with safe_open(path, framework="numpy") as file:
        whole = {name: file.get_tensor(name) for name in file.keys()} | tensors  # noqa: SIM118  # it is no mapping
        told = json.loads(file.metadata()["distill"]) | about
    told = {name: value for name, value in told.items() if value is not None or name == "template"}
    kept = {name: values for name, values in whole.items() if values is not None}
    save_file(kept, path, metadata={"distill": json.dumps(told)})
    with pytest.raises(DistillError, match=message):
        Shard(path)


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.safetensors"
    path.write_bytes(b"junk")
    with pytest.raises(DistillError, match="not a readable logit shard"):
        Shard(path)
