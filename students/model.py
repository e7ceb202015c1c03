"""The student as it is built: weights on a device in a stated precision, and the adapter, if one learns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill.core.device import Placement
from distill.core.errors import DistillError
from students import settings

SMALL_BYTES = 64 << 20
"""Weights up to here train on one CPU thread."""


def load(student: settings.Config, folder: Path, placement: Placement) -> Any:
    """The model of a folder. Full weights are kept in float32 whatever the arithmetic: AdamW's small steps vanish in
    half precision. The frozen base of an adapter is held in the arithmetic's precision.

    Raises DistillError if transformers cannot read it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, placement.dtype) if student.adapter is not None else torch.float32
    try:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DistillError(f"student `{student.model}` cannot be loaded: {str(error).partition(chr(10))[0]}") from error


def adapter(student: settings.Config, model: Any) -> Any:
    """The adapter's peft settings, or None. Raises DistillError if it would wrap the head or the embeddings."""
    if (lora := student.adapter) is None:
        return None
    from peft import LoraConfig

    if isinstance(lora.targets, list):
        ends = {id(model.get_output_embeddings()): "output head", id(model.get_input_embeddings()): "embeddings"}
        for name, module in model.named_modules():
            if id(module) in ends and any(name == t or name.endswith(f".{t}") for t in lora.targets):
                raise DistillError(f"`student.adapter.targets` names the {ends[id(module)]} ({name}); leave it out")
    # The base's name is set when the adapter is written: until then peft may look at the folder that it names.
    return LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=lora.targets,
    )  # fmt: skip


@contextmanager
def threads_for(model: Any, placement: Placement) -> Iterator[None]:
    """Train a small model on one CPU thread: its operations end sooner than threads can be brought together, and on
    cores that another process wants as well a second thread made training ten times slower (docs/what-did-not-work.md).
    """
    import torch

    before = torch.get_num_threads()
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    if placement.device == "cpu" and size <= SMALL_BYTES:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
