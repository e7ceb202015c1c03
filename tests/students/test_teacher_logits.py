"""Teacher rows from shards: refused where they do not fit, folded exactly, aligned or not at all."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core import shards
from distill.core.errors import DistillError
from distill.core.protocols import Keep, SampledLogprobs, TokenLogprobs
from distill.core.records import Trace
from distill.core.shards import ShardInfo, ShardRows
from distill.decoding.record import recorder
from students.rows import Row, StudentText, build_rows, read_student
from students.teacher_logits import TeacherLogits, fold, weigh
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

    folded = fold(replace(many, tails={temperature: tail(many)}), 4, temperature)
    np.testing.assert_array_equal(folded.ids_NK, few.ids_NK)
    np.testing.assert_allclose(folded.tail_N, tail(few), rtol=1e-6)


def test_absent_rows_hold_harmless_values() -> None:
    got = recorded(teacher_logits([3, 5], 40, 0), [3, 5], 4)
    got.logprobs_NK[1], got.tail_N[1], got.present_N[1] = np.nan, np.nan, False
    got.ids_NK[1] = 0
    folded = fold(got, 4, 1.0)
    assert np.isfinite(folded.logprobs_NK).all()
    assert np.isfinite(folded.tail_N).all()
    assert folded.ids_NK[1].tolist() == [0, 1, 2, 3]
    assert folded.present_N.tolist() == [True, False]


def test_a_row_without_the_tail_term_at_this_temperature_is_absent() -> None:
    got = recorded(teacher_logits([3, 5], 40, 0), [3, 5], 4)
    got = replace(got, tails={2.0: np.array([-1.0, np.nan], np.float32)})
    assert fold(got, 4, 1.0).present_N.tolist() == [True, True]
    assert fold(got, 4, 2.0).present_N.tolist() == [True, False]
    assert np.isfinite(fold(got, 4, 2.0).tail_N).all()


def test_shards_that_promise_a_temperature_and_have_it_nowhere_are_refused(
    tmp_path: Path, student: StudentText, traces: list[Trace]
) -> None:
    """What sampling writes of answers that were stored before the temperature was asked for."""
    rows = []
    for number, trace in enumerate(traces):
        ids = trace.completion_ids or ()
        got = recorded(teacher_logits(ids, student.vocab_size, number), ids, 8)
        rows.append(ShardRows(trace.key, ids, replace(got, tails={2.0: np.full(len(ids), np.nan, np.float32)})))
    path = tmp_path / "logits.safetensors"
    info = ShardInfo("teacher", student.fingerprint, None, student.vocab_size, 8, temperatures=(1.0, 2.0))
    shards.write(path, rows, info)
    opened(path, student).prove_alignment(pairs(traces))
    with pytest.raises(DistillError, match="none at this `loss_temperature`"):
        opened(path, student, temperature=2.0).prove_alignment(pairs(traces))


# ---- draws


def drawn(log_p_NV: np.ndarray, ids: Any, draws: int, key: str, temperatures: tuple[float, ...] = ()) -> Any:
    """What the scoring engine keeps of these distributions in mode `sampled`."""
    keeper = recorder(Keep(draws=draws, temperatures=temperatures), key)
    keeper.add(torch.from_numpy(log_p_NV).float(), torch.tensor(ids, dtype=torch.int64))
    return keeper.rows()


def write_draws(
    path: Path, traces: list[Trace], vocab: int, *, tokenizer: str | None, shift: int = 0, draws: int = 20,
    temperatures: tuple[float, ...] = (), realised_moves: bool = True,
) -> None:  # fmt: skip
    rows = []
    for number, trace in enumerate(traces):
        assert trace.completion_ids is not None
        log_p_NV = teacher_logits(trace.completion_ids, vocab, number)
        got = drawn(np.roll(log_p_NV, shift, axis=0), trace.completion_ids, draws, trace.key, temperatures)
        if not realised_moves:
            got = replace(got, realised_N=log_p_NV[np.arange(len(log_p_NV)), trace.completion_ids].astype(np.float32))
        rows.append(ShardRows(trace.key, trace.completion_ids, got))
    info = ShardInfo("teacher", tokenizer, None, vocab, mode="sampled", draws=draws, temperatures=(1.0, *temperatures))
    shards.write(path, rows, info)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.7])
def test_the_mean_of_the_weights_is_the_teacher_at_the_loss_temperature(temperature: float) -> None:
    """Trap 16: without bias, through the weights that the trainer sees, at temperatures other than 1 too."""
    log_p_NV, ids = teacher_logits([3, 5], 40, 0, peak=2.0), [3, 5]
    soft_NV = log_p_NV / temperature
    expected_NV = np.exp(soft_NV - np.logaddexp.reduce(soft_NV, axis=1, keepdims=True))
    total_NV, squares_NV, n = np.zeros((2, 40)), np.zeros((2, 40)), 3000
    for number in range(n):
        others = () if temperature == 1 else (temperature,)
        got = weigh(drawn(log_p_NV, ids, 12, f"key {number}", others), 12, temperature)
        once_NV = np.zeros((2, 40))
        np.add.at(once_NV, (np.arange(2)[:, None], got.ids_NS), got.weights_NS)
        total_NV += once_NV
        squares_NV += once_NV**2
    mean_NV = total_NV / n
    sigma_NV = np.sqrt(np.maximum(squares_NV / n - mean_NV**2, 0) / n)
    assert (np.abs(mean_NV - expected_NV) <= 5 * sigma_NV + 1e-6).all()
    if temperature != 1:  # a weight that forgets p^(1/T - 1) would be found out
        assert (np.abs(np.exp(log_p_NV) - expected_NV) > 5 * sigma_NV + 1e-6).any()


def test_a_student_who_agrees_with_the_teacher_has_a_kl_of_nothing() -> None:
    """The entropy that the loss subtracts is that of the same draws, where their log-probabilities are known."""
    log_p_NV, ids = teacher_logits([3, 5, 9], 40, 0, peak=2.0), [3, 5, 9]
    for temperature in (1.0, 2.0):
        got = weigh(drawn(log_p_NV, ids, 30, "k", (2.0,)), 30, temperature)
        soft_NV = log_p_NV / temperature
        soft_NV -= np.logaddexp.reduce(soft_NV, axis=1, keepdims=True)
        crossed_N = -(got.weights_NS * np.take_along_axis(soft_NV, got.ids_NS.astype(np.int64), axis=1)).sum(axis=1)
        np.testing.assert_allclose(crossed_N - got.entropy_N, 0, atol=2e-6)
    plain = weigh(drawn(log_p_NV, ids, 30, "k"), 30, 1.0)
    np.testing.assert_allclose(plain.entropy_N, -(np.exp(log_p_NV) * log_p_NV).sum(axis=1), rtol=1e-4)


def test_draws_that_are_aligned_pass_and_shifted_ones_are_refused(
    tmp_path: Path, student: StudentText, traces: list[Trace]
) -> None:
    for shift in (-1, 0, 1):
        path = tmp_path / f"logits-{shift}.safetensors"
        write_draws(path, traces, student.vocab_size, tokenizer=student.fingerprint, shift=shift)
        if shift == 0:
            assert -2.5 < opened(path, student).prove_alignment(pairs(traces)) < 0
        else:
            with pytest.raises(DistillError, match="not aligned"):
                opened(path, student).prove_alignment(pairs(traces))


@pytest.mark.parametrize("mode", ["topk", "sampled"])
def test_rows_that_contradict_the_log_probabilities_of_their_tokens_are_refused(
    tmp_path: Path, student: StudentText, traces: list[Trace], mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second proof, by itself: every entry of a shifted row belongs to another token's column."""
    monkeypatch.setattr("students.alignment.PROOF_SIGMAS", -1e9)
    path = tmp_path / "logits.safetensors"
    if mode == "sampled":
        write_draws(path, traces, student.vocab_size, tokenizer=student.fingerprint, shift=1, realised_moves=False)
    else:
        rows = []
        for number, trace in enumerate(traces):
            ids = trace.completion_ids or ()
            log_p_NV = teacher_logits(ids, student.vocab_size, number)
            got = recorded(np.roll(log_p_NV, 1, axis=0), ids, 8)
            realised_N = log_p_NV[np.arange(len(ids)), ids].astype(np.float32)
            rows.append(ShardRows(trace.key, ids, replace(got, realised_N=realised_N)))
        shards.write(path, rows, ShardInfo("teacher", student.fingerprint, None, student.vocab_size, 8))
    with pytest.raises(DistillError, match="they contradict"):
        opened(path, student).prove_alignment(pairs(traces))


def test_draws_without_the_figures_of_a_temperature_are_refused(
    tmp_path: Path, student: StudentText, traces: list[Trace]
) -> None:
    path = tmp_path / "logits.safetensors"
    write_draws(path, traces, student.vocab_size, tokenizer=student.fingerprint, temperatures=(2.0,))
    opened(path, student, temperature=2.0)
    with pytest.raises(DistillError, match="no normaliser for `train.loss.loss_temperature` 4"):
        opened(path, student, temperature=4.0)


def test_shards_of_both_modes_are_not_one_teacher(tmp_path: Path, student: StudentText, traces: list[Trace]) -> None:
    write_draws(tmp_path / "a.safetensors", traces[:2], student.vocab_size, tokenizer=student.fingerprint)
    write_shard(tmp_path / "b.safetensors", traces[2:], student.vocab_size, tokenizer=student.fingerprint)
    with pytest.raises(DistillError, match="of mode `topk` and of mode `sampled`"):
        TeacherLogits(
            [tmp_path / "a.safetensors", tmp_path / "b.safetensors"], tokenizer=student.fingerprint,
            vocab_size=student.vocab_size, top_k=8,
        )  # fmt: skip


# ---- columns of a sequence


@pytest.fixture(params=["topk", "sampled"])
def teacher(request: pytest.FixtureRequest, tmp_path: Path, student: StudentText, traces: list[Trace]) -> TeacherLogits:
    """All traces but the last have rows."""
    path = tmp_path / "logits.safetensors"
    write = write_shard if request.param == "topk" else write_draws
    write(path, traces[:-1], student.vocab_size, tokenizer=student.fingerprint)
    return opened(path, student)


@pytest.fixture(scope="module")
def rows(student: StudentText, traces: list[Trace]) -> list[Row]:
    return list(build_rows(traces, student, target="trace", max_length=None).rows)


def test_columns_of_packed_rows_are_those_of_each_row_in_order(teacher: TeacherLogits, rows: list[Row]) -> None:
    packed = teacher.columns([rows[4], rows[-1], rows[0]])
    at = 0
    for row in (rows[4], rows[-1], rows[0]):
        alone, n = teacher.columns([row]), len(row.completion_ids)
        assert {name: len(values) for name, values in alone.items()} == dict.fromkeys(packed, n)
        assert alone["teacher_present"].all() == (row is not rows[-1])
        for name, values in alone.items():
            mine = packed[name][at : at + n]
            if values.ndim > 1:
                assert not mine[:, values.shape[1] :].any()  # rows with fewer draws are filled up with weight 0
                mine = mine[:, : values.shape[1]]
            np.testing.assert_array_equal(mine, values)
        at += n
    assert {len(values) for values in packed.values()} == {at}
    for name, values in teacher.blank(3).items():
        assert (len(values), values.dtype) == (3, packed[name].dtype)


def test_positions_choose_which_tokens_are_matched(teacher: TeacherLogits, rows: list[Row]) -> None:
    row = rows[2]
    answer = row.answer_at - row.start
    assert 0 < answer < len(row.completion_ids)
    present = {}
    for positions in ("all", "reasoning", "answer"):
        teacher.positions = positions  # type: ignore[assignment]  # one of the three
        present[positions] = teacher.columns([row])["teacher_present"]
    assert present["all"].all()
    np.testing.assert_array_equal(present["reasoning"], np.arange(len(row.completion_ids)) < answer)
    np.testing.assert_array_equal(present["answer"], ~present["reasoning"])


def test_rows_that_are_not_as_drawn_have_no_teacher_and_foreign_rows_are_refused(
    teacher: TeacherLogits, rows: list[Row]
) -> None:
    rendered = replace(rows[0], rendered="another tokenizer")
    assert not teacher.belongs(rendered)
    assert not teacher.columns([rendered])["teacher_present"].any()
    with pytest.raises(DistillError, match="belong to other tokens"):
        teacher.columns([replace(rows[0], ids=rows[1].ids, start=rows[1].start)])


def test_draws_are_read_whole() -> None:
    got = drawn(teacher_logits([3], 40, 0, peak=0.0), [3], 40, "k")
    assert isinstance(got, SampledLogprobs)
    weighed = weigh(got, 40, 1.0)
    assert weighed.weights_NS.sum() == pytest.approx(1.0)
    assert weighed.ids_NS.shape == (1, len(got.ids_E))
