"""Tensor data is llama.cpp's own, byte for byte: digests of what its tools made of the same weights.

Those in golden/gguf_tensors.json were recorded with the converter in the source package of the pinned xllamacpp
(`python convert_hf_to_gguf.py FOLDER --outtype TYPE`, its table of known pre-tokenizer hashes overridden, since these
vocabularies are in no table), those in golden/gguf_quantised.json with llama-quantize (tests/gguf/reference.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.gguf.convert import convert, plan
from distill.gguf.imatrix import ImportanceMatrix
from distill.gguf.types import choose
from tests.gguf import reference
from tests.gguf.reference import DEEP, GOLDEN, MODELS, QUANTISED

MANY = [name for name in MODELS if name != "qwen2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Reference models, each written once."""
    root = tmp_path_factory.mktemp("reference")
    return lambda name: root / name if (root / name).exists() else reference.reference_model(root / name, name)


def stored(file: str, name: str) -> dict[str, str]:
    found: dict[str, str] = json.loads((GOLDEN / file).read_text(encoding="utf-8"))[name]
    return found


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["f32", "f16", "bf16", "q8_0"])
def test_tensor_bytes_are_those_of_llama_cpps_converter(model, tmp_path: Path, name: str, kind: str):
    convert(model(name), tmp_path / "x.gguf", kind)

    assert reference.digests(tmp_path / "x.gguf") == stored("gguf_tensors.json", name)[kind]


WEIGHED = pytest.mark.parametrize("weighed", [False, True], ids=["plain", "imatrix"])


@WEIGHED
@pytest.mark.parametrize("name", ["rows-256", "qwen2", *(pytest.param(n, marks=pytest.mark.slow) for n in MANY)])
def test_types_and_bytes_are_those_of_llama_quantize(model, tmp_path: Path, name: str, weighed: bool):
    importance = _importance(model(name)) if weighed else None
    got = {}
    for kind in QUANTISED:
        convert(model(name), tmp_path / "x.gguf", kind, importance=importance)
        got[_label(kind, weighed)] = reference.of_data(reference.digests(tmp_path / "x.gguf"))

    due = stored("gguf_quantised.json", name)
    assert got == {label: due[label] for label in got}


@WEIGHED
@pytest.mark.parametrize("name", DEEP)
def test_the_recipes_of_deep_models_are_llama_quantizes(model, name: str, weighed: bool):
    made = plan(model(name), "f32")
    shape, got = made.model.shape(), {}
    for kind in QUANTISED:
        chosen = {
            t.name: choose(t.name, t.shape, t.layer, kind, shape, importance=weighed).name
            for t in (entry.tensor for entry in made.tensors)
        }
        got[_label(kind, weighed)] = reference.of_types(chosen)

    due = stored("gguf_quantised.json", name)
    assert got == {label: due[label] for label in got}


def _importance(folder: Path) -> ImportanceMatrix:
    tensors = plan(folder, "f32").tensors
    return reference.reference_importance(
        {e.tensor.name: e.tensor.shape[-1] for e in tensors if e.tensor.layer is not None and len(e.tensor.shape) > 1}
    )


def _label(kind: str, weighed: bool) -> str:
    return f"{kind} imatrix" if weighed else kind
