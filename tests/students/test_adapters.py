"""Adapters of every kind: what learns and what stays, the seed's bits, and that what is written is what learnt."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from distill import nf4
from distill.core.device import Placement
from distill.core.errors import ConfigError, DistillError
from distill.core.models import identify
from students import settings, train
from students.model import adapter, load, refuse
from students.rows import read_student
from tests.students.made import a_trace, stage_of
from tests.tiny import make_tiny_model

CPU = Placement("cpu", "float32", "as set")
RANK = {"rank": 4, "alpha": 8}
KINDS: dict[str, dict[str, Any]] = {
    "lora": {"lora": RANK},
    "rslora": {"lora": {**RANK, "rslora": True}},
    "dora": {"lora": {**RANK, "dora": True}},
    "qlora": {"qlora": RANK},
    "qdora": {"qlora": {**RANK, "dora": True, "rslora": True}},
}
SHORT: dict[str, Any] = {"epochs": 3, "batch_size": 4, "learning_rate": 1e-2}


def bitsandbytes() -> Any:
    return pytest.importorskip(
        "bitsandbytes", reason="QLoRA needs bitsandbytes: pip install 'reasoning-distill[qlora]'"
    )


def student_of(model: Path | str, kind: Any) -> settings.Config:
    return settings.Config.model_validate({"model": str(model), "device": "cpu", "adapter": kind})


def checksum(model: Any) -> dict[str, str]:
    """Every frozen tensor's bytes; a 4-bit weight's are its packed codes with scales."""
    found = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            plain = name.replace("base_model.model.", "").replace(".base_layer", "")
            raw = parameter.detach().contiguous().view(torch.uint8).numpy().tobytes()
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                raw += b"".join(
                    t.contiguous().numpy().tobytes() for t in (state.absmax, state.offset, state.state2.absmax)
                )
            found[plain] = hashlib.sha256(raw).hexdigest()
    return found


def trained(
    folder: Path, model: Path, kind: Any, monkeypatch: pytest.MonkeyPatch, seed: int = 0, **changes: Any
) -> tuple[Any, Any]:
    """The stage, and the trainer that it made."""
    from students.trainer import DistillTrainer

    made: list[Any] = []
    inner = DistillTrainer.run
    monkeypatch.setattr(DistillTrainer, "run", lambda self: (made.append(self), inner(self))[1])
    traces = [a_trace(read_student(model), n) for n in range(8)]
    stage = stage_of(
        folder, model, traces=traces, shard=False, train_settings={**SHORT, **changes}, seed=seed,
        student_settings={"adapter": kind},
    )  # fmt: skip
    train.run(stage)
    monkeypatch.setattr(DistillTrainer, "run", inner)
    return stage, made[0]


@pytest.mark.parametrize("name", KINDS)
def test_only_the_adapter_learns_and_what_is_written_is_what_learnt(
    name: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss falls, the base keeps every bit, and the engine that evaluates the folder has the trained graph."""
    from distill.engines.transformers import Config, build

    if name.startswith("q"):
        bitsandbytes()
    stage, trainer = trained(tmp_path, tiny_model, KINDS[name], monkeypatch)
    history = json.loads((stage.out / "history.json").read_text())
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]

    learning = [n for n, p in trainer.model.named_parameters() if p.requires_grad]
    assert learning and all("lora_" in n for n in learning)
    assert any("magnitude" in n for n in learning) == ("dora" in name)
    fresh = load(student_of(tiny_model, KINDS[name]), tiny_model, CPU)
    fresh.requires_grad_(False)
    before, after = checksum(fresh), checksum(trainer.model)
    assert before == after
    assert len(before) == len(list(fresh.parameters()))

    assert (stage.out / "student" / nf4.RECORD).exists() == name.startswith("q")
    engine = build(Config(device="cpu"), str(stage.out / "student"))
    ids = torch.arange(1, 65)[None]
    with torch.no_grad():
        learnt, measured = (m.eval()(ids).logits for m in (trainer.core, engine._model))
        base = fresh.eval()(ids).logits
    # A QLoRA adapter's products are made in bf16 while it trains (TRL's rule) and in float32 when it is measured.
    near = 0.05 if name.startswith("q") else 1e-4
    assert float((learnt - measured).abs().max()) < near < float((learnt - base).abs().max()) / 4


def test_precision_is_what_the_recipe_says(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 with gradient checkpointing: norms and DoRA's lengths in float32, adapters in bf16, the head whole."""
    bnb = bitsandbytes()
    changes = {"gradient_checkpointing": True, "epochs": 1}
    kind = {"qlora": {**RANK, "dora": True}}
    stage = stage_of(
        tmp_path, tiny_model, traces=[a_trace(read_student(tiny_model), n) for n in range(8)], shard=False,
        train_settings={**SHORT, **changes}, student_settings={"adapter": kind, "dtype": "bf16"},
    )  # fmt: skip
    from students.trainer import DistillTrainer

    seen: dict[str, Any] = {}
    inner = DistillTrainer.run

    def run(self: Any) -> Any:
        history = inner(self)
        seen["model"], seen["lora_gradient"] = self.core, self.history.records[0]["grad_norm"]
        return history

    monkeypatch.setattr(DistillTrainer, "run", run)
    train.run(stage)
    model = seen["model"]
    layer = model.model.layers[0]
    assert isinstance(layer.mlp.down_proj.base_layer, bnb.nn.Linear4bit)
    assert type(model.lm_head) is torch.nn.Linear
    assert layer.input_layernorm.weight.dtype == layer.self_attn.q_norm.weight.dtype == torch.float32
    assert layer.mlp.down_proj.lora_A["default"].weight.dtype == torch.bfloat16
    assert layer.mlp.down_proj.lora_magnitude_vector["default"].weight.dtype == torch.float32
    assert model.lm_head.weight.dtype == torch.bfloat16
    assert seen["lora_gradient"] > 0  # the inputs carried gradients through the checkpoints
    assert json.loads((stage.out / "student" / nf4.RECORD).read_text()) == {
        "quant_method": "bitsandbytes", "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "block": 64,
        "dtype": "bfloat16", "kept": ["lm_head"],
    }  # fmt: skip


def test_a_width_that_bitsandbytes_unpacks_wrongly_is_refused(tmp_path: Path) -> None:
    """Widths that are no multiple of a block, on a CPU. Should the second half fail, the refusal can go."""
    bitsandbytes()
    from bitsandbytes import functional

    folder = make_tiny_model(tmp_path / "m", hidden=96)
    with pytest.raises(DistillError, match="q_proj is 96 wide, no multiple of 64"):
        load(student_of(folder, "qlora"), folder, CPU)
    errors = {}
    for width in (96, 128):
        weight = torch.randn(64, width, generator=torch.Generator().manual_seed(0))
        codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
        errors[width] = float((functional.dequantize_4bit(codes, state) - weight).abs().max())
    assert errors[96] > 2 * errors[128]


@pytest.mark.parametrize("name", ["dora", "qlora"])
def test_a_seed_fixes_the_adapters_bits(
    name: str, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "qlora":
        bitsandbytes()
    files = []
    for run, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage, _ = trained(tmp_path / run, tiny_model, KINDS[name], monkeypatch, seed=seed, epochs=1)
        files.append((stage.out / "student" / "adapter_model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


def test_a_killed_qlora_run_goes_on_bit_for_bit(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bitsandbytes()
    import os

    from distill.core import files

    class Killed(BaseException):
        """Stands for SIGKILL."""

    def kill(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr(os, "kill", kill)
    kind = {"qlora": {**RANK, "dropout": 0.2}}
    straight, _ = trained(tmp_path / "straight", tiny_model, kind, monkeypatch, checkpoint_every_s=0.0)
    files._passed.clear()
    monkeypatch.setenv("DISTILL_CRASH_AT", "checkpoint.after-rename:3")
    with pytest.raises(Killed):
        trained(tmp_path / "killed", tiny_model, kind, monkeypatch, checkpoint_every_s=0.0)
    monkeypatch.delenv("DISTILL_CRASH_AT")
    killed, trainer = trained(tmp_path / "killed", tiny_model, kind, monkeypatch, checkpoint_every_s=0.0)
    assert len(trainer.history.records) == 6
    weights = [(stage.out / "student" / "adapter_model.safetensors").read_bytes() for stage in (straight, killed)]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("quantised", [False, True])
def test_a_4_bit_students_loss_is_plain_autograds_with_the_head_whole_or_in_4_bits(
    quantised: bool, tiny_model: Path
) -> None:
    """The direct path for a head that was left out, the module's own for one in 4 bits."""
    bnb = bitsandbytes()
    from students.head_loss import head_loss

    head: Any = torch.nn.Linear(64, 320, bias=False)
    if quantised:
        plain = head
        head = bnb.nn.Linear4bit(64, 320, bias=False, quant_type="nf4", compress_statistics=True)
        head.weight = bnb.nn.Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4").to("cpu")
    head.requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(11, 64, generator=generator, requires_grad=True)
    labels = torch.randint(0, 320, (11,), generator=generator)
    loss = head_loss(hidden, labels, head, tile_bytes=4 * 320 * 4).loss
    (mine,) = torch.autograd.grad(loss, hidden)
    expected = torch.nn.functional.cross_entropy(head(hidden), labels, reduction="sum")
    (theirs,) = torch.autograd.grad(expected, hidden)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_a_look_in_evaluation_mode_leaves_the_4_bit_base_as_it_is(tiny_model: Path) -> None:
    """bitsandbytes repacks a layer in place on some CPUs, with its scales rounded; the guard holds, and is needed."""
    bitsandbytes()
    model = load(student_of(tiny_model, "qlora"), tiny_model, CPU)
    before, ids = checksum(model.requires_grad_(False)), torch.arange(1, 9)[None]
    with torch.no_grad():
        model.eval()(ids)
    assert checksum(model) == before
    layers = [module for module in model.modules() if hasattr(module, "support_avx512bf16_for_cpu")]
    assert layers and not any(module.support_avx512bf16_for_cpu for module in layers)


def test_without_bitsandbytes_one_line_says_what_to_install(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nf4.importlib.util, "find_spec", lambda name: None)  # type: ignore[attr-defined]  # the module's own import
    with pytest.raises(ConfigError, match=r"pip install 'reasoning-distill\[qlora\]'"):
        train.run(stage_of(
            tmp_path, tiny_model, shard=False, train_settings=SHORT, student_settings={"adapter": "qlora"}
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("qlora", settings.Lora(nf4=True)),
        ({"qlora": None}, settings.Lora(nf4=True)),
        ({"qlora": {"rank": 64, "rslora": True}}, settings.Lora(rank=64, rslora=True, nf4=True)),
        ({"lora": {"nf4": True}}, settings.Lora(nf4=True)),
        ({"lora": {"dora": True}}, settings.Lora(dora=True)),
    ],
)
def test_the_forms_of_an_adapter(tiny_model: Path, given: Any, expected: Any) -> None:
    assert student_of(tiny_model, given).adapter == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("prefix_tuning", "knows `none`, `lora` and `qlora`, not 'prefix_tuning'"),
        ({"ia3": {"rank": 4}}, "not 'ia3'"),
        ({"qlora": {"nf4": False}}, "write `lora`"),
        ({"qlora": {"load_in_8bit": True}}, "no setting `load_in_8bit`"),
        ({"rnak": 4}, "Did you mean `rank`"),
        ({"lora": {"targets": ["q_proj", "lm_head"]}}, "output head"),
    ],
)
def test_what_is_no_adapter_here_is_refused(tiny_model: Path, given: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        student_of(tiny_model, given)
    assert message in str(caught.value)


def test_targets_that_are_not_there_or_not_linear_are_refused(tiny_model: Path) -> None:
    model = load(student_of(tiny_model, "lora"), tiny_model, CPU)
    for targets, message in (
        (["q_proj", "query"], "has no query; its linear layers are down_proj, gate_proj, k_proj"),
        (["q_norm"], "Qwen3RMSNorm, not a linear layer"),
        (["embed_tokens"], "names the embeddings"),
    ):
        with pytest.raises(DistillError, match=message):
            adapter(student_of(tiny_model, {"targets": targets}), model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "is a BertForMaskedLM, not a causal language model"),
        ({"architectures": ["T5ForConditionalGeneration"]}, "not a causal language model"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "stored quantised"),
        ({"num_experts": 8}, "mixture of experts"),
        ({"num_local_experts": 8}, "mixture of experts"),
    ],
)
def test_students_that_cannot_be_trained_are_refused_before_weights_are_read(
    changes: dict[str, Any], message: str, tmp_path: Path
) -> None:
    config = {"architectures": ["Qwen3ForCausalLM"], "num_experts": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    refuse(student_of(tmp_path, "none"), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(DistillError, match=message):
        refuse(student_of(tmp_path, "none"), tmp_path)


def test_an_adapter_is_no_student(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DistillError, match="is an adapter; merge it"):
        refuse(student_of(tmp_path, "lora"), tmp_path)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["lora", "qlora"])
def test_rows_of_added_tokens_learn_beside_the_adapter(kind: str, tied: bool, tmp_path: Path) -> None:
    """Only those rows of embeddings and head move, in training and in a folder that is read back."""
    if kind == "qlora":
        bitsandbytes()
    from peft import PeftModel, get_peft_model

    folder = make_tiny_model(tmp_path / "m", tied=tied, padded_vocab=384)
    student = student_of(folder, {kind: RANK})
    model = load(student, folder, CPU)
    before = model.get_input_embeddings().weight.detach().clone()
    head_before = model.get_output_embeddings().weight.detach().clone()
    peft = get_peft_model(model, adapter(student, model, [350, 351]))
    learning = [p for p in peft.parameters() if p.requires_grad]
    ids = torch.tensor([[5, 350, 7, 351, 9]])
    optimizer = torch.optim.SGD(learning, lr=1.0)
    for _ in range(2):
        peft(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    peft.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    back = PeftModel.from_pretrained(load(student, folder, CPU), tmp_path / "a")
    with torch.no_grad():
        torch.testing.assert_close(back.eval()(ids).logits, peft.eval()(ids).logits, rtol=1e-4, atol=1e-4)
        back.eval().base_model.unload()
        merged = PeftModel.from_pretrained(load(student_of(folder, "lora"), folder, CPU), tmp_path / "a")
        whole = merged.merge_and_unload()
    for module, old in ((whole.get_input_embeddings(), before), (whole.get_output_embeddings(), head_before)):
        moved = (module.weight.detach() != old).any(1).nonzero()[:, 0].tolist()
        assert moved == [350, 351]


def test_the_base_counts_in_an_adapters_identity(tmp_path: Path, tiny_model: Path) -> None:
    """The same adapter on a base in 4 bits answers otherwise: it is another model."""
    from peft import get_peft_model

    student = student_of(tiny_model, "lora")
    model = load(student, tiny_model, CPU)
    peft = get_peft_model(model, adapter(student, model))
    peft.peft_config["default"].base_model_name_or_path = str(tiny_model)
    peft.save_pretrained(tmp_path)
    plain = identify(str(tmp_path))
    record = {"bnb_4bit_quant_type": "nf4", "kept": ["lm_head"]}
    (tmp_path / nf4.RECORD).write_text(json.dumps(record))
    assert identify(str(tmp_path)).id != plain.id
    assert nf4.record_of(tmp_path) == record
    (tmp_path / nf4.RECORD).write_text(json.dumps({"bnb_4bit_quant_type": "fp4", "kept": []}))
    with pytest.raises(ConfigError, match="not known here"):
        nf4.record_of(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shape", [(64, 64), (320, 192), (33, 7), (512, 640)])
def test_numpys_way_through_4_bits_is_bitsandbytes(dtype: str, shape: tuple[int, int]) -> None:
    """Codes and scales are the same; only the scales' mean may round otherwise in its last bit."""
    bitsandbytes()
    from bitsandbytes import functional

    from distill.gguf.nf4 import round_trip

    torch.manual_seed(0)
    weight = (torch.randn(shape) * 0.02).to(getattr(torch, dtype))
    weight[0] = 0
    codes, state = functional.quantize_4bit(weight, quant_type="nf4", compress_statistics=True)
    expected = functional.dequantize_4bit(codes, state).float().numpy()
    got = round_trip(weight.float().numpy(), dtype)
    step = {"float32": 2e-8, "bfloat16": 2**-8 * 0.1, "float16": 2**-11 * 0.1}[dtype]
    assert np.abs(got - expected).max() <= step
    assert np.mean(np.abs(got - expected) > 2e-8) < 1e-3
    assert np.abs(got - weight.float().numpy()).max() > 1e-3  # 4 bits do lose something
