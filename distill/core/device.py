"""Device and precision by a stated rule; one line says what was chosen."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from distill.core.errors import ConfigError

DeviceName = Literal["auto", "cuda", "mps", "cpu"]
DtypeName = Literal["auto", "bf16", "fp16", "fp32"]


@dataclass(frozen=True)
class Placement:
    """Where tensors live and in which type. `device` and `dtype` are torch's names."""

    device: str
    dtype: str
    why: str

    def __str__(self) -> str:
        return f"{self.device}, {self.dtype} ({self.why})"


def usable_cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def place(device: DeviceName = "auto", dtype: DtypeName = "auto") -> Placement:
    """Choose device and precision.

    auto device: cuda if there is one, else mps, else cpu. auto precision: bf16 on a GPU that has it (compute
    capability 8.0 and up), else fp16 on cuda and mps, fp32 on cpu (bf16 there only on request: it is slower on most).
    Raises ConfigError if a device is named that is not there.
    """
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        chosen = next(name for name in ("cuda", "mps", "cpu") if there[name])
        why = "the first there of cuda, mps, cpu"
    else:
        if not there[device]:
            raise ConfigError(f"device `{device}` is not there; use auto or one of {[d for d in there if there[d]]}")
        chosen, why = device, "as set"
    names = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
    if dtype != "auto":
        return Placement(chosen, names[dtype], f"{why}; precision as set")
    if chosen == "cpu":
        return Placement(chosen, "float32", f"{why}; fp32 on cpu")
    if chosen == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return Placement(chosen, "bfloat16", f"{why}; bf16 where the GPU has it")
    return Placement(chosen, "float16", f"{why}; fp16 where bf16 is missing")
