"""LoRA laid over weights: the tensors that peft itself merges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill.core.errors import DistillError
from distill.gguf.adapter import adapter_parts, open_weights
from tests.tiny import make_tiny_model


def make_adapter(base: Path, folder: Path, **settings: Any) -> Path:
    """A random LoRA adapter over `base`, as peft saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **{"target_modules": "all-linear", **settings})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:  # a length: near what it was
                parameter.mul_(torch.rand_like(parameter) + 0.5)
            elif "lora_" in name or "modules_to_save" in name or "trainable_tokens_delta" in name:
                parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path) -> dict[str, torch.Tensor]:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize(
    ("tied", "settings"),
    [
        (True, {}),
        (True, {"use_rslora": True}),
        (True, {"target_modules": ["q_proj", "down_proj"]}),
        (True, {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3, "k_proj": 5}}),
        (False, {"target_modules": ["v_proj"], "modules_to_save": ["lm_head"]}),
        (True, {"use_dora": True}),
        (True, {"use_dora": True, "use_rslora": True, "target_modules": ["v_proj", "gate_proj"]}),
        (True, {"trainable_token_indices": [5, 319]}),
        (False, {"trainable_token_indices": {"embed_tokens": [7, 9], "lm_head": [9, 7]}}),
    ],
)
def test_merged_tensors_are_pefts(tmp_path: Path, tied: bool, settings: dict[str, Any]):
    base = make_tiny_model(tmp_path / "base", tied=tied)
    adapter = make_adapter(base, tmp_path / "adapter", **settings)
    expected = merged_by_peft(base, adapter)

    _, weights = open_weights(base, adapter)

    for name in weights.names():
        assert np.allclose(weights.read(name), expected[name].numpy(), atol=2e-6), name


def test_an_adapters_own_folder_finds_its_base(tmp_path: Path):
    base = make_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")

    assert adapter_parts(adapter) == (base, adapter)
    with pytest.raises(DistillError, match="is an adapter itself"):
        adapter_parts(adapter, adapter)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"peft_type": "IA3"}, "adapter type IA3"),
        ({"lora_bias": True}, "LoRA biases .lora_bias. cannot be merged here; merge with peft's merge_and_unload"),
        ({"bias": "all"}, "bias='all'"),
    ],
)
def test_another_arithmetic_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], words: str):
    base = make_tiny_model(tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")

    with pytest.raises(DistillError, match=words):
        open_weights(base, adapter)


def test_an_adapter_for_another_model_is_refused(tmp_path: Path):
    adapter = make_adapter(make_tiny_model(tmp_path / "base", layers=3), tmp_path / "adapter")

    with pytest.raises(DistillError, match=r"adapts model.layers.2.*, which the base model does not have"):
        open_weights(make_tiny_model(tmp_path / "other"), adapter)


def test_a_retrained_head_over_tied_embeddings_is_refused(tmp_path: Path):
    base = make_tiny_model(tmp_path / "base", tied=False)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["v_proj"], modules_to_save=["lm_head"])

    with pytest.raises(DistillError, match=r"lm_head.weight"):
        open_weights(make_tiny_model(tmp_path / "tied"), adapter)


@pytest.mark.parametrize("dora", [False, True])
def test_what_learnt_on_4_bits_is_laid_over_what_4_bits_left(tmp_path: Path, dora: bool):
    """Against bitsandbytes' own layers with the adapter beside them; the stored base, a choice, is farther off."""
    pytest.importorskip("bitsandbytes", reason="the trained graph needs it: pip install 'reasoning-distill[qlora]'")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from distill import nf4
    from distill.core.device import Placement
    from distill.export.merge import write_folder

    base = make_tiny_model(tmp_path / "base", tied=False)
    adapter = make_adapter(base, tmp_path / "adapter", use_dora=dora)
    loaded = nf4.load(base, Placement("cpu", "float32", "as set"))
    record = nf4.record(loaded)
    (adapter / nf4.RECORD).write_text(json.dumps(record), encoding="utf-8")
    trained = PeftModel.from_pretrained(loaded, adapter).eval()
    ids = torch.arange(1, 200)[None]

    off = {}
    for onto in ("trained", "stored"):
        _, weights = open_weights(base, adapter, onto)  # type: ignore[arg-type]  # one of its words
        merged = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()
        state = {name: torch.from_numpy(np.array(weights.read(name))) for name in weights.names()}
        merged.load_state_dict(state)
        with torch.no_grad():
            one, other = (model(ids).logits.log_softmax(-1) for model in (trained, merged))
        off[onto] = float((one - other).abs().max())
    assert off["trained"] < 1e-4
    assert off["stored"] > 100 * off["trained"]

    out = tmp_path / "merged"
    out.mkdir()
    write_folder(adapter, out)
    _, weights = open_weights(base, adapter)
    written = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).state_dict()
    for name in weights.names():
        assert np.array_equal(written[name].numpy(), weights.read(name)), name
    assert np.array_equal(weights.read("lm_head.weight"), open_weights(base)[1].read("lm_head.weight"))
