"""What the head and its loss cost: cross-entropy and every way of matching, beside the bare matrix products.

    python -m benchmarks.head_loss                                  # the table of docs/losses.md, about half an hour
    python -m benchmarks.head_loss --quick                          # a small vocabulary, a minute
    python -m benchmarks.head_loss --dtype bf16 --head frozen --only ce forward_kl-64 trl
    python -m benchmarks.head_loss --lengths 4096 16384             # does the peak grow with the tokens?

A linear head of 151,936 x 1,024 random weights and 2,048 trained tokens, one thread. Every arm is a process of its own
and measures, in turn, the products that cannot be avoided (two for a frozen head, three for one that trains; chunks of
256 rows, nothing else) and itself, value and gradients; the fastest of each counts. Printed: CPU seconds, their ratio
to the products, wall seconds, the load of the machine, and the peak of resident memory above the level with all inputs
loaded, so that gradients count and weights do not.

Arms: `ce`; `DIVERGENCE-k` matches k teacher ids and a tail; `sampled-s` draws; `rows-...` is the same in chunks of
whole rows where a frozen head would go in tiles of the vocabulary; `softened-k` is forward KL at T = 2; `full` a live
teacher of the same width over the whole vocabulary. `trl` is the loss of TRL's SFT trainer (`ChunkedLogProbFunction`,
with the entropy and the top-1 that it logs); `naive-ce` and `naive-kl` are torch's own functions over all logits, with
the teacher's given.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ARMS = (
    "ce", "forward_kl-16", "forward_kl-64", "reverse_kl-64", "jsd-64", "sampled-12", "sampled-50", "softened-16",
    "rows-ce", "rows-forward_kl-64", "full", "trl", "naive-ce", "naive-kl",
)  # fmt: skip
FULL_SIZE = {"vocab": 151_936, "hidden": 1024, "tokens": 2048}
QUICK_SIZE = {"vocab": 16_384, "hidden": 256, "tokens": 512}
CHUNK = 256
SLICE = 2048


class Inputs:
    """The head, hidden states, labels and teacher of one arm."""

    def __init__(self, size: dict[str, int], dtype: str, trained: bool) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
        vocab, hidden, tokens = size["vocab"], size["hidden"], size["tokens"]
        self.head = nn.Linear(hidden, vocab, bias=False, dtype=self.dtype).requires_grad_(trained)
        with torch.no_grad():
            self.head.weight.normal_(std=hidden**-0.5)
        self.hidden_RH = (2 * torch.randn(tokens, hidden)).to(self.dtype).requires_grad_()
        self.labels_R = torch.randint(0, vocab, (tokens,))
        self.present_R = torch.ones(tokens, dtype=torch.bool)

    def inputs(self) -> list[Any]:
        """What gradients are asked for."""
        return [self.hidden_RH, *(parameter for parameter in self.head.parameters() if parameter.requires_grad)]


def floor(given: Inputs) -> Callable[[], None]:
    """The bare products of a gradient taken in the forward: logits, hidden gradient, and the weight's if it trains."""
    import torch

    weight_VH, hidden_RH = given.head.weight.detach(), given.hidden_RH.detach()
    tile_NV = torch.empty(CHUNK, len(weight_VH), dtype=given.dtype)
    grad_RH = torch.empty_like(hidden_RH)
    total_VH = torch.zeros_like(weight_VH) if given.head.weight.requires_grad else None
    part_UH = torch.empty(SLICE, weight_VH.shape[1], dtype=given.dtype)

    def run() -> None:
        for start in range(0, len(hidden_RH), CHUNK):
            x_NH = hidden_RH[start : start + CHUNK]
            z_NV = torch.mm(x_NH, weight_VH.t(), out=tile_NV[: len(x_NH)])
            torch.mm(z_NV, weight_VH, out=grad_RH[start : start + CHUNK])
            if total_VH is None:
                continue
            if given.dtype == torch.float32:
                total_VH.addmm_(z_NV.t(), x_NH)
            else:
                for at in range(0, len(weight_VH), SLICE):
                    piece_NU = z_NV[:, at : at + SLICE]
                    torch.mm(piece_NU.t(), x_NH, out=part_UH[: piece_NU.shape[1]])

    return run


def arm(name: str, given: Inputs) -> Callable[[], Any]:
    """One pass of an arm: the loss and its gradients."""
    import torch
    from torch.nn import functional

    if name == "trl":
        from trl.kernels import ChunkedLogProbFunction

        fields = ("log_probs", "entropy", "is_top1")  # as SFTTrainer asks for them

        def trl() -> Any:
            out = ChunkedLogProbFunction.apply(
                given.hidden_RH, given.head.weight, None, given.labels_R, 1.0, 32_768, None, 1.0, fields
            )
            return torch.autograd.grad(-out[0].sum(), given.inputs())

        return trl
    if name.startswith("naive"):
        teacher_RV = None
        if name == "naive-kl":
            teacher_RV = torch.randn(len(given.labels_R), len(given.head.weight), dtype=given.dtype)

        def naive() -> Any:
            logits_RV = given.head(given.hidden_RH)
            loss = functional.cross_entropy(logits_RV.float(), given.labels_R, reduction="sum")
            if teacher_RV is not None:
                student_RV, p_RV = logits_RV.float().log_softmax(1), teacher_RV.float().log_softmax(1)
                loss = 0.5 * loss + 0.5 * functional.kl_div(student_RV, p_RV, reduction="sum", log_target=True)
            return torch.autograd.grad(loss, given.inputs())

        return naive
    from students.head_loss import head_loss

    about = matched(name.removeprefix("rows-"), given)
    about["sweep"] = not name.startswith("rows-")

    def ours() -> Any:
        loss = head_loss(given.hidden_RH, given.labels_R, given.head, **about).loss
        return torch.autograd.grad(loss, given.inputs())

    return ours


def matched(name: str, given: Inputs) -> dict[str, Any]:
    """Teacher rows and matching of one of our own arms; nothing for cross-entropy alone."""
    import torch
    from torch import nn

    from distill.core import plugins
    from students.head_loss import LiveRows, Matching, SampledRows, TeacherRows

    if name == "ce":
        return {}
    kind, _, number = name.partition("-")
    tokens, vocab = len(given.labels_R), len(given.head.weight)
    module = plugins.load("students.losses", "forward_kl" if kind in ("sampled", "softened", "full") else kind)
    temperature = 2.0 if kind == "softened" else 1.0
    matching = Matching(module.build(module.Config()), 0.5, temperature, vocab)
    if kind == "full":
        head = nn.Linear(given.hidden_RH.shape[1], vocab, bias=False, dtype=given.dtype).requires_grad_(False)
        return {"teacher": LiveRows(given.hidden_RH.detach(), head, None, given.present_R), "matching": matching}
    count = int(number)
    ids_RK = torch.randint(0, vocab - count, (tokens, count)).sort(1).values + torch.arange(count)  # distinct
    if kind == "sampled":
        weights_RK = torch.full((tokens, count), 1 / count)
        return {"teacher": SampledRows(ids_RK, weights_RK, torch.zeros(tokens), given.present_R), "matching": matching}
    logprobs_RB = torch.randn(tokens, count + 1).log_softmax(1)
    rows = TeacherRows(ids_RK, logprobs_RB[:, :-1].contiguous(), logprobs_RB[:, -1].contiguous(), given.present_R)
    return {"teacher": rows, "matching": matching}


def measure(name: str, size: dict[str, int], dtype: str, trained: bool, repeats: int) -> dict[str, Any]:
    """One arm, here: its peak in its first full pass, then products and arm in turn."""
    import torch

    torch.set_num_threads(1)
    given = Inputs(size, dtype, trained)
    short = Inputs({**size, "tokens": 32}, dtype, trained)
    arm(name, short)()  # loads what is loaded once
    del short
    run, products = arm(name, given), floor(given)
    gc.collect()
    before_mib = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    spent = [clock(run)]
    peak_mib = resident("VmHWM") - before_mib
    bare = [clock(products)]
    for _ in range(repeats - 1):
        spent.append(clock(run))
        bare.append(clock(products))
    cpu_s, wall_s = min(spent)
    return {
        "arm": name, "dtype": dtype, "head": "trained" if trained else "frozen", **size,
        "cpu_s": round(cpu_s, 2), "wall_s": round(wall_s, 2), "products_s": round(min(bare)[0], 2),
        "ratio": round(cpu_s / min(bare)[0], 3), "peak_mib": round(peak_mib), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def clock(run: Callable[[], Any]) -> tuple[float, float]:
    """CPU seconds and wall seconds of one pass; its result is dropped."""
    gc.collect()
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    run()
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


def resident(field: str) -> float:
    """Resident memory of this process in MiB: now (`VmRSS`) or at its highest (`VmHWM`)."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    """Run the arms, one process after the other, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16,384 entries, 256 wide, 512 tokens")
    parser.add_argument("--dtype", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--head", nargs="+", choices=("frozen", "trained"), default=["frozen", "trained"])
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS), metavar="ARM")
    parser.add_argument("--lengths", nargs="+", type=int, help="trained tokens, instead of 2,048")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--here", help=argparse.SUPPRESS)  # JSON: measure this one in this process
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(measure(**json.loads(arguments.here))))
        return
    size = QUICK_SIZE if arguments.quick else FULL_SIZE
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for dtype in arguments.dtype:
        for head in arguments.head:
            for name in arguments.only:
                if name.startswith("rows-") and head == "trained":
                    continue  # a head that trains always goes in rows
                for tokens in arguments.lengths or [size["tokens"]]:
                    asked = {
                        "name": name,
                        "size": {**size, "tokens": tokens},
                        "dtype": dtype,
                        "trained": head == "trained",
                    }
                    told = json.dumps({**asked, "repeats": arguments.repeats})
                    command = [sys.executable, "-m", "benchmarks.head_loss", "--here", told]
                    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
                    got = json.loads(done.stdout.splitlines()[-1])
                    print("  ".join(f"{key} {value}" for key, value in got.items()), flush=True)


if __name__ == "__main__":
    main()
