"""Importance matrices: both formats of llama-imatrix, what is written, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from distill.core.errors import DistillError
from distill.core.models import resolve
from distill.gguf import imatrix
from distill.gguf.convert import convert, plan
from distill.gguf.imatrix import Entry, ImportanceMatrix

GOLDEN = Path(__file__).parents[1] / "golden" / "imatrix"


def made(**changes: list[float]) -> ImportanceMatrix:
    entries = {"blk.0.attn_q.weight": [1.0, 4.0], "blk.0.ffn_down.weight": [0.0, 9.0, 2.0], **changes}
    return ImportanceMatrix({n: Entry(np.array(v, np.float32), 4) for n, v in entries.items()}, "text", 3, 512)


def test_what_is_written_is_read_again(tmp_path: Path):
    made().write(tmp_path / "x.gguf")

    got = imatrix.read(tmp_path / "x.gguf")

    assert (got.dataset, got.chunks, got.chunk_size) == ("text", 3, 512)
    assert {name: (entry.sums_C.tolist(), entry.count) for name, entry in got.entries.items()} == {
        "blk.0.attn_q.weight": ([1.0, 4.0], 4), "blk.0.ffn_down.weight": ([0.0, 9.0, 2.0], 4),
    }  # fmt: skip


def test_a_file_of_llama_imatrix_written_again_is_the_same_file(tmp_path: Path):
    imatrix.read(GOLDEN / "student.gguf").write(tmp_path / "x.gguf")

    assert (tmp_path / "x.gguf").read_bytes() == (GOLDEN / "student.gguf").read_bytes()


def test_both_formats_of_llama_imatrix_say_the_same():
    new, old = imatrix.read(GOLDEN / "student.gguf"), imatrix.read(GOLDEN / "student.dat")

    assert new.entries.keys() == old.entries.keys()
    assert (new.dataset, new.chunks) == (old.dataset, old.chunks) == ("student.txt", 7)
    for name, entry in new.entries.items():
        assert np.allclose(entry.mean, old.entries[name].mean, rtol=1e-6)


def test_a_column_counts_by_its_mean_square_and_alike_where_nothing_was_seen():
    assert Entry(np.array([2.0, 6.0], np.float32), 4).mean.tolist() == [0.5, 1.5]
    assert Entry(np.array([2.0, 6.0], np.float32), 0).mean.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"blk.0.attn_q.weight": 2, "blk.0.ffn_down.weight": 3}, None),
        ({"blk.0.attn_q.weight": 2}, "has blk.0.ffn_down.weight, which this model does not have"),
        (
            {"blk.0.attn_q.weight": 2, "blk.0.ffn_down.weight": 3, "blk.1.attn_q.weight": 2},
            r"nothing about blk.1.attn_q.weight \(1 matrices\)",
        ),
        ({"blk.0.attn_q.weight": 4, "blk.0.ffn_down.weight": 3}, "2 columns of blk.0.attn_q.weight, which has 4"),
    ],
)
def test_one_of_another_model_is_refused_by_what_differs(columns: dict[str, int], words: str | None):
    if words is None:
        made().check(columns)
        return
    with pytest.raises(DistillError, match=words):
        made().check(columns)


def test_a_conversion_with_another_models_matrix_is_refused_before_anything_is_written(
    tiny_model: Path, tmp_path: Path
):
    with pytest.raises(DistillError, match=r"student.gguf: .*another model"):
        convert(tiny_model, tmp_path / "x.gguf", "q4_k_m", importance=imatrix.read(GOLDEN / "student.gguf"))
    assert list(tmp_path.iterdir()) == []


def test_the_header_names_the_matrix_as_llama_quantize_does(tmp_path: Path):
    from gguf import GGUFReader

    matrix = imatrix.read(GOLDEN / "student.gguf")

    convert(resolve("embedded-student"), tmp_path / "x.gguf", "q4_k_m", importance=matrix)

    fields = GGUFReader(tmp_path / "x.gguf").fields
    said = {key: fields[f"quantize.imatrix.{key}"].contents() for key in ("file", "dataset", "entries_count")}
    assert said == {"file": "student.gguf", "dataset": "student.txt", "entries_count": 21}


def test_weights_move_the_error_to_the_columns_that_matter_less():
    from gguf import GGMLQuantizationType

    from distill.gguf import ggml

    rng = np.random.default_rng(0)
    values = rng.normal(size=(32, 256)).astype(np.float32)
    weights = np.where(np.arange(256) % 8 == 0, 100.0, 1.0).astype(np.float32)
    errors = {}
    for label, importance in (("plain", None), ("weighed", weights)):
        data = ggml.quantise(values, GGMLQuantizationType.Q4_K, importance)
        got = ggml.dequantise(data, GGMLQuantizationType.Q4_K, values.shape)
        errors[label] = np.mean((got - values) ** 2, axis=0)

    assert errors["weighed"][::8].mean() < 0.8 * errors["plain"][::8].mean()


def legacy(values: tuple[float, ...] = (1.0, 2.0), size: int | None = None) -> bytes:
    name = b"blk.0.attn_q.weight"
    head = struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 2, len(values) if size is None else size)
    return head + struct.pack(f"<{len(values)}f", *values)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no importance matrix of llama-imatrix"),
        (b"GGUF" + b"\xff" * 40, "cannot be read as GGUF"),
        (b"hello world, this is some text", "no importance matrix of llama-imatrix"),
        (legacy()[:-2], "cut short"),
        (legacy(size=1 << 30), "cut short"),
        (legacy(values=(1.0, float("nan"))), "no mean squares"),
        (legacy(values=(1.0, -1.0)), "no mean squares"),
        (struct.pack("<i", 0), "without an entry"),
    ],
)
def test_what_is_no_importance_matrix_is_one_line(tmp_path: Path, content: bytes, words: str):
    (tmp_path / "x.dat").write_bytes(content)

    with pytest.raises(DistillError, match=words):
        imatrix.read(tmp_path / "x.dat")


def test_a_model_and_a_missing_file_are_named(tiny_model: Path, tmp_path: Path):
    convert(tiny_model, tmp_path / "model.gguf", "q8_0")

    with pytest.raises(DistillError, match="a GGUF file, but no importance matrix"):
        imatrix.read(tmp_path / "model.gguf")
    with pytest.raises(DistillError, match="no such importance matrix"):
        imatrix.read(tmp_path / "none")


def test_a_type_that_is_not_quantised_takes_no_notice(tiny_model: Path):
    columns = {e.tensor.name: e.tensor.shape[-1] for e in plan(tiny_model, "f32").tensors if len(e.tensor.shape) > 1}
    matrix = ImportanceMatrix({n: Entry(np.ones(c, np.float32), 1) for n, c in columns.items() if n[:3] == "blk"})

    assert plan(tiny_model, "f16", importance=matrix).types_used == plan(tiny_model, "f16").types_used
