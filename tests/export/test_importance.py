"""The importance matrix is llama-imatrix's, and traces are drawn for it alike every time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from distill.core.errors import DistillError
from distill.core.fingerprint import tokenizer_fingerprint
from distill.core.models import resolve
from distill.core.records import Message, Trace
from distill.export.importance import drawn, ids_of, measure
from distill.gguf import imatrix
from tests.export.imatrix_reference import GOLDEN, chunks, texts
from tests.gguf.test_adapter import make_adapter
from tests.tiny import make_tiny_model


def of_text(folder: Path, name: str) -> imatrix.ImportanceMatrix:
    """Measured here on the text that llama-imatrix read."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(texts()[name]).ids
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    adds_bos = ids[0] == config["bos_token_id"]
    return measure(folder, chunks(ids, ids[0] if adds_bos else None), dataset=name, most_tokens=10**9)


def assert_same(folder: Path, name: str) -> None:
    due, got = imatrix.read(GOLDEN / f"{name}.gguf"), of_text(folder, name)

    assert got.entries.keys() == due.entries.keys()
    for matrix, entry in due.entries.items():
        assert got.entries[matrix].count == entry.count
        assert np.max(np.abs(got.entries[matrix].mean / entry.mean - 1)) < 0.005, matrix


def test_the_students_is_llama_imatrixs_in_every_column():
    assert_same(resolve("embedded-student"), "student")


def test_a_trained_llamas_is_llama_imatrixs_in_every_column(shared_data: Path):
    assert_same(shared_data / "stories260k" / "hf", "stories260k")


def test_an_adapter_is_measured_beside_its_base(tmp_path: Path):
    base = make_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    ids = [list(range(5, 40))]

    plain = measure(base, ids, dataset="x", most_tokens=100).entries
    adapted = measure(base, ids, adapter=adapter, dataset="x", most_tokens=100).entries

    assert plain.keys() == adapted.keys()
    assert np.allclose(plain["blk.0.attn_q.weight"].sums_C, adapted["blk.0.attn_q.weight"].sums_C)  # the embeddings'
    assert not np.allclose(plain["blk.1.ffn_down.weight"].sums_C, adapted["blk.1.ffn_down.weight"].sums_C, rtol=0.01)


def test_sums_add_up_over_sequences_and_stop_at_the_budget(tiny_model: Path):
    first, second = list(range(5, 25)), list(range(60, 30, -1))

    def entry(sequences: list[list[int]], budget: int = 100) -> imatrix.Entry:
        return measure(tiny_model, sequences, dataset="x", most_tokens=budget).entries["blk.1.ffn_up.weight"]

    both, alone, cut = entry([first, second]), [entry([first]), entry([second])], entry([first, second], 30)

    assert both.count == 50
    assert np.allclose(both.sums_C, alone[0].sums_C + alone[1].sums_C, rtol=1e-5)
    assert cut.count == 30


def test_no_text_is_said(tiny_model: Path):
    with pytest.raises(DistillError, match="kept traces: there is no text"):
        measure(tiny_model, [], dataset="kept traces", most_tokens=10)


def trace(key: str, *, ids: tuple[int, ...] | None = None, tokenizer: str | None = None, size: int = 30) -> Trace:
    return Trace(key, "p", (Message("user", "2+2?"),), "a" * size, "4", completion_ids=ids, tokenizer=tokenizer)


def test_traces_are_drawn_by_key_not_by_place():
    traces = [trace(f"k{i}") for i in range(200)]

    forth, back = drawn(traces, 50), drawn(traces[::-1], 50)

    assert [t.key for t in forth] == [t.key for t in back]
    assert 6 * 50 <= sum(len(t.reasoning or "") + 1 for t in forth) < 6 * 50 + 31
    assert len({int(t.key[1:]) // 100 for t in forth}) == 2  # from both halves of the file


def test_a_trace_is_its_own_ids_where_the_tokenizer_made_them_and_its_text_elsewhere(tiny_model: Path):
    from transformers import AutoTokenizer

    own = tokenizer_fingerprint(tiny_model)
    drawn_here = trace("a", ids=(70, 71, 72), tokenizer=own)
    elsewhere = trace("b", ids=(70, 71, 72), tokenizer="other")

    a, b = ids_of([drawn_here, elsewhere], tiny_model)

    assert a[-3:] == [70, 71, 72]
    text = AutoTokenizer.from_pretrained(tiny_model).decode(b)
    assert text.endswith("a" * 30 + "\n</think>\n\n4") and text.count("<think>") == 1
    assert a[: len(a) - 3] == b[: len(a) - 3]  # the prompt
