"""Hugging Face folders: split files with their index, the adapter alone, 4 bits, and the base that QLoRA learnt on."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill import nf4
from distill.core.errors import ConfigError, DistillError
from distill.export import four_bits, proof, stage
from distill.export.merge import write_folder
from distill.gguf.weights import FolderWeights, open_safetensors
from tests.gguf.test_adapter import make_adapter
from tests.tiny import make_tiny_model

QLORA = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None,
    reason="needs bitsandbytes: extra `qlora`",
)


def exported(model: Path, out: Path, *, over: Path | None = None, **settings: Any) -> dict[str, Any]:
    """The entry of proof.json of one safetensors folder; `over` is an adapter."""
    choice = stage.format_choice("safetensors", **settings)
    report = stage.export_folder(str(model), out, [choice], adapter=None if over is None else str(over))
    assert report.missed is None
    return dict(report.data["files"][0])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "base", scale=0.1, tied=False)


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(base, tmp_path_factory.mktemp("adapter") / "adapter")


@pytest.fixture
def learnt_on_4_bits(base: Path, tmp_path: Path) -> Path:
    """An adapter whose record says that its base was in NF4, as `train` writes it for `adapter: qlora`."""
    folder = make_adapter(base, tmp_path / "qlora")
    record = {
        "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "block": 64,
        "dtype": "float32", "kept": ["lm_head"],
    }  # fmt: skip
    (folder / nf4.RECORD).write_text(json.dumps(record), encoding="utf-8")
    return folder


def test_large_weights_are_split_with_an_index_that_transformers_reads(base: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    entry = exported(base, tmp_path, dtype="bf16", shard_gb=1e-4)  # 100 kB

    folder = tmp_path / entry["file"]
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert len(files) > 1 and files[0] == f"model-00001-of-{len(files):05}.safetensors"
    assert set(index["weight_map"].values()) == set(files)
    sizes = {file: open_safetensors(folder / file)[0].nbytes for file in files}
    assert index["metadata"]["total_size"] == sum(sizes.values()) and max(sizes.values()) <= 100_000
    made = AutoModelForCausalLM.from_pretrained(folder)
    assert made.dtype == torch.bfloat16
    due = FolderWeights(base)
    for name in FolderWeights(folder).names():
        assert np.allclose(made.state_dict()[name].float().numpy(), due.read(name), rtol=0.005)


def test_a_tensor_larger_than_a_file_has_one_of_its_own(base: Path, tmp_path: Path):
    write_folder(base, tmp_path, dtype="fp16", shard_bytes=1)

    assert len(list(tmp_path.glob("*.safetensors"))) == len(FolderWeights(base).names())
    assert FolderWeights(tmp_path).names() == FolderWeights(base).names()


def test_an_adapter_alone_is_its_own_files_and_runs_beside_its_base(base: Path, adapter: Path, tmp_path: Path):
    entry = exported(base, tmp_path, over=adapter, adapter="alone")

    folder = tmp_path / entry["file"]
    assert (folder / "adapter_model.safetensors").read_bytes() == (adapter / "adapter_model.safetensors").read_bytes()
    assert not (folder / "model.safetensors").exists()
    assert entry["max_logprob_diff"] == 0.0 and entry["tiers"] == [1, 2]
    assert entry["types"] == {"F32": 2 * 2 * 7}  # two matrices a linear layer, seven of them a layer


def test_a_model_without_an_adapter_has_none_to_write_alone(base: Path, tmp_path: Path):
    with pytest.raises(DistillError, match="is no adapter and has none, so there is none to write alone"):
        exported(base, tmp_path, adapter="alone")
    with pytest.raises(ConfigError, match="an adapter alone is copied as it is; leave `dtype: bf16` out"):
        stage.format_choice("safetensors", adapter="alone", dtype="bf16")


def test_another_adapter_under_its_name_is_caught(base: Path, adapter: Path, tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    from distill.export.source import Source

    exported(base, tmp_path, over=adapter, adapter="alone")
    file = tmp_path / "safetensors-adapter" / "adapter" / "adapter_model.safetensors"
    save_file({name: value * 1.1 for name, value in load_file(file).items()}, file)

    found = proof.same_adapter(Source(base, "x", tmp_path, adapter=adapter), adapter, file.parent)

    missed = {check.name: check.missed for check in found}
    assert missed["values"] == "adapter_model.safetensors is not the source's"
    assert "beside its base it differs by" in str(missed["twin"])


@pytest.mark.parametrize("onto", ["trained", "stored"])
def test_a_qlora_adapter_is_laid_over_the_base_that_is_asked_for_and_the_other_is_measured(
    base: Path, learnt_on_4_bits: Path, tmp_path: Path, onto: Any
):
    report = stage.export_folder(
        str(base), tmp_path / "out", [stage.format_choice("gguf", type="f32")], adapter=str(learnt_on_4_bits), onto=onto
    )

    (entry,) = report.data["files"]
    assert report.missed is None and entry["tiers"] == [1, 2, 3]
    assert entry["max_logprob_diff"] <= 1e-3 and entry["kl"] < 1e-5  # to the graph of the base that was asked for
    check = next(check for check in entry["checks"] if check["name"] == "base")
    assert check["figures"]["onto"] == onto
    assert check["figures"]["other_kl"] > 1000 * entry["kl"]
    taken, other = "it was trained on", "its folder stores it"
    assert any((taken if onto == "trained" else other) in note and "nats away" in note for note in entry["notes"])


def test_a_merge_over_the_base_that_was_not_asked_for_is_caught(
    base: Path, learnt_on_4_bits: Path, tmp_path: Path, monkeypatch
):
    from distill.gguf import adapter as module

    monkeypatch.setattr(module, "DequantisedWeights", lambda weights, _: weights)

    check = proof.twin(base, adapter=learnt_on_4_bits, log=tmp_path / "log")

    assert "log-probabilities differ by" in str(check.missed)


@QLORA
def test_4_bits_hold_what_they_should_and_answer_so(base: Path, tmp_path: Path):
    entry = exported(base, tmp_path, dtype="nf4")

    assert entry["name"] == "safetensors-nf4" and entry["tiers"] == [1, 2]
    assert entry["types"]["NF4"] == 2 * 7
    assert entry["max_logprob_diff"] <= 1e-3
    assert entry["bits_per_weight"] < 12  # a tiny model is mostly embeddings


@QLORA
def test_other_4_bits_are_caught(base: Path, tmp_path: Path):
    from distill.export.source import Source

    other = make_tiny_model(tmp_path / "other", scale=0.1, tied=False, seed=1)
    exported(other, tmp_path / "out", dtype="nf4")

    found = four_bits.same_in_4_bits(Source(base, "x", tmp_path), tmp_path / "out" / "safetensors-nf4" / "other")

    missed = {check.name: check.missed for check in found}
    assert "from what 4 bits leave of it" in str(missed["values"])
    assert "log-probabilities differ by" in str(missed["twin"])


def test_4_bits_without_bitsandbytes_are_one_line(base: Path, tmp_path: Path, monkeypatch):
    choice, find = stage.format_choice("safetensors", dtype="nf4"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else find(name))

    with pytest.raises(ConfigError, match="need the bitsandbytes package"):
        stage.export_folder(str(base), tmp_path, [choice])
