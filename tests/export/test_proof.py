"""The proof passes what is right and catches what is wrong, each fault in the tier that is said here."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader, TokenType

from distill import embedded
from distill.core.models import resolve
from distill.export import proof
from distill.export.runtime import Questions, ask
from distill.gguf import architectures, convert, tokenizer, types
from distill.gguf.architectures import ModelFolder
from distill.gguf.runtime import ServerEnded
from tests.tiny import make_tiny_model

LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 100,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 8.0, "original_max_position_embeddings": 64}
SHAPE: dict[str, Any] = {"layers": 5, "scale": 0.12, "tied": False}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models by architecture, made once."""
    folder = tmp_path_factory.mktemp("models")
    extra: dict[str, dict[str, Any]] = {
        "llama": {"rope_parameters": LLAMA3, "attention_bias": True, "rms_norm_eps": 1e-6},
        "qwen3": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
        "qwen2": {},
        "smollm3": {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        "yarn": {"rope_parameters": {**YARN, "attention_factor": 1.5}},
    }

    def model(name: str) -> Path:
        if not (folder / name).exists():
            architecture = "qwen3" if name == "yarn" else name
            made = make_tiny_model(folder / name, architecture=architecture, **SHAPE, **extra[name])
            _randomise_small_parts(made)
        return folder / name

    return model


def _randomise_small_parts(folder: Path) -> None:
    """Biases start at 0 and norms at 1: noise in them makes a lost or swapped one visible."""
    from safetensors.numpy import load_file, save_file

    rng = np.random.default_rng(3)
    tensors = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        if value.ndim == 1:
            tensors[name] = (value + rng.normal(scale=0.3, size=value.shape)).astype(np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "llama", "smollm3"])
def test_every_architecture_gives_transformers_log_probabilities(models, tmp_path: Path, architecture: str):
    check = proof.twin(models(architecture), log=tmp_path / "log")

    assert check.missed is None
    assert check.figures["max_logprob_diff"] <= 1e-3
    assert check.figures["layers"] == 5


@pytest.mark.parametrize(
    ("architecture", "rope"),
    [
        ("qwen3", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}),
        ("qwen2", YARN),
        ("llama", {**YARN, "attention_factor": 1.5}),
        ("smollm3", {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
    ],
)
def test_scaled_ropes_give_transformers_log_probabilities(tmp_path: Path, architecture: str, rope: dict[str, Any]):
    folder = make_tiny_model(tmp_path / "m", architecture=architecture, rope_parameters=rope, **SHAPE)

    check = proof.twin(folder, log=tmp_path / "log")

    assert check.missed is None


def test_the_first_layers_of_a_large_model_do_as_well(models, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(proof, "WHOLE_UP_TO", 1000)

    check = proof.twin(models("llama"), log=tmp_path / "log")

    assert check.missed is None
    assert (check.figures["layers"], check.figures["of_layers"]) == (2, 5)


def _keep(drop: Callable[[architectures.Tensor], bool]) -> Callable[[Any, Any], list[architectures.Tensor]]:
    made = ModelFolder.tensors
    return lambda self, weights: [tensor for tensor in made(self, weights) if not drop(tensor)]


def _swap(self: ModelFolder, weights: Any) -> list[architectures.Tensor]:
    names = {"ffn_gate": "ffn_up", "ffn_up": "ffn_gate"}
    made = _TENSORS(self, weights)
    return [
        replace(t, name=".".join(names.get(part, part) for part in t.name.split("."))) for t in made
    ]  # fmt: skip


def _repeat(self: ModelFolder, weights: Any) -> list[architectures.Tensor]:
    made = _TENSORS(self, weights)
    first = {tensor.name: tensor for tensor in made}
    return [replace(t, make=first[t.name.replace("blk.2.", "blk.1.")].make) for t in made]


_TENSORS = ModelFolder.tensors
_SETTINGS = ModelFolder.write_settings
_INTERLEAVE = architectures.interleave


def _other_eps(self: ModelFolder, writer: Any) -> None:
    self.config = {**self.config, "rms_norm_eps": 1e-5}
    _SETTINGS(self, writer)


FAULTS: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "q and k not permuted": ("llama", lambda m: m.setattr(architectures, "interleave", lambda values, _: values)),
    "k permuted with the query heads": (
        "llama",
        lambda m: m.setattr(architectures, "interleave", lambda values, _: _INTERLEAVE(values, 4)),
    ),
    "k and q permuted as one head": (
        "llama",
        lambda m: m.setattr(architectures, "interleave", lambda values, _: _INTERLEAVE(values, 1)),
    ),
    "q and k permuted where they must not be": (
        "qwen3",
        lambda m: m.setitem(
            architectures.SUPPORTED,
            "Qwen3ForCausalLM",
            replace(architectures.SUPPORTED["Qwen3ForCausalLM"], interleaved=True),
        ),
    ),
    "rope factors dropped": (
        "llama",
        lambda m: m.setattr(ModelFolder, "tensors", _keep(lambda t: t.name == "rope_freqs.weight")),
    ),
    "rope theta left at 10000": ("qwen3", lambda m: m.setattr(ModelFolder, "rope_theta", 10000.0)),
    "biases dropped": ("llama", lambda m: m.setattr(ModelFolder, "tensors", _keep(lambda t: t.name.endswith(".bias")))),
    "gate and up swapped": ("qwen3", lambda m: m.setattr(ModelFolder, "tensors", _swap)),
    "untied head dropped": (
        "qwen3",
        lambda m: m.setattr(ModelFolder, "tensors", _keep(lambda t: t.name == "output.weight")),
    ),
    "yarn dropped": ("yarn", lambda m: m.setattr(ModelFolder, "rope_type", "default")),
    "yarn's attention factor dropped": ("yarn", lambda m: m.setattr(architectures, "_magnitude", lambda *_: 1.5)),
    "a layer twice": ("qwen3", lambda m: m.setattr(ModelFolder, "tensors", _repeat)),
    "eps 1e-5 for 1e-6": ("llama", lambda m: m.setattr(ModelFolder, "write_settings", _other_eps)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_tier_2_catches(models, tmp_path: Path, monkeypatch, fault: str):
    architecture, inject = FAULTS[fault]
    folder = models(architecture)
    inject(monkeypatch)

    check = proof.twin(folder, log=tmp_path / "log")

    assert check.missed is not None and "log-probabilities differ by" in check.missed


def test_eps_is_told_from_noise_by_the_exact_setting_alone(models, tmp_path: Path, monkeypatch):
    """A float16 cache with flash attention, llama.cpp's defaults, makes as much noise as the fault."""
    from distill.export import runtime

    settings = runtime.RuntimeSettings
    noisy = lambda *given, **named: settings(*given, **{**named, "exact": False})  # noqa: E731  a stand-in
    monkeypatch.setattr(runtime, "RuntimeSettings", noisy)

    check = proof.twin(models("llama"), log=tmp_path / "log")

    assert check.figures["max_logprob_diff"] > proof.LOGPROB_TOLERANCE  # of a right file


def test_norms_in_f16_abort_the_runtime_and_both_tiers_say_so(models, tmp_path: Path, monkeypatch):
    ideal = types.ideal
    monkeypatch.setattr(
        types, "ideal", lambda name, *rest, **more: types.F16 if "norm" in name else ideal(name, *rest, **more)
    )
    made = convert.convert(models("qwen3"), tmp_path / "x.gguf", "f32")

    opened = proof.opens(tmp_path / "x.gguf", models("qwen3"), made, tmp_path / "log")
    check = proof.twin(models("qwen3"), log=tmp_path / "log")

    assert [c.name for c in opened] == ["opens"] and "llama.cpp" in str(opened[0].missed)
    assert "llama.cpp" in str(check.missed)


def test_a_vocabulary_one_token_short_does_not_load(models, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(
        convert, "read_vocabulary", _vocabulary(lambda v: replace(v, pieces=v.pieces[:-1], kinds=v.kinds[:-1]))
    )
    made = convert.convert(models("qwen3"), tmp_path / "x.gguf", "q8_0")

    opened = proof.opens(tmp_path / "x.gguf", models("qwen3"), made, tmp_path / "log")

    assert "llama.cpp cannot run it" in str(opened[0].missed)


def test_a_head_width_that_is_not_written_does_not_load(models, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(ModelFolder, "head_dim", 32)  # what hidden size / heads would have others assume

    check = proof.twin(models("qwen3"), log=tmp_path / "log")

    assert check.missed is not None and "llama.cpp" in check.missed


def tier_1(folder: Path, file: Path, made: convert.Plan) -> dict[str, str | None]:
    checks = [*proof.read_back(file, made), *proof.opens(file, folder, made, file.with_suffix(".log"))]
    return {check.name: check.missed for check in checks}


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_k_m"])
def test_tier_1_passes(tiny_model: Path, tmp_path: Path, kind: str):
    made = convert.convert(tiny_model, tmp_path / "x.gguf", kind)

    assert tier_1(tiny_model, tmp_path / "x.gguf", made) == dict.fromkeys(
        ["types", "size", "values", "opens", "ids", "chat", "stops"]
    )


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose rows take every type."""
    return make_tiny_model(tmp_path_factory.mktemp("wide") / "m", hidden=256, feed_forward=256, head_dim=64, layers=1)


@pytest.mark.parametrize("kind", types.FILE_TYPES)
def test_values_of_every_type_are_within_its_bound_and_shuffled_bytes_are_not(wide: Path, tmp_path: Path, kind: str):
    file = tmp_path / "x.gguf"
    made = convert.convert(wide, file, kind)
    assert [check.missed for check in proof.read_back(file, made)] == [None, None, None]
    assert made.n_fallback == 0

    tensor = next(t for t in GGUFReader(file).tensors if t.name == "blk.0.ffn_up.weight")
    start, end = int(tensor.data_offset), int(tensor.data_offset) + int(tensor.n_bytes)
    content = bytearray(file.read_bytes())
    content[start:end] = content[start:end][::-1]
    file.write_bytes(content)

    assert "blk.0.ffn_up.weight is off by" in str(proof.read_back(file, made)[2].missed)


def _vocabulary(change: Callable[[tokenizer.Vocabulary], tokenizer.Vocabulary]) -> Callable[..., tokenizer.Vocabulary]:
    return lambda folder, rows: change(tokenizer.read_vocabulary(folder, rows))


def _as_normal(vocabulary: tokenizer.Vocabulary) -> tokenizer.Vocabulary:
    kinds = [TokenType.NORMAL if kind == TokenType.USER_DEFINED else kind for kind in vocabulary.kinds]
    return replace(vocabulary, kinds=kinds)


VOCABULARY_FAULTS = {
    "think tags as plain pieces": ("ids", _as_normal),
    "merges in another order": ("ids", lambda v: replace(v, merges=v.merges[::-1])),
    "a token moved": (
        "ids",
        lambda v: replace(v, pieces=[*v.pieces[:100], v.pieces[101], v.pieces[100], *v.pieces[102:]]),
    ),
    "BOS missing, so that the template shows another token": ("chat", lambda v: replace(v, bos=11)),
    "BOS doubled": ("chat", lambda v: replace(v, template="{{ bos_token }}" + (v.template or ""), add_bos=True)),
    "no template": ("chat", lambda v: replace(v, template=None)),
    "the template's default thinking turned off": (
        "chat",
        lambda v: replace(v, template=(v.template or "").replace("is defined and not enable_thinking", "is undefined")),
    ),
}


@pytest.mark.parametrize("fault", VOCABULARY_FAULTS)
def test_tier_1_catches(tiny_model: Path, tmp_path: Path, monkeypatch, fault: str):
    name, change = VOCABULARY_FAULTS[fault]
    monkeypatch.setattr(convert, "read_vocabulary", _vocabulary(change))
    made = convert.convert(tiny_model, tmp_path / "x.gguf", "q8_0")

    assert tier_1(tiny_model, tmp_path / "x.gguf", made)[name] is not None


@pytest.mark.parametrize("wrong", ["gpt-2", "default"])
def test_tier_1_catches_the_wrong_pre_tokenizer_where_the_vocabulary_can_show_it(
    tmp_path: Path, monkeypatch, wrong: str
):
    folder = resolve("embedded-student")
    monkeypatch.setattr(convert, "read_vocabulary", _vocabulary(lambda v: replace(v, pre=wrong)))
    made = convert.convert(folder, tmp_path / "x.gguf", "q8_0")

    assert tier_1(folder, tmp_path / "x.gguf", made)["ids"] is not None


def test_tier_1_catches_a_stop_that_does_not_stop(tmp_path: Path, monkeypatch):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3]}), encoding="utf-8")
    write = tokenizer.Vocabulary.write
    monkeypatch.setattr(
        tokenizer.Vocabulary, "write", lambda self, writer: write(replace(self, stops=self.stops[:1]), writer)
    )
    made = convert.convert(folder, tmp_path / "x.gguf", "q8_0")

    assert tier_1(folder, tmp_path / "x.gguf", made)["stops"] == f"llama.cpp does not stop at {embedded.USER!r}"


def test_every_stop_that_is_written_stops(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [2, 3, 4]}), encoding="utf-8")
    made = convert.convert(folder, tmp_path / "x.gguf", "q8_0")

    assert tier_1(folder, tmp_path / "x.gguf", made)["stops"] is None


def test_tier_1_catches_another_type_another_tensor_and_a_cut(tiny_model: Path, tmp_path: Path):
    file = tmp_path / "x.gguf"
    made = convert.convert(tiny_model, file, "q8_0")

    other = convert.plan(tiny_model, "f16")
    assert "planned F16" in str(proof.read_back(file, other)[0].missed)
    first, second = (made.tensors[at] for at in (4, 5))
    swapped = [
        replace(first, tensor=replace(first.tensor, make=second.tensor.make)) if e is first else e for e in made.tensors
    ]
    if first.tensor.shape == second.tensor.shape:
        assert {c.name: c.missed for c in proof.read_back(file, replace(made, tensors=tuple(swapped)))}["values"]
    file.write_bytes(file.read_bytes()[:-4096])
    assert any(check.missed for check in proof.read_back(file, made))


def test_values_that_overflow_f16_are_caught(tmp_path: Path):
    from safetensors.numpy import load_file, save_file

    folder = make_tiny_model(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    made = convert.convert(folder, tmp_path / "x.gguf", "f16")

    values = {check.name: check.missed for check in proof.read_back(tmp_path / "x.gguf", made)}["values"]

    assert values is not None and "blk.0.ffn_up.weight is off by inf" in values


def test_a_file_that_aborts_the_runtime_fails_the_proof_and_leaves_its_log(tmp_path: Path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 64)

    with pytest.raises(ServerEnded, match=r"broken.gguf: llama.cpp cannot run it"):
        ask(broken, Questions(texts=["a"]), log=tmp_path / "log")
    assert (tmp_path / "log").stat().st_size > 0


def test_a_runtime_that_hangs_is_ended(tiny_model: Path, tmp_path: Path):
    convert.convert(tiny_model, tmp_path / "x.gguf", "f32")

    with pytest.raises(ServerEnded, match="not loaded within 0 s"):
        ask(tmp_path / "x.gguf", Questions(texts=["a"]), log=tmp_path / "log", timeout_s=0.01)
