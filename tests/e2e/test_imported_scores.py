"""Other people's traces become rows with teacher logits: imported, scored by the teacher, trained with KL."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.core import shards, tables
from distill.core.records import Trace, TraceTokens
from tests.e2e import small

EXPERIMENT = """\
name: small
seed: 0
problems: {source: {jsonl: {path: problems.jsonl, question: question, gold: answer}}, dev_share: 0.0, test_share: 0.1}
import: {layout: chat, path: traces.jsonl}
verify: {verifier: math}
filter: [verdict]
teacher: {model: embedded}
score: {mode: sampled, draws: 12, temperatures: [2.0]}
student: {model: embedded}
train: {epochs: 1, learning_rate: 2.0e-3, batch_size: 4, loss: {forward_kl: {loss_temperature: 2.0}}}
"""


def grade_school(folder: Path) -> None:
    """Problems and worked traces in the manner of GSM8K, from somebody who has no ids to give."""
    problems, traces = [], []
    for n in range(14):
        bought, price = 3 + n, 4 + n % 5
        question = f"Tom buys {bought} pens at {price} coins each. How many coins does he pay?"
        problems.append({"question": question, "answer": str(bought * price)})
        said = f"<think>\n{bought}*{price}={bought * price}\n</think>\n\nAnswer: \\boxed{{{bought * price}}}"
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
        traces.append({"messages": turns})
    for name, rows in (("problems", problems), ("traces", traces)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported")
    grade_school(folder)
    small.prepare(folder, EXPERIMENT)
    done = small.run(folder, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def stage(folder: Path, name: str) -> Path:
    (found,) = (folder / "runs" / "small").glob(f"{name}-*")
    return found


def test_every_imported_trace_gets_ids_and_rows(ran: Path) -> None:
    traces = tables.read(stage(ran, "filter") / "traces.parquet", Trace)
    made = tables.read(stage(ran, "score") / "tokens.parquet", TraceTokens)
    (shard,) = shards.find(stage(ran, "score"))
    assert all(trace.completion_ids is None for trace in traces)
    assert [tokens.key for tokens in made] == [trace.key for trace in traces] == shard.keys
    for tokens in made:
        got = shard.draws(tokens.key, tokens.completion_ids)
        assert got.present_N.all()
        assert got.realised_N.mean() > -6  # the teacher knows such sums


def test_the_student_is_matched_on_all_of_them(ran: Path) -> None:
    counts = small.manifests(ran)[stage(ran, "train").name]["counts"]
    assert counts["rendered"] == {}
    assert counts["kd_tokens"] == counts["trained_tokens"] > 100
    assert 0 < counts["kd_last"] < 10
