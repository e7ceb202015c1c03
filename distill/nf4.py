"""A base model in 4 bits, as QLoRA freezes it: NF4 in blocks of 64, the blocks' scales quantised once more.

bitsandbytes makes and multiplies such weights, on a CPU too. What an adapter was trained on is part of what it is:
`RECORD`, beside its weights, says so, and who evaluates or merges it reads it there.
"""

from __future__ import annotations

import importlib.util
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import ConfigError, DistillError
from distill.core.files import read_json

if TYPE_CHECKING:
    from distill.core.device import Placement

RECORD = "adapter_base.json"
"""In an adapter's folder: how the base was held while it was trained. No such file: as the base's folder stores it."""

BLOCK = 64
"""Weights that share a scale."""


# Its import remarks, on some CPUs, that a faster kernel could be had from the Hub: none is fetched.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def require() -> None:
    """Raise ConfigError, with the install line, where bitsandbytes is missing."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "weights in 4 bits (`adapter: qlora`, `quantization: nf4`) need the bitsandbytes package: "
            "pip install 'reasoning-distill[qlora]'"
        )


def record_of(folder: Path) -> dict[str, Any] | None:
    """What an adapter's folder says of the 4-bit base that it was trained on; None: it was trained on a plain one."""
    path = folder / RECORD
    if not path.exists():
        return None
    record: dict[str, Any] = read_json(path)
    if record.get("bnb_4bit_quant_type") != "nf4" or not isinstance(record.get("kept"), list):
        raise ConfigError(f"{path}: tells of a base that is not known here; take the file that `train` wrote")
    return record


def load(folder: Path, placement: Placement) -> Any:
    """A model folder's causal language model with its linear layers in NF4, in place; the head stays as it is stored.

    Norms are held in float32 and give on what the model computes in: the sums stay exact, activations stay small.
    Raises ConfigError without bitsandbytes, DistillError for a width that it gets wrong, and what transformers raises.
    """
    require()
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, placement.dtype)
    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]  # transformers'
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, quantization_config=config,
        device_map={"": _device(placement)},
    )  # fmt: skip
    for name, module in model.named_modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            if placement.device == "cpu" and module.in_features % BLOCK:
                raise DistillError(
                    f"{folder.name}: {name} is {module.in_features} wide, no multiple of {BLOCK}; bitsandbytes 0.50 "
                    "unpacks such a layer wrongly on a CPU, so hold this base as it is stored, or train on a GPU"
                )
            # On such CPUs a layer in evaluation mode would be repacked in place with its scales rounded to bf16: the
            # base would not be the same after a look at the dev problems.
            module.support_avx512bf16_for_cpu = False
        elif "norm" in type(module).__name__.lower() and dtype != torch.float32:
            module.float()
            module.register_forward_hook(_back)
    return model


def record(model: Any) -> dict[str, Any]:
    """What `RECORD` holds: quantisation, the precision that the weights had before it, and linear layers left out."""
    import torch

    config = model.config.quantization_config
    kept = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear and "lora_" not in name]
    return {
        "quant_method": "bitsandbytes",
        "bnb_4bit_quant_type": config.bnb_4bit_quant_type,
        "bnb_4bit_use_double_quant": config.bnb_4bit_use_double_quant,
        "block": BLOCK,
        "dtype": str(config.bnb_4bit_compute_dtype).removeprefix("torch."),
        "kept": sorted(kept),
    }


def through(model: Any, record: dict[str, Any]) -> None:
    """Give a loaded model's linear layers the values that 4 bits leave of them: the trained base as plain matrices."""
    import torch

    from distill.gguf.nf4 import round_trip

    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear) and name not in record["kept"]:
            left = round_trip(module.weight.detach().float().cpu().numpy(), record["dtype"])
            module.weight.data.copy_(torch.from_numpy(left))


def _back(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
    return output.to(inputs[0].dtype)


def _device(placement: Placement) -> str:
    """A GPU by number where several processes train, one each."""
    local = os.environ.get("LOCAL_RANK")
    return f"{placement.device}:{local}" if placement.device == "cuda" and local else placement.device
