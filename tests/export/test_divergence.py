"""Distributions of a file beside the model's: what is measured, where, and what misses its bound."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from distill.export import divergence
from distill.export.divergence import Reference, Text, compare, positions, reference
from distill.export.proof import plain_token
from distill.export.source import Source
from distill.gguf import ggml
from distill.gguf.convert import convert
from tests.tiny import make_tiny_model

TEXTS = [Text(tuple(range(5, 45)), 10), Text(tuple(range(80, 60, -1)), 5)]


def measured(folder: Path, tmp_path: Path, kind: str, held_out: bool = True) -> divergence.Check:
    made = convert(folder, tmp_path / f"{kind}.gguf", kind)
    against = reference(folder, None, TEXTS, made.model.rows)
    return compare(
        tmp_path / f"{kind}.gguf", kind, against, held_out=held_out, plain=plain_token(made), log=tmp_path / "log"
    )


def test_only_answers_are_measured_and_evenly():
    assert positions(TEXTS, 320) == [(0, n) for n in range(10, 40)] + [(1, n) for n in range(5, 20)]
    spread = positions([Text(tuple(range(1000)), 1)], 320)
    assert len(spread) == divergence.MOST_POSITIONS
    assert {b[1] - a[1] for a, b in pairwise(spread)} == {7, 8}
    assert len(positions([Text(tuple(range(1000)), 1)], 200_000)) == 40  # fewer of a large vocabulary
    assert positions([Text((1,), 1)], 320) == []


def test_an_f32_file_has_no_divergence_and_coarser_types_have_more(tiny_model: Path, tmp_path: Path):
    found = {kind: measured(tiny_model, tmp_path, kind) for kind in ("f32", "q8_0", "q4_0")}

    assert found["f32"].missed is None
    assert 0 <= found["f32"].figures["kl"] < 1e-9
    assert found["f32"].figures["kl"] < found["q8_0"].figures["kl"] < found["q4_0"].figures["kl"]
    assert (found["f32"].figures["top_1"], found["f32"].figures["positions"]) == (1.0, 45)


def test_the_reference_is_transformers_own(tiny_model: Path):
    import torch
    from transformers import AutoModelForCausalLM

    got = reference(tiny_model, None, TEXTS, 320)

    graph = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    for row in (0, 17, 44):
        with torch.no_grad():
            logits_V = graph(torch.tensor([got.prefixes[row]])).logits[0, -1]
        assert np.allclose(got.logprobs_PV[row], torch.log_softmax(logits_V, -1).numpy(), atol=1e-5)


def test_kl_is_the_value_worked_by_hand(monkeypatch):
    model_PV = np.log(np.array([[0.75, 0.25]], np.float32))
    file_PV = np.log(np.array([[0.25, 0.75]], np.float32))
    monkeypatch.setattr(divergence, "ask", lambda *_, **__: type("Said", (), {"logprobs_PV": file_PV}))

    check = compare(Path("x"), "q4_k_m", Reference([[1]], model_PV), held_out=True, plain=0, log=Path("log"))
    loose = compare(Path("x"), "q4_k_m", Reference([[1]], model_PV), held_out=False, plain=0, log=Path("log"))

    assert check.figures["kl"] == pytest.approx(0.5 * np.log(3))  # 3/4 log 3 - 1/4 log 3
    assert check.figures["top_1"] == 0.0
    assert check.missed == "KL to the model is 0.549 nats on held-out traces; the bound for q4_k_m is 0.2"
    assert loose.missed is None


def test_tier_3_catches_a_quantiser_gone_wrong_within_its_error_bound(tmp_path: Path, monkeypatch):
    """Noise as large as the type's bound on a tensor's error passes tier 1 and 2, and does not pass here."""
    folder = make_tiny_model(tmp_path / "m", hidden=256, feed_forward=256, head_dim=64)
    quantise = ggml.quantise
    rng = np.random.default_rng(0)

    def noisy(values, kind, *rest, **more):
        if kind.name == "Q8_0":
            values = values + np.float32(0.2 * values.std()) * rng.standard_normal(values.shape, np.float32)
        return quantise(values, kind, *rest, **more)

    monkeypatch.setattr(ggml, "quantise", noisy)

    assert "the bound for q8_0 is 0.01" in str(measured(folder, tmp_path, "q8_0").missed)


def test_a_model_speaks_for_itself_where_nothing_else_is_at_hand(tiny_model: Path, tmp_path: Path):
    texts = divergence.own_texts(Source(tiny_model, "tiny", tmp_path))

    assert len(texts) == 3
    assert all(0 < text.start < len(text.ids) <= text.start + divergence.OWN_TOKENS for text in texts)
