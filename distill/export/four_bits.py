"""A Hugging Face folder with its linear layers in bitsandbytes' NF4, as transformers loads it without further words.

bitsandbytes must be there to write and to prove it; the numpy twin in `distill.gguf.nf4` says what it should hold.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill import nf4

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from distill.export.proof import Check
    from distill.export.source import Source

PRECISION = "bfloat16"
"""What the weights are rounded to before, what they are computed in, and what is not in 4 bits is stored as."""

TOLERANCE = 4e-3
"""Largest error of a tensor beside the numpy twin's, relative to its own size: bitsandbytes unpacks to bfloat16."""


def write_nf4(source: Source, out: Path, shard_bytes: int) -> dict[str, int]:
    """Write the model into the empty folder `out`; returns how many tensors have each type.

    Raises ConfigError without bitsandbytes, DistillError for a width that it cannot pack.
    """
    from distill.core.device import Placement
    from distill.export.graph import quiet
    from distill.export.merge import SMALL_FILES, write_folder
    from distill.gguf.weights import open_safetensors, weight_files

    nf4.require()
    with tempfile.TemporaryDirectory(prefix="distill-nf4-", dir=out.parent) as scratch:
        whole = Path(scratch) / source.name
        whole.mkdir()
        write_folder(source.model, whole, adapter=source.adapter, onto=source.onto, dtype="bf16")
        with quiet():
            model = nf4.load(whole, Placement("cpu", PRECISION, "as it is stored"))
            model.save_pretrained(out, max_shard_size=shard_bytes)
        for name in SMALL_FILES:
            if (whole / name).exists() and not (out / name).exists():
                shutil.copyfile(whole / name, out / name)
    types: dict[str, int] = {}
    for path in weight_files(out):
        for name, entry in open_safetensors(path)[1].items():
            if "quant_state" in name or "absmax" in name or "quant_map" in name:
                continue  # what goes with a packed weight
            kind = "NF4" if entry["dtype"] == "U8" else str(entry["dtype"])
            types[kind] = types.get(kind, 0) + 1
    return types


def same_in_4_bits(source: Source, folder: Path) -> list[Check]:
    """Tiers 1 and 2 of such a folder: its values are what 4 bits leave of the source's, and it answers so.

    Tier 2 compares it, computed in float32, with plain matrices that hold what the numpy twin says.
    """
    import numpy as np
    import torch

    from distill.export.graph import load_graph, logprobs_after
    from distill.export.proof import LOGPROB_TOLERANCE, PREFIX_LENGTHS, Check, loads_its_tokenizer, relative_error
    from distill.gguf.adapter import adapter_parts, open_weights
    from distill.gguf.nf4 import round_trip

    _, weights = open_weights(source.model, source.adapter, source.onto)
    loaded, due = _in_float32(folder), {}
    fault, worst = None, 0.0
    for name, parameter in loaded.named_parameters():
        values = torch.from_numpy(np.array(weights.read(name))).bfloat16().float().numpy()
        if hasattr(parameter, "quant_state"):
            values = round_trip(values, "float32")  # multiplied as they come out of 4 bits, not rounded again
        due[name] = torch.from_numpy(values)
        error = relative_error(_values(parameter), values)
        worst = max(worst, error)
        if fault is None and not error <= TOLERANCE:
            fault = f"{name} is off by {error:.3g} of its size from what 4 bits leave of it"
    checks = [Check("values", 1, fault, {"relative_error": worst}), loads_its_tokenizer(folder)]
    plain = load_graph(adapter_parts(source.model, source.adapter)[0])
    plain.load_state_dict(due, strict=False)  # a tied head has no entry of its own
    ids = np.random.default_rng(0).integers(0, plain.config.vocab_size, PREFIX_LENGTHS[-1]).tolist()
    longest = int(plain.config.max_position_embeddings)
    prefixes = [ids[:count] for count in PREFIX_LENGTHS if count <= longest]
    off = float(np.max(np.abs(logprobs_after(plain, prefixes) - logprobs_after(loaded, prefixes))))
    missed = f"log-probabilities differ by {off:.3g} nats; the bound is {LOGPROB_TOLERANCE:g}"
    return [*checks, Check("twin", 2, None if off <= LOGPROB_TOLERANCE else missed, {"max_logprob_diff": off})]


def _in_float32(folder: Path) -> Any:
    """The written model with its packed weights, computing in float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from distill.export.graph import quiet

    config = AutoConfig.from_pretrained(folder)
    config.quantization_config = {**config.quantization_config, "bnb_4bit_compute_dtype": "float32"}
    with quiet():
        model: Any = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False,
            device_map={"": "cpu"},
        )  # fmt: skip
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu, module.compute_dtype = False, torch.float32  # else it computes in bf16
    for parameter in model.parameters():
        if not hasattr(parameter, "quant_state"):
            parameter.data = parameter.data.float()
    return model.eval()


def _values(parameter: Any) -> NDArray[np.float32]:
    from bitsandbytes.functional import dequantize_4bit

    state = getattr(parameter, "quant_state", None)
    plain = parameter.detach() if state is None else dequantize_4bit(parameter.data, state)
    values: NDArray[np.float32] = plain.float().numpy()
    return values
