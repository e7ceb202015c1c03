"""Teacher rows from shards: refused where they do not fit, folded exactly, aligned or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core import shards
from distill.core.errors import DistillError
from distill.core.protocols import TokenLogprobs
from distill.core.records import Trace
from distill.core.shards import ShardInfo, ShardRows
from students.rows import StudentText, read_student
from students.teacher_logits import TeacherLogits, fold
from tests.students.made import a_trace, recorded, teacher_logits, write_shard


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> StudentText:
    return read_student(tiny_model)


@pytest.fixture(scope="module")
def traces(student: StudentText) -> list[Trace]:
    return [a_trace(student, n) for n in range(12)]


def opened(path: Path, student: StudentText, **settings: Any) -> TeacherLogits:
    return TeacherLogits(
        [path], **{"tokenizer": student.fingerprint, "vocab_size": student.vocab_size, "top_k": 8, **settings}
    )


def pairs(traces: list[Trace]) -> list[tuple[str, Any]]:
    return [(trace.key, np.asarray(trace.completion_ids, np.int32)) for trace in traces]


def test_aligned_rows_pass_and_shifted_rows_are_refused(
    tmp_path: Path, student: StudentText, traces: list[Trace]
) -> None:
    for shift in (-1, 0, 1):
        path = tmp_path / f"logits-{shift}.safetensors"
        write_shard(path, traces, student.vocab_size, tokenizer=student.fingerprint, shift=shift)
        if shift == 0:
            assert -2.5 < opened(path, student).prove_alignment(pairs(traces)) < 0
        else:
            with pytest.raises(DistillError, match="not aligned"):
                opened(path, student).prove_alignment(pairs(traces))


def test_rows_of_other_tokens_are_refused(tmp_path: Path, student: StudentText, traces: list[Trace]) -> None:
    path = tmp_path / "logits.safetensors"
    write_shard(path, traces, student.vocab_size, tokenizer=student.fingerprint)
    ids = np.asarray(traces[0].completion_ids, np.int32)
    with pytest.raises(DistillError, match="other tokens"):
        opened(path, student).rows(traces[0].key, ids[::-1].copy())
    assert traces[0].key in opened(path, student)
    assert "none" not in opened(path, student)


@pytest.mark.parametrize(
    ("about", "settings", "message"),
    [
        ({"tokenizer": "other"}, {}, "tokenizer"),
        ({"tokenizer": None}, {"tokenizer": None}, "tokenizer"),
        ({}, {"top_k": 9}, "holds 8 log-probabilities"),
        ({}, {"temperature": 2.0}, "no tail term"),
        ({"mode": "sampled"}, {}, "mode"),
    ],
)
def test_a_shard_that_cannot_be_matched_is_refused(
    tmp_path: Path,
    student: StudentText,
    traces: list[Trace],
    about: dict[str, Any],
    settings: dict[str, Any],
    message: str,
) -> None:
    path = tmp_path / "logits.safetensors"
    write_shard(path, traces, student.vocab_size, **{"tokenizer": student.fingerprint, **about})
    with pytest.raises(DistillError, match=message):
        opened(path, student, **settings)


def test_padded_vocabularies_share_the_smaller_and_ids_beyond_it_are_refused(
    tmp_path: Path, student: StudentText, traces: list[Trace]
) -> None:
    path = tmp_path / "logits.safetensors"
    write_shard(path, traces, student.vocab_size + 64, tokenizer=student.fingerprint, k=8)
    teacher = opened(path, student)
    assert teacher.vocab_size == student.vocab_size
    with pytest.raises(DistillError, match="names id"):  # the made-up teacher does say its padding
        teacher.prove_alignment(pairs(traces))


def test_an_id_named_twice_is_refused(tmp_path: Path, student: StudentText, traces: list[Trace]) -> None:
    ids = traces[0].completion_ids
    got = recorded(teacher_logits(ids, student.vocab_size, 0), ids, 8)
    got.ids_NK[3, 1] = got.ids_NK[3, 0]
    path = tmp_path / "logits.safetensors"
    about = ShardInfo("teacher", student.fingerprint, None, student.vocab_size, 8)
    shards.write(path, [ShardRows(traces[0].key, ids, got)], about)
    with pytest.raises(DistillError, match="twice"):
        opened(path, student).rows(traces[0].key, np.asarray(ids, np.int32))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_folding_to_fewer_ids_is_exact(temperature: float) -> None:
    log_p_NV = teacher_logits([3, 5, 7], 40, 0, peak=2.0)
    many, few = recorded(log_p_NV, [3, 5, 7], 16), recorded(log_p_NV, [3, 5, 7], 4)

    def tail(got: TokenLogprobs) -> np.ndarray:
        soft_NV = log_p_NV / temperature
        np.put_along_axis(soft_NV, got.ids_NK.astype(np.int64), -np.inf, axis=1)
        return np.logaddexp.reduce(soft_NV, axis=1).astype(np.float32)

    folded = fold(many, tail(many), 4, temperature)
    np.testing.assert_array_equal(folded.ids_NK, few.ids_NK)
    np.testing.assert_allclose(folded.tail_N, tail(few), rtol=1e-6)


def test_absent_rows_hold_harmless_values() -> None:
    got = recorded(teacher_logits([3, 5], 40, 0), [3, 5], 4)
    got.logprobs_NK[1], got.tail_N[1], got.present_N[1] = np.nan, np.nan, False
    got.ids_NK[1] = 0
    folded = fold(got, got.tail_N, 4, 1.0)
    assert np.isfinite(folded.logprobs_NK).all()
    assert np.isfinite(folded.tail_N).all()
    assert folded.ids_NK[1].tolist() == [0, 1, 2, 3]
    assert folded.present_N.tolist() == [True, False]
