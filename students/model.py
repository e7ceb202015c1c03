"""The student as it is built: weights on a device in a stated precision, and the adapter, if one learns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distill import nf4
from distill.core.device import Placement
from distill.core.errors import DistillError
from distill.core.files import read_json
from students import settings

SMALL_BYTES = 64 << 20
"""Weights up to here train on one CPU thread."""


EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configurations call the number of experts of a mixture."""


def refuse(student: settings.Config, folder: Path) -> None:
    """Raise DistillError, in one line with a way out, for a student that cannot be trained here; reads no weights."""
    name = f"student `{student.model}`"
    if not folder.is_dir():
        raise DistillError(f"{name}: {folder.name} is no model folder; a .gguf file cannot be trained")
    if (folder / "adapter_config.json").exists():
        raise DistillError(f"{name} is an adapter; merge it (`distill export` to safetensors) and train that folder")
    config = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    made = next(iter(config.get("architectures") or ()), "")
    if made and not made.endswith(("ForCausalLM", "LMHeadModel")):
        raise DistillError(f"{name} is a {made}, not a causal language model; take one that generates text alone")
    if config.get("quantization_config"):
        how = config["quantization_config"].get("quant_method", "some method")
        raise DistillError(
            f"{name} is stored quantised ({how}); take what it was made from: `adapter: qlora` holds that in 4 bits"
        )
    if any((config.get("text_config") or config).get(key, 0) for key in EXPERTS):
        raise DistillError(f"{name} is a mixture of experts, which is not supported yet; take a dense model")


def load(student: settings.Config, folder: Path, placement: Placement) -> Any:
    """The model of a folder. Full weights are kept in float32 whatever the arithmetic: AdamW's small steps vanish in
    half precision. The frozen base of an adapter is held in the arithmetic's precision, or in 4 bits.

    Raises DistillError if transformers cannot read it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, placement.dtype) if student.adapter is not None else torch.float32
    try:
        if student.adapter is not None and student.adapter.nf4:
            return nf4.load(folder, placement)
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise DistillError(f"student `{student.model}` cannot be loaded: {str(error).partition(chr(10))[0]}") from error


def adapter(student: settings.Config, model: Any, token_ids: Sequence[int] = ()) -> Any:
    """The adapter's peft settings, or None. The rows of `token_ids` in embeddings and head train beside it.

    Raises DistillError if it would wrap the head, the embeddings or what is not linear, or if a target is not there.
    """
    if (lora := student.adapter) is None:
        return None
    from peft import LoraConfig

    if isinstance(lora.targets, list):
        _check_targets(model, lora.targets)
    # The base's name is set when the adapter is written: until then peft may look at the folder that it names.
    return LoraConfig(
        task_type="CAUSAL_LM", r=lora.rank, lora_alpha=lora.alpha, lora_dropout=lora.dropout,
        target_modules=lora.targets, use_rslora=lora.rslora, use_dora=lora.dora,
        trainable_token_indices=_token_rows(model, token_ids) if token_ids else None,
    )  # fmt: skip


def _check_targets(model: Any, targets: Sequence[str]) -> None:
    from torch import nn

    ends = {id(model.get_output_embeddings()): "output head", id(model.get_input_embeddings()): "embeddings"}
    unseen = dict.fromkeys(targets)
    for name, module in model.named_modules():
        found = next((target for target in targets if name == target or name.endswith(f".{target}")), None)
        if found is None:
            continue
        unseen.pop(found, None)
        if id(module) in ends:
            raise DistillError(f"`student.adapter.targets` names the {ends[id(module)]} ({name}); leave it out")
        if not isinstance(module, nn.Linear):
            raise DistillError(
                f"`student.adapter.targets`: {name} is a {type(module).__name__}, not a linear layer; leave {found} out"
            )
    if unseen:
        linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
        raise DistillError(
            f"`student.adapter.targets`: the student has no {next(iter(unseen))}; "
            f"its linear layers are {', '.join(sorted(linear - set(settings.HEADS)))}"
        )


def _token_rows(model: Any, token_ids: Sequence[int]) -> dict[str, list[int]]:
    """What peft's `trainable_token_indices` takes: embeddings, and the head where it has weights of its own."""
    ends = [model.get_input_embeddings()]
    if model.get_output_embeddings().weight is not ends[0].weight:
        ends.append(model.get_output_embeddings())
    names = {id(module): name for name, module in model.named_modules()}
    return {names[id(module)]: sorted(token_ids) for module in ends}


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
