"""Training on one GPU: tokens a second, share of the peak, memory, beside TRL's SFT and Liger. NOT RUN ON A GPU YET.

    python -m benchmarks.gpu.train --results train.jsonl                  # what is missing, for at most ten minutes
    python -m benchmarks.gpu.train --results train.jsonl --table          # the table of what was measured
    python -m benchmarks.gpu.train --results dry.jsonl --dry              # tiny shapes on a CPU: does the script work?

Random weights of true shape, nothing is downloaded: Qwen2.5-Math-1.5B in full, Qwen2.5-7B with LoRA, Qwen2.5-32B and
Llama-3.3-70B with QLoRA; one sequence of 4,096, 16,384 and 32,768 tokens, all trained, checkpointed layers, bf16. Every
arm is a process of its own that trains four steps, the first unmeasured: `ours` is DistillTrainer, `trl` SFTTrainer,
`liger` SFTTrainer with Liger's kernels where that package is installed. Finished arms are lines of the results file, so
that a later call goes on from there; what `distill plan` says cannot fit is not tried.

The share of the peak (MFU) counts the operations of the model, not those that checkpointing repeats. Memory is
torch.cuda.max_memory_allocated; it must be within 10% of what `distill plan` says without its margin, else the exit
code is 1.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from distill.plan import cost, memory
from distill.plan.gpus import GIB, KNOWN, Gpu, reserve
from distill.plan.memory import Adapter, Training
from distill.plan.shapes import table

CASES = {
    "1.5b-full": ("Qwen/Qwen2.5-Math-1.5B", None),
    "7b-lora": ("Qwen/Qwen2.5-7B", Adapter(rank=16)),
    "32b-qlora": ("Qwen/Qwen2.5-32B", Adapter(rank=16, nf4=True)),
    "70b-qlora": ("meta-llama/Llama-3.3-70B-Instruct", Adapter(rank=16, nf4=True)),
}
LENGTHS = (4_096, 16_384, 32_768)
ARMS = ("ours", "trl", "liger")
STEPS = 4
TOLERANCE = 0.10
ARM_S = 280
"""Longest an arm may take, building included."""

DRY = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4,
       "num_key_value_heads": 2, "head_dim": 32, "vocab_size": 1024}  # fmt: skip
DRY_LENGTH = 64


def training(case: str, tokens: int, dry: bool) -> Training:
    """One process, one sequence a step, as `distill plan` sees it."""
    name, adapter = CASES[case]
    shape = replace(table()[name], max_position_embeddings=max(LENGTHS))
    if dry:
        shape = replace(shape, **DRY)
    return Training(
        shape=shape,
        adapter=adapter,
        half=True,
        tokens=tokens,
        longest=tokens,
        checkpointing=True,
        accumulates=False,
        cpu=dry,
    )


def arm(case: str, name: str, tokens: int, dry: bool) -> dict[str, Any]:
    """Train a few steps in this process; what was measured."""
    import torch

    torch.manual_seed(0)
    device = "cpu" if dry else "cuda"
    if dry:
        torch.set_num_threads(1)
    asked = training(case, tokens, dry)
    model = model_of(asked, device)
    with tempfile.TemporaryDirectory() as work:
        trainer = build(name, model, asked, Path(work), dry)
        took: list[float] = []
        watch(trainer, took, device)
        if not dry:
            torch.cuda.reset_peak_memory_stats()
        trainer.train()
    step_s = statistics.median(took[1:])
    gpu = None if dry else gpu_of(torch.cuda.get_device_name())
    operations = cost.operations(replace(asked, checkpointing=False), tokens) * tokens
    return {
        "tokens_s": tokens / step_s,
        "mfu": None if gpu is None or gpu.teraflops is None else operations / step_s / (gpu.teraflops * 1e12),
        "allocated": None if dry else torch.cuda.max_memory_allocated(),
        "reserved": None if dry else torch.cuda.max_memory_reserved(),
        "device": device if dry else torch.cuda.get_device_name(),
        "torch": torch.__version__,
    }


def model_of(asked: Training, device: str) -> Any:
    """A model of this shape with random weights, held as students/model.py holds it; a 4-bit one layer by layer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    ours = ("name", "model_type", "bias")
    settings = {key: value for key, value in asdict(asked.shape).items() if key not in ours}
    config = AutoConfig.for_model(asked.shape.model_type, pad_token_id=0, bos_token_id=1, eos_token_id=2, **settings)
    dtype = torch.float32 if asked.adapter is None else torch.bfloat16
    if asked.adapter is None or not asked.adapter.nf4:
        with torch.device(device):
            return AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return _in_four_bits(model, device)


def _in_four_bits(model: Any, device: str) -> Any:
    """Fill a meta model with random weights, its linear layers in NF4 and its norms as distill/nf4.py holds them."""
    import bitsandbytes as bnb
    import torch
    from torch import nn
    from transformers import BitsAndBytesConfig
    from transformers.quantizers import AutoHfQuantizer

    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and child is not model.get_output_embeddings():
                packed = bnb.nn.Linear4bit(
                    child.in_features, child.out_features, bias=child.bias is not None, quant_type="nf4",
                    compute_dtype=torch.bfloat16, compress_statistics=True, device="meta",
                )  # fmt: skip
                weight = torch.randn(child.out_features, child.in_features, dtype=torch.bfloat16, device=device) * 0.02
                packed.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to(device)
                if child.bias is not None:
                    packed.bias = nn.Parameter(torch.zeros(child.out_features, dtype=torch.bfloat16, device=device))
                packed.support_avx512bf16_for_cpu = False
                setattr(parent, name, packed)
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.is_meta:
                filled = torch.randn(parameter.shape, dtype=parameter.dtype, device=device) * 0.02
                module._parameters[name] = nn.Parameter(filled if parameter.dim() > 1 else torch.ones_like(filled))
    with torch.device(device):  # its table is no parameter, and was made on meta
        model.model.rotary_emb = type(model.model.rotary_emb)(model.config)
    if model.config.tie_word_embeddings:
        model.tie_weights()
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            module.float()
            module.register_forward_hook(lambda _, inputs, output: output.to(inputs[0].dtype))
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    model.is_quantized = model.is_loaded_in_4bit = True  # what TRL, peft and the Trainer look at
    model.quantization_method, model.config.quantization_config = how.quant_method, how
    model.hf_quantizer = AutoHfQuantizer.from_config(how, pre_quantized=False)
    return model


def build(name: str, model: Any, asked: Training, work: Path, dry: bool) -> Any:
    """The trainer of an arm; all get the same rows, optimizer, precision and checkpointing."""
    import numpy as np

    from distill.core.models import resolve
    from distill.core.progress import Progress
    from distill.text.chat import load_tokenizer
    from students.collate import Collator
    from students.rows import Row
    from students.trainer import DistillTrainer, arguments

    peft = None
    if asked.adapter is not None:
        from peft import LoraConfig

        peft = LoraConfig(r=asked.adapter.rank, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    draw, size = np.random.default_rng(0), (STEPS, asked.tokens)
    ids = draw.integers(10, asked.shape.vocab_size, size).astype(np.int32)
    shared: dict[str, Any] = {
        "max_steps": STEPS, "per_device_train_batch_size": 1, "learning_rate": 1e-5, "seed": 0, "bf16": True,
        "use_cpu": dry, "activation_checkpointing": True, "dataloader_pin_memory": not dry,
    }  # fmt: skip
    tokenizer = load_tokenizer(resolve("embedded-student"))
    if name == "ours":
        rows = [Row(key=f"{n:064x}", ids=row, start=1, answer_at=len(row)) for n, row in enumerate(ids)]
        return DistillTrainer(
            model=model, args=arguments(work, **shared), processing_class=tokenizer, peft_config=peft,
            collator=Collator(rows, None), matching=None, work=work, plan="benchmark",
            progress=Progress("train", STEPS, "steps"), checkpoint_every_s=1e9, logging_every=1,
        )  # fmt: skip
    import datasets
    from trl import SFTConfig, SFTTrainer

    data = [{"input_ids": row.tolist(), "labels": [-100, *row[1:].tolist()]} for row in ids]
    return SFTTrainer(
        model=model, processing_class=tokenizer, peft_config=peft, train_dataset=datasets.Dataset.from_list(data),
        args=SFTConfig(
            output_dir=str(work), report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, use_liger_kernel=name == "liger", **shared,
        ),
    )  # fmt: skip


def watch(trainer: Any, took: list[float], device: str) -> None:
    """Append each step's seconds to `took`."""
    import torch
    from transformers import TrainerCallback

    def now_s() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    class Clock(TrainerCallback):
        began_s = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began_s = now_s()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            took.append(now_s() - self.began_s)

    trainer.add_callback(Clock())


def gpu_of(name: str) -> Gpu | None:
    """The GPU that torch names so."""
    text = name.lower().replace(" ", "")
    return next((gpu for key, gpu in KNOWN.items() if key.partition("-")[0] in text), None)


def wanted(dry: bool) -> list[tuple[str, int, str]]:
    """All (case, tokens, arm), short ones first, so that a short budget gives something of everything."""
    lengths = (DRY_LENGTH,) if dry else LENGTHS
    arms = [name for name in ARMS if name != "liger" or (not dry and importlib.util.find_spec("liger_kernel"))]
    return [(case, tokens, name) for tokens in lengths for case in CASES for name in arms]


def go_on(results: Path, budget_s: float, dry: bool) -> None:
    """Run what the results file lacks until the budget is spent."""
    ends_s = time.monotonic() + budget_s
    had = {(r["case"], r["tokens"], r["arm"]) for r in read(results)}
    room = None if dry else _room()
    for case, tokens, name in wanted(dry):
        if (case, tokens, name) in had:
            continue
        left_s = ends_s - time.monotonic()
        if left_s < (5 if dry else 60):
            print(f"budget spent; {case} at {tokens:,} tokens and what follows is left for the next call")
            return
        planned = sum(memory.peak(training(case, tokens, dry))[1].values())
        record: dict[str, Any] = {"case": case, "tokens": tokens, "arm": name, "planned": planned}
        if room is not None and planned + reserve(planned) > room:
            record["error"] = "does not fit, by the plan"
        else:
            record |= _alone(case, name, tokens, dry, min(ARM_S, left_s))
        with results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        print(json.dumps(record), flush=True)


def _room() -> float:
    """Bytes of the GPU, asked in a process that ends: this one shall hold no context."""
    code = "import torch; print(torch.cuda.get_device_properties(0).total_memory)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"no GPU: {done.stderr.strip().splitlines()[-1]}")
    return float(done.stdout)


def _alone(case: str, name: str, tokens: int, dry: bool, limit_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.gpu.train", "--one", json.dumps([case, name, tokens, dry])]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"error": f"over {limit_s:.0f} s"}
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        said = [line for line in done.stderr.strip().splitlines() if line.strip()]
        return {"error": "out of memory" if "OutOfMemoryError" in done.stderr else said[-1] if said else "no word"}
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


def read(results: Path) -> list[dict[str, Any]]:
    """What was measured so far."""
    return [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []


def rows_of(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The table: a row an arm, ours first."""

    def gib(record: Mapping[str, Any], name: str) -> str:
        return f"{record[name] / GIB:.1f}" if record.get(name) else ""

    def share(record: Mapping[str, Any]) -> str:
        ours = record["arm"] == "ours" and record.get("allocated")
        return f"{record['planned'] / record['allocated']:.2f}" if ours else ""

    return [
        {
            "case": r["case"], "tokens": r["tokens"], "arm": r["arm"],
            "tokens/s": f"{r['tokens_s']:,.0f}" if r.get("tokens_s") else r.get("error", ""),
            "MFU": f"{r['mfu']:.0%}" if r.get("mfu") else "",
            "GiB": gib(r, "allocated"), "GiB reserved": gib(r, "reserved"),
            "GiB planned": gib(r, "planned") if r["arm"] == "ours" else "",
            "planned / GiB": share(r),
        }
        for r in sorted(records, key=lambda r: (list(CASES).index(r["case"]), r["tokens"], ARMS.index(r["arm"])))
    ]  # fmt: skip


def off_plan(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Our arms whose memory the plan missed by more than the tolerance."""
    return [
        f"{r['case']} at {r['tokens']:,} tokens: planned {r['planned'] / GIB:.1f} GiB, took {r['allocated'] / GIB:.1f}"
        for r in records
        if r["arm"] == "ours" and r.get("allocated") and abs(r["planned"] / r["allocated"] - 1) > TOLERANCE
    ]


def main() -> int:
    """Go on with the measurement, or print its table; the exit code says whether the plan held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="file of finished arms, one JSON object a line")
    parser.add_argument("--budget-s", type=float, default=570.0, help="seconds that this call may take")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU")
    parser.add_argument("--table", action="store_true", help="print the table, run nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        case, name, tokens, dry = json.loads(given.one)
        print("RESULT " + json.dumps(arm(case, name, tokens, dry)))
        return 0
    if given.results is None:
        parser.error("--results names the file of finished arms")
    if not given.table:
        go_on(given.results, given.budget_s, given.dry)
    from distill.report import table as tables

    records = read(given.results)
    print(tables.markdown(rows_of(records)))
    missed = off_plan(records)
    print("\n".join(missed))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
