"""Batches: masks from lengths, every row with its own teacher rows, an order that depends on the seed alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from distill.core.errors import DistillError
from students.collate import IGNORED, Collator, epoch_order, stacked
from students.rows import Row, StudentText, build_rows, read_student
from students.teacher_logits import TeacherLogits
from students.trainer import teacher_rows
from tests.students.made import a_trace, write_shard


@pytest.fixture(scope="module")
def student(tiny_model: Path) -> StudentText:
    return read_student(tiny_model)


@pytest.fixture
def collator(tmp_path: Path, student: StudentText) -> Collator:
    """Ten rows with teacher rows, one rendered row, one drawn row without any."""
    traces = [a_trace(student, n) for n in range(12)]
    traces[3] = a_trace(student, 3, tokenizer="another")
    path = tmp_path / "logits.safetensors"
    write_shard(path, traces[:11], student.vocab_size, tokenizer=student.fingerprint)
    teacher = TeacherLogits([path], tokenizer=student.fingerprint, vocab_size=student.vocab_size, top_k=5)
    return Collator(build_rows(traces, student, target="trace", max_length=None).rows, teacher)


def test_labels_come_from_lengths_and_keep_a_stop_that_equals_the_padding(student: StudentText) -> None:
    end = student.end_id
    rows = [Row("a", np.array([5, 6, 7, end], np.int32), 2), Row("b", np.array([5, end, 9, end, 8, end], np.int32), 3)]
    batch = Collator(rows, None)([{"row": 0}, {"row": 1}])
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 7, end, IGNORED, IGNORED], [IGNORED] * 3 + [end, 8, end]]
    assert batch["input_ids"][1].tolist() == [5, end, 9, end, 8, end]
    assert batch["rows"].tolist() == [[0], [1]]
    assert set(batch) == {"input_ids", "labels", "rows"}


def test_every_row_meets_its_own_teacher_rows_in_any_order(collator: Collator) -> None:
    assert collator.teacher is not None
    for order in ([0, 1, 2, 3], [11, 3, 7, 5], [5, 0, 11, 2, 9]):
        batch = collator([{"row": place} for place in order])
        flat = teacher_rows(batch)
        at = 0
        for place in order:
            row = collator.rows[place]
            n = len(row.completion_ids)
            if place in (3, 11):  # rendered, or nothing recorded
                assert not flat.present_R[at : at + n].any()
            else:
                expected = collator.teacher.rows(row.key, row.completion_ids)
                assert flat.present_R[at : at + n].all()
                assert torch.equal(flat.ids_RK[at : at + n], torch.from_numpy(expected.ids_NK).long())
                assert torch.equal(flat.tail_R[at : at + n], torch.from_numpy(expected.tail_N))
                # The row's first id is what the made-up teacher favours: the very token that is its label.
                labels = torch.from_numpy(row.completion_ids).long()
                assert (flat.ids_RK[at : at + n, 0] == labels).float().mean() > 0.5
            at += n
        assert at == len(flat.ids_RK)


def test_an_answer_of_one_token_gives_one_row(tmp_path: Path, student: StudentText) -> None:
    """A mask taken at i instead of i + 1 would give two, or none."""
    batch = Collator([Row("a", np.array([5, 6, 7, 8], np.int32), 3)], None)([{"row": 0}])
    assert (batch["labels"][:, 1:] != IGNORED).nonzero().tolist() == [[0, 2]]


def test_a_count_that_differs_is_refused(collator: Collator) -> None:
    batch = collator([{"row": 0}])
    batch["labels"][0, -1] = IGNORED
    with pytest.raises(ValueError, match="teacher rows for"):
        teacher_rows(batch)


def test_rows_are_joined_by_the_hash_of_their_tokens(collator: Collator) -> None:
    """The trap: rows matched by place. Two rows that swap keys are refused, not trained on."""
    rows = list(collator.rows)
    rows[0], rows[1] = Row(rows[1].key, rows[0].ids, rows[0].start), Row(rows[0].key, rows[1].ids, rows[1].start)
    with pytest.raises(DistillError, match="other tokens"):
        Collator(rows, collator.teacher)([{"row": 0}])


@given(st.lists(st.integers(1, 500), min_size=1, max_size=80), st.integers(1, 9), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_sees_every_row_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    order = epoch_order(lengths, batch_size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert order.tolist() == epoch_order(lengths, batch_size, seed, epoch).tolist()


def test_steps_hold_rows_of_like_length_and_epochs_differ() -> None:
    lengths = np.random.default_rng(0).integers(20, 400, 1000)
    first, second = (epoch_order(lengths.tolist(), 32, 0, epoch) for epoch in (0, 1))
    assert first.tolist() != second.tolist()
    padded = sum(lengths[first[at : at + 32]].max() * len(first[at : at + 32]) for at in range(0, 1000, 32))
    assert padded / lengths.sum() < 1.10
    heads = lengths[first[: 31 * 32 : 32]]
    assert abs(np.corrcoef(np.arange(31), heads)[0, 1]) < 0.6  # the steps themselves are in no order of length


def test_drawn_ids_are_as_many_as_they_are_and_are_filled_up_with_weight_zero() -> None:
    """Sequences of different length, each as wide as its most varied token."""

    def columns(n: int, width: int) -> dict[str, np.ndarray]:
        return {
            "teacher_ids": np.full((n, width), 7), "teacher_weights": np.full((n, width), 0.5, np.float32),
            "teacher_entropy": np.ones(n, np.float32), "teacher_present": np.ones(n, bool),
        }  # fmt: skip

    def blank(n: int) -> dict[str, np.ndarray]:
        return {name: np.zeros_like(values) for name, values in columns(n, 1).items()}

    batch = stacked([columns(2, 3), columns(4, 1), columns(0, 1)], blank)
    assert {name: values.shape for name, values in batch.items()} == {
        "teacher_rows": (3, 4), "teacher_ids": (3, 4, 3), "teacher_weights": (3, 4, 3), "teacher_entropy": (3, 4),
        "teacher_present": (3, 4),
    }  # fmt: skip
    assert batch["teacher_rows"].sum(1).tolist() == [2, 4, 0]
    assert batch["teacher_weights"].sum(2).tolist() == [[1.5, 1.5, 0, 0], [0.5] * 4, [0] * 4]
    assert not batch["teacher_present"][~batch["teacher_rows"]].any()
