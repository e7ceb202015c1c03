"""A student that is its own teacher has nothing to learn: KL 0 at every token, however its rows were made.

The rows go the whole way: from an engine (captured while sampling, scored here, scored by a server) through a shard,
the collator and the loss. Moved by one token, the same rows are far from the student.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core import shards
from distill.core.protocols import Keep, Request, SampledLogprobs, ScoreRequest, TokenLogprobs
from distill.core.records import Sampling
from distill.core.shards import ShardInfo, ShardRows
from distill.engines import openai
from distill.engines import transformers as engine_module
from distill.engines.transformers import TransformersEngine
from students.collate import Collator
from students.head_loss import Matching, head_loss
from students.losses.forward_kl import forward_kl
from students.losses.jsd import Config as JsdConfig
from students.losses.jsd import build as jsd
from students.losses.reverse_kl import Config as ReverseConfig
from students.losses.reverse_kl import build as reverse_kl
from students.rows import Row, read_student
from students.teacher_logits import TeacherLogits
from students.trainer import teacher_rows
from tests.served.stub_server import refusal, serving
from tests.students.made import a_trace

K, T = 16, 2.0
MOVED = 0.01
"""Nats; rows of another token are further away than this, ten thousand times as far as a student's own."""


@pytest.fixture(scope="module")
def engine(tiny_model: Path) -> Iterator[TransformersEngine]:
    built = engine_module.build(engine_module.Config(device="cpu", dtype="fp32"), str(tiny_model))
    yield built
    built.close()


@pytest.fixture(scope="module")
def asked(tiny_model: Path) -> list[ScoreRequest]:
    """Prompts and completions; the last one has all but its first token scored, as if no prompt were masked."""
    student = read_student(tiny_model)
    traces = [a_trace(student, n) for n in range(3)]
    whole = [
        ScoreRequest(t.key, (*(t.prompt_ids or ()), *(t.prefill_ids or ())), t.completion_ids or ()) for t in traces
    ]
    ids = (*whole[-1].prompt_ids, *whole[-1].completion_ids)
    return [*whole, ScoreRequest("f" * 64, ids[:1], ids[1:])]


Made = list[tuple[ScoreRequest, TokenLogprobs | SampledLogprobs]]


def scored(engine: TransformersEngine, asked: list[ScoreRequest], keep: Keep) -> Made:
    got = dict(engine.score(asked, keep))
    return [(request, got[request.key]) for request in asked]


def captured(engine: TransformersEngine) -> Made:
    """Rows that fell off while answers were drawn."""
    how = Sampling(temperature=0.8, max_tokens=24, top_logprobs=K, logprob_temperatures=(T,))
    asked = [Request(f"{n:064x}", a_trace(read_student(engine_folder(engine)), n).messages, how) for n in range(3)]
    made: Made = []
    for completion in engine.generate(asked):
        prompt = (*(completion.prompt_ids or ()), *(completion.prefill_ids or ()))
        assert completion.logprobs is not None
        made.append((ScoreRequest(completion.key, prompt, completion.completion_ids or ()), completion.logprobs))
    return made


def engine_folder(engine: TransformersEngine) -> Path:
    return Path(engine.tokenizer.name_or_path)


def served(engine: TransformersEngine, asked: list[ScoreRequest]) -> Made:
    """Rows of a server that has the same model, in vLLM's manner."""

    def answer(path: str, body: Any) -> Any:
        if not path.endswith("/completions"):
            return refusal(404)
        with torch.inference_mode():
            logits_TV = engine._model(torch.tensor([body["prompt"]])).logits[0].double()
        log_p_TV = logits_TV.log_softmax(-1).numpy()
        rows: list[Any] = [None]
        for j in range(1, len(body["prompt"])):
            values = log_p_TV[j - 1]
            ids = {*np.argsort(-values)[: body["prompt_logprobs"]].tolist(), body["prompt"][j]}
            rows.append({str(i): {"logprob": float(values[i]), "rank": 1, "decoded_token": "x"} for i in ids})
        choice = {"index": 0, "text": "x", "finish_reason": "length", "prompt_logprobs": rows}
        return 200, {"content-type": "application/json"}, json.dumps({"choices": [choice]}).encode()

    with serving(answer) as stub:
        config = openai.Config(url=stub.url, tokenizer=str(engine_folder(engine)))
        got = dict(openai.build(config, "m").score(asked, Keep(K)))
    return [(request, got[request.key]) for request in asked]


def shard(path: Path, made: Made, *, draws: int, temperatures: tuple[float, ...]) -> Path:
    """As the stages write them: float16 for the largest entries."""
    info = ShardInfo(
        "m", "tok", None, 320, 0 if draws else K, "sampled" if draws else "topk", draws=draws,
        temperatures=(1.0, *temperatures), value_dtype="float32" if draws else "float16",
    )  # fmt: skip
    shards.write(path, [ShardRows(request.key, request.completion_ids, rows) for request, rows in made], info)
    return path


def kl_of_each(model: Any, made: Made, teacher: TeacherLogits, divergence: Any, temperature: float) -> list[float]:
    """The divergence at every trained token, through the collator and the head's loss."""
    rows = [
        Row(request.key, np.asarray([*request.prompt_ids, *request.completion_ids], np.int32), len(request.prompt_ids))
        for request, _ in made
    ]
    batch = Collator(rows, teacher)([{"row": n} for n in range(len(rows))])
    with torch.inference_mode():
        hidden_BTH = model.model(input_ids=batch["input_ids"]).last_hidden_state
        trained_BT = batch["labels"][:, 1:] != -100
        hidden_RH, labels_R = hidden_BTH[:, :-1][trained_BT], batch["labels"][:, 1:][trained_BT]
        flat = teacher_rows(batch)
        matching = Matching(divergence, 1.0, temperature, teacher.vocab_size)
        each = [slice(n, n + 1) for n in range(len(labels_R))]
        return [
            float(head_loss(hidden_RH[at], labels_R[at], model.lm_head, teacher=flat.rows(at), matching=matching).kd)
            for at in each
        ]


DIVERGENCES: dict[str, Callable[[], Any]] = {
    "forward_kl": lambda: forward_kl,
    "reverse_kl": lambda: reverse_kl(ReverseConfig()),
    "jsd": lambda: jsd(JsdConfig()),
}


CASES = [
    *((way, t, name) for way in ("captured", "scored") for t in (1.0, T) for name in DIVERGENCES),
    *(("served", 1.0, name) for name in DIVERGENCES),  # a server sees only the largest entries
    *(("drawn", t, "forward_kl") for t in (1.0, T)),  # draws are for forward KL alone
]


@pytest.mark.parametrize(("way", "temperature", "name"), CASES)
def test_nothing_is_left_to_learn_from_oneself(
    tmp_path: Path, engine: TransformersEngine, asked: list[ScoreRequest], way: str, temperature: float, name: str
) -> None:
    draws, others = (40 if way == "drawn" else 0), () if way == "served" else (T,)
    ways: dict[str, Callable[[], Made]] = {
        "captured": lambda: captured(engine),
        "scored": lambda: scored(engine, asked, Keep(K, temperatures=(T,))),
        "served": lambda: served(engine, asked),
        "drawn": lambda: scored(engine, asked, Keep(draws=draws, temperatures=(T,))),
    }
    made = ways[way]()

    def taught(rows: Made, file: str) -> TeacherLogits:
        path = shard(tmp_path / file, rows, draws=draws, temperatures=others)
        return TeacherLogits([path], tokenizer="tok", vocab_size=320, top_k=K, temperature=temperature)

    model, divergence = engine._model, DIVERGENCES[name]()
    each = kl_of_each(model, made, taught(made, "right.safetensors"), divergence, temperature)
    moved = kl_of_each(model, made, taught(moved_by_one(made), "moved.safetensors"), divergence, temperature)

    assert len(each) == sum(len(request.completion_ids) for request, _ in made) > 60
    assert np.abs(each).max() < 1e-5
    assert abs(np.mean(each)) < 1e-6
    assert np.mean(moved) > MOVED


def moved_by_one(made: Made) -> Made:
    """The same rows, each at the next token."""
    found: Made = []
    for request, rows in made:
        if isinstance(rows, TokenLogprobs):
            columns = {name: np.roll(values, 1, axis=0) for name, values in vars(rows).items() if name != "tails"}
            tails = {t: np.roll(values, 1) for t, values in rows.tails.items()}
            found.append((request, replace(rows, **columns, tails=tails)))
            continue
        last = slice(rows.offset[-2], rows.offset[-1])
        counts = np.roll(np.diff(rows.offset), 1)
        flat = {
            name: np.concatenate([values[last], values[: last.start]])
            for name, values in (("ids_E", rows.ids_E), ("counts_E", rows.counts_E), ("logprobs_E", rows.logprobs_E))
            if values is not None
        }
        figures = {
            name: {t: np.roll(values, 1) for t, values in getattr(rows, name).items()}
            for name in ("normalisers", "entropies")
        }
        offset = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        found.append((request, replace(rows, offset=offset, **flat, **figures)))
    return found
