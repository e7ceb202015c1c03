"""Shapes of models: those of the table are the models that transformers builds, and a config.json says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distill.core.errors import ConfigError
from distill.core.models import resolve
from distill.plan import shapes
from tests.plan.meter import model_of

PUBLISHED = {
    "Qwen/Qwen2.5-Math-1.5B": 1_543_714_304, "Qwen/Qwen2.5-Math-7B": 7_615_616_512, "Qwen/Qwen2.5-14B": 14_770_033_664,
    "Qwen/Qwen2.5-32B": 32_763_876_352, "Qwen/Qwen3-0.6B-Base": 596_049_920, "Qwen/Qwen3-8B-Base": 8_190_735_360,
    "meta-llama/Llama-3.1-8B": 8_030_261_248, "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496, "HuggingFaceTB/SmolLM3-3B-Base": 3_075_098_624,
}  # fmt: skip
"""What the Hub counts in the models' safetensors."""


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_model_has_as_many_parameters_as_it_is_published_with(name: str) -> None:
    assert shapes.table()[name].parameters == PUBLISHED[name]


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-1.5B", "Qwen/Qwen3-4B-Base", "meta-llama/Llama-3.2-3B",
                                  "HuggingFaceTB/SmolLM3-3B-Base"])  # fmt: skip
def test_transformers_builds_the_same_model(name: str) -> None:
    shape = shapes.table()[name]
    model = model_of(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    sizes = {(module.in_features, module.out_features) for module in model.model.layers[0].modules()
             if hasattr(module, "in_features")}  # fmt: skip
    assert sizes == set(shape.linear.values())


def test_a_folder_says_its_own_shape() -> None:
    shape = shapes.shape_of("embedded-student")
    config = json.loads((resolve("embedded-student") / "config.json").read_text())
    assert (shape.hidden_size, shape.vocab_size) == (config["hidden_size"], config["vocab_size"])


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"model_type": "mamba"}, "no plan for the type 'mamba'"),
        ({"model_type": "llama", "hidden_size": 64}, "has no 'num_attention_heads'"),
    ],
)
def test_another_kind_of_model_is_refused_by_name(tmp_path: Path, config: dict[str, object], wrong: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=wrong):
        shapes.shape_of(str(tmp_path))


def test_a_gguf_file_has_no_shape_to_plan_with() -> None:
    with pytest.raises(ConfigError, match="needs a model folder or a Hub id"):
        shapes.shape_of("student.gguf")
