"""The file as a whole: header, tensors, memory, and what a kill leaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader

from distill import embedded
from distill.core.errors import DistillError
from distill.gguf import convert as module
from distill.gguf.convert import convert, plan
from distill.gguf.weights import FolderWeights
from tests.tiny import make_tiny_model

CONVERT = """
import sys
from pathlib import Path
from distill.gguf.convert import convert
convert(Path(sys.argv[1]), Path(sys.argv[2]), "q8_0")
"""


def header(file: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(file).fields.items()}


def test_the_header_says_what_the_model_is_and_how_it_stops(tiny_model: Path, tmp_path: Path):
    convert(tiny_model, tmp_path / "x.gguf", "q8_0", metadata={"name": "mine", "licence": "mit", "base_model": "a/b"})

    said = header(tmp_path / "x.gguf")

    expected = {
        "general.architecture": "qwen3", "general.name": "mine", "general.license": "mit", "general.file_type": 7,
        "general.base_model.0.name": "a/b", "general.quantized_by": "reasoning-distill", "qwen3.block_count": 2,
        "qwen3.attention.head_count": 4, "qwen3.attention.head_count_kv": 2, "qwen3.attention.key_length": 16,
        "qwen3.rope.freq_base": 10000.0, "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.add_bos_token": False, "tokenizer.chat_template": embedded.CHAT_TEMPLATE,
    }  # fmt: skip
    assert {key: said.get(key) for key in expected} == expected


def test_sampling_defaults_of_the_family_are_written(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "generation_config.json").write_text('{"eos_token_id": [2, 4], "temperature": 0.6, "top_k": 20}')

    convert(folder, tmp_path / "x.gguf", "f16")

    said = header(tmp_path / "x.gguf")
    assert said["general.sampling.temp"] == pytest.approx(0.6)
    assert said["general.sampling.top_k"] == 20
    assert said["tokenizer.ggml.eot_token_id"] == 4


@pytest.mark.parametrize("stored", ["float32", "bfloat16", "float16"])
def test_f32_holds_the_weights_to_the_bit_whatever_they_are_stored_as(tiny_model: Path, tmp_path: Path, stored: str):
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "m"
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=getattr(torch, stored))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((tiny_model / "tokenizer.json").read_bytes())
    convert(folder, tmp_path / "x.gguf", "f32")

    got = {tensor.name: tensor.data for tensor in GGUFReader(tmp_path / "x.gguf").tensors}

    assert np.array_equal(
        got["blk.1.ffn_down.weight"], model.model.layers[1].mlp.down_proj.weight.detach().float().numpy()
    )
    assert "output.weight" not in got  # tied


def test_the_same_model_gives_the_same_bytes(tiny_model: Path, tmp_path: Path):
    for name in ("a", "b"):
        convert(tiny_model, tmp_path / name, "q4_k_m", metadata={"name": "x"})

    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_short_rows_are_told(tmp_path: Path, tiny_model: Path):
    made = plan(tiny_model, "q4_k_m")  # hidden 64, feed-forward 128

    assert made.types_used.keys() == {"Q5_0", "Q8_0", "F32"}
    assert "fall back to other types" in made.notes[0] and f"{made.bits_per_weight:.2f} bits" in made.notes[0]


def test_at_most_two_tensors_are_in_memory(tiny_model: Path, tmp_path: Path, monkeypatch):
    """One is read while the one before it is encoded and written, and none further ahead."""
    order: list[str] = []
    read, write = FolderWeights.read, module.GGUFWriter.write_tensor_data
    monkeypatch.setattr(FolderWeights, "read", lambda self, name: (order.append("read"), read(self, name))[1])
    monkeypatch.setattr(
        module.GGUFWriter, "write_tensor_data", lambda self, data: (order.append("write"), write(self, data))[1]
    )

    made = convert(tiny_model, tmp_path / "x.gguf", "q8_0")

    held = [order[:end].count("read") - order[:end].count("write") for end in range(len(order) + 1)]
    assert order.count("read") == order.count("write") == len(made.tensors)
    assert set(held) <= {0, 1, 2} and held[-1] == 0


@pytest.mark.parametrize("point", ["gguf.tensor-written:3", "export.before-rename", "file.before-rename"])
def test_a_kill_leaves_no_file_under_the_final_name(tiny_model: Path, tmp_path: Path, point: str):
    out = tmp_path / "x.gguf"
    command = [sys.executable, "-c", CONVERT, str(tiny_model), str(out)]

    killed = subprocess.run(command, env={**os.environ, "DISTILL_CRASH_AT": point}, check=False)

    assert killed.returncode == -signal.SIGKILL
    assert not out.exists()
    subprocess.run(command, check=True)
    assert out.exists()


def test_a_kill_after_the_rename_leaves_the_whole_file(tiny_model: Path, tmp_path: Path):
    out = tmp_path / "x.gguf"

    subprocess.run(
        [sys.executable, "-c", CONVERT, str(tiny_model), str(out)],
        env={**os.environ, "DISTILL_CRASH_AT": "export.file-written"},
        check=False,
    )

    convert(tiny_model, tmp_path / "again.gguf", "q8_0", metadata={"name": tiny_model.name})
    assert out.read_bytes() == (tmp_path / "again.gguf").read_bytes()


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny_model: Path, tmp_path: Path, monkeypatch):
    def full(self: object, data: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.GGUFWriter, "write_tensor_data", full)

    with pytest.raises(DistillError, match=r"x.gguf: No space left on device .it needs 0\.\d+ MB"):
        convert(tiny_model, tmp_path / "x.gguf", "q8_0")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_are_cut_short_are_refused(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "m")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])

    with pytest.raises(DistillError, match="it is cut short"):
        convert(folder, tmp_path / "x.gguf", "f16")


def test_sharded_weights_are_read_through_their_index(tmp_path: Path):
    from transformers import AutoModelForCausalLM

    one, many = make_tiny_model(tmp_path / "one"), make_tiny_model(tmp_path / "many")
    AutoModelForCausalLM.from_pretrained(one).save_pretrained(many, max_shard_size="100KB")
    (many / "model.safetensors").unlink(missing_ok=True)
    assert len(list(many.glob("*.safetensors"))) > 1

    for folder in (one, many):
        convert(folder, tmp_path / f"{folder.name}.gguf", "q8_0", metadata={"name": "x"})

    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "many.gguf").read_bytes()
    next(many.glob("*.safetensors")).unlink()
    with pytest.raises(DistillError, match="that it names is not there"):
        convert(many, tmp_path / "x.gguf", "q8_0")
