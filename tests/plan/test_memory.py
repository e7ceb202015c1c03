"""The formulas of a training's memory against bytes counted in torch, on the real modules at their real widths."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from distill import nf4
from distill.core.device import Placement
from distill.plan import memory, shapes
from distill.plan.memory import Adapter, Training
from students import head_loss, vocabulary_tiles
from tests.plan.meter import Meter, measure
from tests.tiny import make_tiny_model

QWEN2, QWEN3, LLAMA, SMOLLM3 = (
    "Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen3-4B-Base", "meta-llama/Llama-3.1-8B", "HuggingFaceTB/SmolLM3-3B-Base",
)  # fmt: skip
LORA = Adapter(rank=16)
TOKENS = 2048

CASES = {
    "qwen2 full": (QWEN2, {}),
    "qwen2 full fp32, kept, one pass": (QWEN2, {"half": False, "checkpointing": False, "accumulates": False}),
    "qwen3 full, kept": (QWEN3, {"checkpointing": False}),
    "llama full, one pass": (LLAMA, {"accumulates": False}),
    "llama lora": (LLAMA, {"adapter": LORA}),
    "smollm3 full, four rows": (SMOLLM3, {"longest": TOKENS // 4}),
}
MORE = {
    "qwen3 lora, kept": (QWEN3, {"adapter": LORA, "checkpointing": False}),
    "qwen2 full fp32": (QWEN2, {"half": False}),
    "qwen2 full, one pass": (QWEN2, {"accumulates": False}),
    "qwen2 full, more rows than the loss keeps": (QWEN2, {"tokens": 4096, "longest": 4096}),
    "qwen3 full fp32, kept": (QWEN3, {"checkpointing": False, "half": False}),
    "qwen3 lora": (QWEN3, {"adapter": LORA}),
    "llama lora fp32, kept": (LLAMA, {"adapter": LORA, "half": False, "checkpointing": False}),
    "llama lora on attention, rank 64": (LLAMA, {"adapter": Adapter(64, ("q_proj", "k_proj", "v_proj", "o_proj"))}),
    "llama dora": (LLAMA, {"adapter": replace(LORA, dora=True)}),
    "qwen3 dora, kept": (QWEN3, {"adapter": replace(LORA, dora=True), "checkpointing": False}),
    "smollm3 lora, four rows, kept": (SMOLLM3, {"adapter": LORA, "longest": TOKENS // 4, "checkpointing": False}),
}


def a_training(model: str, **changes: object) -> Training:
    """Two layers of a model, checkpointed bf16 arithmetic over 2,048 tokens, two passes a step."""
    values = {
        "shape": replace(shapes.table()[model], num_hidden_layers=2), "adapter": None, "half": True, "tokens": TOKENS,
        "longest": TOKENS, "checkpointing": True, "accumulates": True, "cpu": True,
    }  # fmt: skip
    return Training(**{**values, **changes})  # type: ignore[arg-type]  # one value a field


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("case", [*CASES, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)])
def test_the_formulas_count_what_torch_holds(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, changes = (CASES | MORE)[case]
    training = a_training(model, **changes)

    measured = measure(training, monkeypatch)

    _, parts = memory.peak(training)
    held = memory.held(training)
    moved = sum(parts.values()) - sum(held.values())
    assert held["weights"] + held.get("adapter", 0) == measured.weights
    assert memory.gradients(training) == pytest.approx(measured.gradients, rel=1e-3)
    assert memory.saved(training) + memory.copies(training) == pytest.approx(measured.saved, rel=0.02)
    assert moved == pytest.approx(max(measured.forward, measured.backward), rel=0.10)
    if training.adapter is None:  # else a layer's own forward pass may need more than the loss, and less than the peak
        loss = sum(memory.moments(training)["the loss"].values()) - sum(held.values())
        assert loss == pytest.approx(measured.forward, rel=0.05)


@pytest.mark.parametrize("half", [False, True])
def test_packed_rows_on_sdpa_keep_a_square_mask_a_layer_and_repeated_keys(
    half: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape = replace(
        shapes.table()[QWEN2], num_hidden_layers=4, hidden_size=96, intermediate_size=128, head_dim=8, vocab_size=256
    )
    training = replace(
        a_training(QWEN2, half=half, checkpointing=False, tokens=512, longest=512, square_mask=True), shape=shape
    )

    measured = measure(training, monkeypatch)

    assert memory.saved(training) + memory.copies(training) == pytest.approx(measured.saved, rel=0.02)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_an_adapter_on_a_base_in_4_bits(checkpointing: bool, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from peft import LoraConfig, get_peft_model

    folder = make_tiny_model(
        tmp_path, architecture="qwen2", hidden=256, feed_forward=1024, layers=3, heads=8, kv_heads=2, tied=False,
        scale=0.02,
    )  # fmt: skip
    core = nf4.load(folder, Placement("cpu", "bfloat16", "asked for"))
    model = get_peft_model(core, LoraConfig(task_type="CAUSAL_LM", r=16, target_modules="all-linear"))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.to(torch.bfloat16)  # as TRL does on such a base
    if checkpointing:
        core.activation_checkpointing_enable()
        core.enable_input_require_grads()
    model.train()
    training = Training(
        shapes.shape_of(str(folder)), Adapter(16, nf4=True), half=True, tokens=512, longest=512,
        checkpointing=checkpointing, accumulates=False,
    )  # fmt: skip

    ids_BT = torch.randint(0, 300, (1, 512))
    with Meter([*model.parameters(), *model.buffers(), ids_BT]) as meter, torch.autocast("cpu", torch.bfloat16):
        hidden_TH = core.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state[0]
        saved = meter.live
        meter.most = meter.live
        hidden_TH.float().sum().backward()
        moved = meter.most

    parts = memory.moments(training)["the last layer's backward pass"]
    held = memory.held(training)
    assert saved == pytest.approx(memory.saved(training), rel=0.02)
    assert moved == pytest.approx(sum(parts.values()) - sum(held.values()), rel=0.10)
    stored = sum(p.numel() * p.element_size() for p in model.parameters())
    states = {id(p): p.quant_state for p in model.parameters() if getattr(p, "quant_state", None) is not None}
    scales = sum(state.absmax.nbytes + state.state2.absmax.nbytes for state in states.values())
    assert stored + scales == pytest.approx(held["weights"] + held["adapter"], rel=1e-3)


def test_the_tiles_counted_are_those_that_the_loss_makes() -> None:
    assert (memory.TILE_BYTES, memory.PART_BYTES) == (head_loss.TILE_BYTES, head_loss.PART_BYTES)
    assert (memory.SWEEP_ROWS, memory.SWEEP_ENTRIES) == (vocabulary_tiles.ROWS, vocabulary_tiles.ENTRIES)
