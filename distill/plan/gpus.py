"""What a plan knows of a GPU: its memory, and where a time is wanted its speed. From the makers' data sheets."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

from distill.core.errors import ConfigError

GIB = 1 << 30

CONTEXT = 1.0 * GIB
"""What a process takes before the first tensor: CUDA's context, cuBLAS workspaces, NCCL's buffers. An assumption."""
FRAGMENTS = 0.04
"""Share of its tensors that the allocator cannot use between them. An assumption, not measured by this project."""


@dataclass(frozen=True)
class Gpu:
    """One device. Speed is of dense 16-bit products with float32 sums; None where it is not known."""

    name: str
    memory: float
    """Bytes that the driver reports."""
    teraflops: float | None = None
    bandwidth: float | None = None
    """Bytes a second between memory and cores."""

    @property
    def is_cpu(self) -> bool:
        """Whether it is this machine's processor and memory."""
        return self.name == "cpu"


def _gpu(name: str, mib: int, teraflops: float, gigabytes_s: float) -> tuple[str, Gpu]:
    return name, Gpu(name, mib * (1 << 20), teraflops, gigabytes_s * 1e9)


KNOWN = dict(
    [
        _gpu("b200", 183359, 2250, 8000),
        _gpu("h200", 143771, 989, 4800),
        _gpu("h100", 81559, 989, 3350),  # SXM; the PCIe card below
        _gpu("h100-pcie", 81559, 756, 2000),
        _gpu("a100", 81920, 312, 2039),
        _gpu("a100-40gb", 40960, 312, 1555),
        _gpu("l40s", 46068, 362, 864),
        _gpu("a6000", 49140, 155, 768),
        _gpu("rtx5090", 32607, 210, 1792),
        _gpu("rtx4090", 24564, 165, 1008),
        _gpu("rtx3090", 24576, 71, 936),
        _gpu("l4", 23034, 121, 300),
        _gpu("t4", 15360, 65, 320),
    ]
)
"""Memory as `nvidia-smi` prints it (MiB), dense 16-bit TFLOPS and GB/s of NVIDIA's data sheets."""


def parse(text: str) -> tuple[Gpu, int]:
    """`h100`, `h100:2`, `24GB:4` or `cpu` as a device and a number of them. Raises ConfigError for anything else."""
    name, _, number = text.strip().lower().partition(":")
    if number and not re.fullmatch(r"[1-9]\d{0,4}", number):
        raise ConfigError(f"--gpus {text}: a number of GPUs follows the colon, as in h100:8")
    count = int(number or 1)
    if name == "cpu":
        if count > 1:
            raise ConfigError(f"--gpus {text}: cpu is this machine, once")
        import psutil

        return Gpu("cpu", float(psutil.virtual_memory().total)), 1
    if size := re.fullmatch(r"(\d+(?:\.\d+)?)\s*gi?b", name):
        if not float(size[1]):
            raise ConfigError(f"--gpus {text}: a GPU without memory")
        return Gpu(f"{size[1]} GB", float(size[1]) * GIB), count  # cards are sold in GB and have about as many GiB
    if name not in KNOWN:
        near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(KNOWN)}."
        raise ConfigError(f"--gpus {text}: no such GPU. {hint} Any other by its memory: 24GB, 80GB:8")
    return KNOWN[name], count


def reserve(tensors: float) -> float:
    """Bytes that a process takes besides `tensors` bytes of tensors."""
    return CONTEXT + FRAGMENTS * tensors
