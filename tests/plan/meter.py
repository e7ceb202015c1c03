"""A training step whose tensors have sizes but no data, and a count of the bytes that torch holds while it runs.

transformers' own modules, peft's adapters and students/head_loss.py run at true widths in torch's fake mode: every
tensor is made, kept and dropped as in a real step, autograd and autocast included. What is counted is storages.
"""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distill.plan.memory import Adapter, Training
from distill.plan.shapes import ModelShape
from students.head_loss import head_loss


class Meter(TorchDispatchMode):
    """Bytes of the storages that operations made and that are still alive, and the most of them at a time.

    `there` are tensors that were there before: they are not counted.
    """

    def __init__(self, there: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()
        self.live = self.most = 0
        self._known = {tensor.untyped_storage()._cdata: 0 for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor):
                self._watch(tensor.untyped_storage())
        return made

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.live += self._known[key]
            self.most = max(self.most, self.live)
            weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._known.pop(key)


@dataclass(frozen=True)
class Measured:
    """Bytes above the weights: what the backbone leaves for its backward pass, and the peaks of the two halves."""

    weights: int
    saved: int
    forward: int
    backward: int
    gradients: int


def measure(training: Training, monkeypatch: pytest.MonkeyPatch) -> Measured:
    """One step of this training, the second of two forward passes where it accumulates.

    Packed (`square_mask`) it runs with data, in two documents: transformers makes the mask from their positions.
    """
    model, core = _model(training)
    if not training.square_mask:
        # What transformers does of itself where there is neither padding nor tracing; fake tensors look like the latter
        monkeypatch.setattr(sys.modules[type(core).__module__], "create_causal_mask", lambda **_: None)
    with nullcontext() if training.square_mask else FakeTensorMode(), Meter() as meter:
        _fill(model)
        model.train()
        weights = sum(p.numel() * p.element_size() for p in model.parameters())
        base = meter.live
        rows = training.tokens // training.longest
        ids_BT = torch.zeros(rows, training.longest, dtype=torch.int64)
        place = (
            {}
            if not training.square_mask
            else {"position_ids": torch.arange(training.longest)[None] % (training.longest // 2)}
        )
        for _ in range(2 if training.accumulates else 1):
            meter.most, before = meter.live, meter.live
            with torch.autocast("cpu", torch.bfloat16, enabled=training.half):
                hidden_BTH = core.base_model(input_ids=ids_BT, use_cache=False, **place).last_hidden_state
                saved = meter.live - before
                trained_R = torch.arange(training.tokens)  # as the trainer's mask picks them, with a size that is known
                sums = head_loss(
                    hidden_BTH.flatten(0, 1).index_select(0, trained_R), ids_BT.flatten(), core.get_output_embeddings()
                )
                del hidden_BTH
            forward = meter.most - base
            meter.most = meter.live
            sums.loss.backward()
            backward = meter.most - base
            del sums
    return Measured(weights, saved, forward, backward, meter.live - base - ids_BT.nbytes - trained_R.nbytes)


def _model(training: Training) -> tuple[Any, Any]:
    """The model as students/model.py and TRL make it, without any data; itself, and what is under the adapter."""
    core = model_of(training.shape, torch.bfloat16 if training.half and training.adapter is not None else torch.float32)
    model = core
    if training.adapter is not None:
        from peft import LoraConfig, get_peft_model

        adapter: Adapter = training.adapter
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            model = get_peft_model(
                core,
                LoraConfig(
                    task_type="CAUSAL_LM", r=adapter.rank, target_modules=list(adapter.targets),
                    lora_dropout=0.1 if adapter.dropout else 0.0, use_dora=adapter.dora,
                ),
            )  # fmt: skip
    if training.checkpointing:
        core.activation_checkpointing_enable()
        if training.adapter is not None:
            core.enable_input_require_grads()
    return model, core


def model_of(shape: ModelShape, dtype: torch.dtype = torch.float32) -> Any:
    """A transformers model of this shape on the meta device."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {key: value for key, value in asdict(shape).items() if key not in ("name", "model_type", "bias")}
    settings = AutoConfig.for_model(shape.model_type, pad_token_id=None, bos_token_id=None, eos_token_id=None, **config)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(settings, dtype=dtype)


def _fill(model: nn.Module) -> None:
    """Give the parameters and buffers of a meta model fake storages, those that are shared once."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    filled = torch.zeros(parameter.shape, dtype=parameter.dtype)
                    made[id(parameter)] = nn.Parameter(filled, requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.zeros(buffer.shape, dtype=buffer.dtype)
