"""What one training step costs: SFT and SFT+KL here, beside TRL's SFT step and beside the bare matrix products.

    python -m benchmarks.train_step                      # all arms, both precisions, LoRA and full weights
    python -m benchmarks.train_step --precision bf16 --weights lora

A Qwen3 model of random weights (hidden 512, 4 layers, tied head, 151,936 entries), 2 sequences of 1,024 tokens, one
thread. Every arm is a process of its own: it trains steps of real `SFTTrainer` or `DistillTrainer`, the first of them
unmeasured. Printed: CPU seconds of the fastest measured step, its ratio to TRL's and to the matrix products that
cannot be avoided (each layer's and the head's, forward and backward, measured in the same process), and the peak of
resident memory above the level with the weights loaded. TRL's CPU path scores every position in float32 whatever is
trained, so the ratio to the products says more than the ratio to TRL.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

VOCAB, HIDDEN, LAYERS, SEQUENCES, TOKENS = 151_936, 512, 4, 2, 1024
ARMS = ("trl", "ce", "kl16", "kl64")
TOP_K = 64
"""Ids that the benchmark's shard holds a token."""


def folder_of(where: Path) -> Path:
    """A model folder of the benchmark's shape with random bf16 weights, and the embedded student's tokenizer."""
    import shutil

    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from distill.core.models import resolve

    config = AutoConfig.for_model(
        "qwen3", vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=3 * HIDDEN, num_hidden_layers=LAYERS,
        num_attention_heads=8, num_key_value_heads=4, head_dim=64, max_position_embeddings=4096,
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(where)
    for path in resolve("embedded-student").iterdir():
        if "token" in path.name or path.suffix == ".jinja":
            shutil.copyfile(path, where / path.name)
    return where


def rows_and_shard(where: Path, masked: float) -> tuple[list[Any], Path]:
    """Random rows, and a shard with a teacher row for every trained token."""
    import numpy as np

    from distill.core import shards
    from distill.core.protocols import TokenLogprobs
    from distill.core.shards import ShardInfo, ShardRows
    from students.rows import Row

    draw, start = np.random.default_rng(0), max(1, int(masked * TOKENS))
    rows = []
    for number in range(SEQUENCES):
        ids = draw.integers(10, VOCAB, TOKENS).astype(np.int32)
        rows.append(Row(key=f"{number:064x}", ids=ids, start=start, answer_at=TOKENS))
    path, recorded = where / "logits.safetensors", []
    for row in rows:
        n = len(row.completion_ids)
        first_N1 = draw.integers(0, VOCAB - TOP_K * 1000, (n, 1))
        ids_NK = (first_N1 + np.cumsum(draw.integers(1, 1000, (n, TOP_K)), axis=1)).astype(np.int32)
        ids_NK[:, 0] = row.completion_ids  # the tokens are what the teacher drew: its most probable ids
        clash_NK = ids_NK == row.completion_ids[:, None]
        clash_NK[:, 0] = False
        ids_NK = np.where(clash_NK, 5, ids_NK)
        logits_NK = np.sort(draw.normal(size=(n, TOP_K)) * 2, axis=1)[:, ::-1] + np.eye(1, TOP_K) * 4
        whole_N = np.logaddexp(np.logaddexp.reduce(logits_NK, axis=1), 0.0)
        values_NK = (logits_NK - whole_N[:, None]).astype(np.float32)
        got = TokenLogprobs(
            ids_NK=ids_NK, logprobs_NK=values_NK, tail_N=(-whole_N).astype(np.float32), realised_N=values_NK[:, 0],
            present_N=np.ones(n, bool),
        )  # fmt: skip
        recorded.append(ShardRows(row.key, tuple(row.completion_ids.tolist()), got))
    info = ShardInfo(model_id="random", tokenizer="benchmark", template=None, vocab_size=VOCAB, top_k=TOP_K)
    shards.write(path, recorded, info)
    return rows, path


def arm(name: str, precision: str, weights: str, masked: float, steps: int, checkpointing: bool) -> dict[str, Any]:
    """Train `steps` steps after one that is not measured; figures of this process."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        where = folder_of(Path(scratch) / "model")
        rows, shard = rows_and_shard(Path(scratch), masked)
        trainer = build(name, where, rows, shard, precision, weights, steps, checkpointing, Path(scratch) / "work")
        _reset_peak()
        level = _status("VmRSS")
        took: list[float] = []
        watch(trainer, took)
        trainer.train()
        peak = _status("VmHWM") - level
        floor_s = floor(trainer, weights, precision, masked)
    return {
        "arm": name, "cpu_s": min(took[1:]), "floor_s": floor_s, "peak_mib": peak / 2**20,
        "weights_mib": sum(p.numel() * p.element_size() for p in trainer.model.parameters()) / 2**20,
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def build(
    name: str, where: Path, rows: list[Any], shard: Path, precision: str, weights: str, steps: int,
    checkpointing: bool, work: Path,
) -> Any:  # fmt: skip
    """The trainer of one arm. Both kinds get the same rows, optimizer and precision."""
    import datasets
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    half, lora = precision == "bf16", weights == "lora"
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.bfloat16 if half and lora else torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(where)
    peft = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    shared: dict[str, Any] = {
        "max_steps": steps + 1, "per_device_train_batch_size": SEQUENCES, "learning_rate": 1e-5, "seed": 0,
        "use_cpu": True, "bf16": half, "activation_checkpointing": checkpointing, "dataloader_pin_memory": False,
    }  # fmt: skip
    if name == "trl":
        data = [{"input_ids": r.ids.tolist(), "labels": [-100] * r.start + r.completion_ids.tolist()} for r in rows]
        return SFTTrainer(
            model=model, processing_class=tokenizer, peft_config=peft, train_dataset=datasets.Dataset.from_list(data),
            args=SFTConfig(
                output_dir=str(work), report_to="none", save_strategy="no", logging_strategy="no", disable_tqdm=True,
                dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, **shared,
            ),
        )  # fmt: skip
    return ours(name, model, tokenizer, peft, rows, shard, shared, work)


def ours(
    name: str, model: Any, tokenizer: Any, peft: Any, rows: list[Any], shard: Path, shared: dict[str, Any], work: Path
) -> Any:
    """`DistillTrainer` with cross-entropy alone (`ce`), or with forward KL over k ids (`kl16`)."""
    from distill.core.progress import Progress
    from students.collate import Collator
    from students.head_loss import Matching
    from students.losses import forward_kl
    from students.teacher_logits import TeacherLogits
    from students.trainer import DistillTrainer, arguments

    k = int(name.removeprefix("kl")) if name.startswith("kl") else None
    teacher = TeacherLogits([shard], tokenizer="benchmark", vocab_size=VOCAB, top_k=k) if k else None
    matching = Matching(forward_kl.build(forward_kl.Config()), 0.5, 1.0, VOCAB) if k else None
    return DistillTrainer(
        model=model, args=arguments(work, **shared), processing_class=tokenizer, peft_config=peft,
        collator=Collator(rows, teacher), matching=matching, work=work, plan="benchmark",
        progress=Progress("train", 1, "steps"), checkpoint_every_s=1e9, logging_every=1,
    )  # fmt: skip


def watch(trainer: Any, took: list[float]) -> None:
    """Append each step's CPU seconds to `took`."""
    from transformers import TrainerCallback

    class Clock(TrainerCallback):
        began_s = 0.0

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began_s = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            took.append(time.process_time() - self.began_s)

    trainer.add_callback(Clock())


def floor(trainer: Any, weights: str, precision: str, masked: float) -> float:
    """CPU seconds of the step's unavoidable matrix products: y = xW, dx = dyW and, where W is trained, dW = dy'x."""
    import torch

    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    core = trainer.model.get_base_model() if weights == "lora" else trainer.model
    trained = SEQUENCES * (TOKENS - max(1, int(masked * TOKENS)))
    total = 0.0
    for name, module in core.named_modules():
        if type(module) is torch.nn.Linear and "lora" not in name:
            n = trained if module is core.get_output_embeddings() else SEQUENCES * TOKENS
            w = module.weight.detach().to(dtype)
            x, dy = torch.randn(n, w.shape[1], dtype=dtype), torch.randn(n, w.shape[0], dtype=dtype)
            began_s = time.process_time()
            torch.mm(x, w.t())
            torch.mm(dy, w)
            if weights == "full":
                torch.mm(dy.t(), x)
            total += time.process_time() - began_s
    return total


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def _reset_peak() -> None:
    """Make the high-water mark start at the present level."""
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    """Run the arms, each in a fresh process, and print one table a precision and kind of weights."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precision", choices=("fp32", "bf16"), nargs="*", default=["fp32", "bf16"])
    parser.add_argument("--weights", choices=("lora", "full"), nargs="*", default=["lora", "full"])
    parser.add_argument("--arms", choices=ARMS, nargs="*", default=list(ARMS))
    parser.add_argument("--masked", type=float, default=0.0, help="share of each sequence that is not trained")
    parser.add_argument("--steps", type=int, default=2, help="measured steps; the fastest counts")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing in every arm")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        given = json.loads(args.one)
        print("RESULT " + json.dumps(arm(**given)))
        return
    print("arm    cpu s  of TRL  of products  peak MiB  of TRL  weights MiB  load")
    for precision in args.precision:
        for weights in args.weights:
            print(f"{precision} {weights}, {args.masked:.0%} masked, {SEQUENCES} x {TOKENS} tokens")
            peer: dict[str, Any] | None = None
            for name in args.arms:
                got = _alone(
                    name=name, precision=precision, weights=weights, masked=args.masked, steps=args.steps,
                    checkpointing=args.checkpointing,
                )  # fmt: skip
                peer = got if name == "trl" else peer
                beside = [got[what] / peer[what] if peer else float("nan") for what in ("cpu_s", "peak_mib")]
                print(
                    f"{name:5} {got['cpu_s']:6.2f}  {beside[0]:6.2f}  {got['cpu_s'] / got['floor_s']:11.2f}  "
                    f"{got['peak_mib']:8.0f}  {beside[1]:6.2f}  {got['weights_mib']:11.0f}  {got['load']:4.1f}",
                    flush=True,
                )


def _alone(**given: Any) -> dict[str, Any]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benchmarks.train_step", "--one", json.dumps(given)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"{given}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
    return result


if __name__ == "__main__":
    main()
