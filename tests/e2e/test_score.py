"""The teacher's log-probabilities by a pass of their own: the same rows as captured while sampling, and trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.core import shards, tables
from distill.core.records import Trace
from tests.e2e import small

SCORED = (
    small.EXPERIMENT.partition("evaluate:")[0]
    .replace("top_logprobs: 8", "top_logprobs: 0")
    .replace("epochs: 2", "epochs: 1")
    .replace("student:", "score: {top_k: 8}\nstudent:")
)


def stage(folder: Path, name: str) -> Path:
    (found,) = (folder / "runs" / "small").glob(f"{name}-*")
    return found


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run that sampled without log-probabilities and scored the kept traces."""
    folder = tmp_path_factory.mktemp("scored")
    small.prepare(folder, SCORED)
    done = small.run(folder, "run", "small.yaml")
    assert done.returncode == 0, done.stderr
    return folder


def test_scoring_gives_the_rows_that_sampling_captures(scored: Path, finished: Path) -> None:
    traces = tables.read(stage(scored, "filter") / "traces.parquet", Trace)
    assert traces == tables.read(stage(finished, "filter") / "traces.parquet", Trace)
    assert shards.find(stage(scored, "sample")) == []
    (made,), (captured,) = shards.find(stage(scored, "score")), shards.find(stage(finished, "sample"))

    assert made.info == captured.info
    assert made.keys == [trace.key for trace in traces]
    for trace in traces:
        ours, theirs = (shard.rows(trace.key, trace.completion_ids or ()) for shard in (made, captured))
        assert ours.present_N.all() and theirs.present_N.all()
        np.testing.assert_allclose(ours.realised_N, theirs.realised_N, rtol=0, atol=1e-4)
        np.testing.assert_allclose(ours.tail_N, theirs.tail_N, rtol=0, atol=1e-4)
        # Stored in half precision: two floats that hardly differ may fall on neighbouring values.
        step_NK = np.spacing(np.abs(theirs.logprobs_NK).astype(np.float16)).astype(np.float32)
        assert (np.abs(ours.logprobs_NK - theirs.logprobs_NK) <= 1e-4 + step_NK).all()
        assert np.mean(ours.ids_NK == theirs.ids_NK) > 0.99  # entries as good as equal may change places


def test_the_student_is_matched_to_the_scored_rows(scored: Path, finished: Path) -> None:
    report = small.manifests(scored)[stage(scored, "train").name]["counts"]
    assert report["rows"] == len(tables.read(stage(scored, "filter") / "traces.parquet", Trace))
    assert report["kd_tokens"] == report["trained_tokens"] > 0
    assert report["covered_mass"] > 0.99
    captured = small.manifests(finished)[stage(finished, "train").name]["counts"]
    assert report["kd_tokens"] == captured["kd_tokens"]
