"""Traces, teacher logits and stage folders made for the tests of training: small, exact, without any sampling.

Shapes: N completion tokens, V vocabulary entries, K recorded ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from distill.core import shards, tables
from distill.core.config import Settings
from distill.core.protocols import TokenLogprobs
from distill.core.records import Message, Trace
from distill.core.shards import ShardInfo, ShardRows
from distill.core.stage import StageRun, Workspace
from distill.text.chat import render_prompt
from students import settings, train
from students.rows import StudentText, read_student


def a_trace(student: StudentText, number: int, **changes: Any) -> Trace:
    """A finished trace whose ids are the student's own, as a teacher with the same tokenizer and template draws it."""
    a, b = 12 + 7 * number % 83, 3 + number % 6
    messages = (Message("user", f"What is {a}*{b}?"),)
    lines = [f"{a}*{b}={a * b}", *(f"{a * b}+{n}={a * b + n}" for n in range(number % 4))]
    reasoning, answer = "\n".join(lines) + "\n", f"\n\nThe answer is \\boxed{{{a * b}}}."
    prompt = render_prompt(student.tokenizer, messages, thinking=True)
    ids = student.tokenizer(f"{reasoning}</think>{answer}", add_special_tokens=False)["input_ids"]
    values: dict[str, Any] = {
        "key": f"{number:064x}", "problem_id": f"{number:032x}", "messages": messages, "reasoning": reasoning,
        "answer": answer, "gold": str(a * b), "model_id": "teacher", "prompt_ids": prompt.prompt_ids,
        "prefill_ids": prompt.prefill_ids, "completion_ids": (*ids, student.end_id), "tokenizer": student.fingerprint,
    }  # fmt: skip
    return Trace(**{**values, **changes})


def teacher_logits(completion_ids: Sequence[int], vocab: int, seed: int, peak: float = 6.0) -> np.ndarray:
    """Log-probabilities [N, V] of a made-up teacher that mostly says the token that was drawn. float64."""
    logits_NV = np.random.default_rng(seed).normal(size=(len(completion_ids), vocab)) * 1.5
    logits_NV[np.arange(len(completion_ids)), completion_ids] += peak
    return logits_NV - np.logaddexp.reduce(logits_NV, axis=1, keepdims=True)


def recorded(log_p_NV: np.ndarray, completion_ids: Sequence[int], k: int) -> TokenLogprobs:
    """What an engine records of full log-probabilities: the k largest, the exact tail, the realised token's."""
    ids_NK = np.argsort(-log_p_NV, axis=1, kind="stable")[:, :k]
    rest_NV = log_p_NV.copy()
    np.put_along_axis(rest_NV, ids_NK, -np.inf, axis=1)
    return TokenLogprobs(
        ids_NK=ids_NK.astype(np.int32),
        logprobs_NK=np.take_along_axis(log_p_NV, ids_NK, axis=1).astype(np.float32),
        tail_N=np.logaddexp.reduce(rest_NV, axis=1).astype(np.float32),
        realised_N=log_p_NV[np.arange(len(completion_ids)), completion_ids].astype(np.float32),
        present_N=np.ones(len(completion_ids), bool),
    )


def write_shard(
    path: Path, traces: Sequence[Trace], vocab: int, *, k: int = 8, tokenizer: str | None, shift: int = 0,
    temperatures: tuple[float, ...] = (1.0,), **info: Any,
) -> None:  # fmt: skip
    """Write a logit shard of made-up teacher logits. `shift` moves rows against their tokens, as a faulty engine."""
    rows = []
    for number, trace in enumerate(traces):
        assert trace.completion_ids is not None
        log_p_NV = np.roll(teacher_logits(trace.completion_ids, vocab, number), shift, axis=0)
        kept = recorded(log_p_NV, trace.completion_ids, k)
        tails = {}
        for temperature in temperatures:
            soft_NV = log_p_NV / temperature
            np.put_along_axis(soft_NV, kept.ids_NK.astype(np.int64), -np.inf, axis=1)
            tails[temperature] = np.logaddexp.reduce(soft_NV, axis=1).astype(np.float32)
        rows.append(ShardRows(trace.key, trace.completion_ids, replace(kept, tails=tails)))
    about = {"model_id": "teacher", "template": None, "vocab_size": vocab, "top_k": k, **info}
    shards.write(path, rows, ShardInfo(tokenizer=tokenizer, temperatures=temperatures, **about))


def stage_of(
    folder: Path, model: Path, *, train_settings: Mapping[str, Any], student_settings: Mapping[str, Any] | None = None,
    traces: Sequence[Trace] | None = None, k: int = 8, seed: int = 0, shard: bool = True,
) -> StageRun:  # fmt: skip
    """A train stage ready to run: filter and sample folders filled, `work` kept from an earlier call in `folder`."""
    student = read_student(model)
    traces = [a_trace(student, n) for n in range(20)] if traces is None else traces
    for name in ("filter", "sample", "train"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    tables.write(folder / "filter" / "traces.parquet", traces, Trace)
    with_ids = [trace for trace in traces if trace.completion_ids]
    if shard and with_ids:
        write_shard(
            folder / "sample" / "logits-00000.safetensors", with_ids, student.vocab_size, k=k,
            tokenizer=student.fingerprint,
        )  # fmt: skip
    sections: dict[str, Settings] = {
        "train": train.Config.model_validate(dict(train_settings)),
        "student": settings.Config.model_validate({"model": str(model), "device": "cpu", **(student_settings or {})}),
    }
    inputs = {"filter": folder / "filter", "sample": folder / "sample"}
    return StageRun("train", folder / "train", inputs, sections, seed, Workspace(folder))
