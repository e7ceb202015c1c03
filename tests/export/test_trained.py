"""Really trained models: the files say what transformers says."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distill.core.models import resolve
from distill.export import proof
from distill.export.runtime import Questions, ask
from distill.gguf.convert import convert


def test_a_trained_llama_tells_the_same_story(shared_data: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = shared_data / "stories260k" / "hf"
    made = convert(folder, tmp_path / "x.gguf", "f32")
    graph = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    story = graph.generate(torch.tensor([[1]]), max_new_tokens=200, do_sample=False)[0, 1:].tolist()

    said = ask(tmp_path / "x.gguf", Questions(prompts=[[1]], new_tokens=200), log=tmp_path / "log")

    assert said.continued == [story]
    assert AutoTokenizer.from_pretrained(folder).decode(story).startswith("Once upon a time, there was a little girl")
    assert proof.twin(folder, log=tmp_path / "log").missed is None
    checks = [
        *proof.read_back(tmp_path / "x.gguf", made),
        *proof.opens(tmp_path / "x.gguf", folder, made, tmp_path / "log"),
    ]
    assert [check.missed for check in checks] == [None] * len(checks)


@pytest.mark.parametrize("name", ["embedded-student", "embedded-teacher"])
def test_the_embedded_models_pass_both_tiers(tmp_path: Path, name: str):
    folder = resolve(name)
    made = convert(folder, tmp_path / "x.gguf", "q4_k_m")

    checks = [
        *proof.read_back(tmp_path / "x.gguf", made),
        *proof.opens(tmp_path / "x.gguf", folder, made, tmp_path / "log"),
        proof.twin(folder, log=tmp_path / "log"),
    ]

    assert [check.missed for check in checks] == [None] * len(checks)
    assert made.n_fallback == 0  # its rows were chosen for K-quants
