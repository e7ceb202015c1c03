"""Exports a random model of true shape with its whole proof: how long each part takes, and whether it holds.

    python -m benchmarks.gpu.export --shape 7b --types q8_0 q4_k_m

NOT RUN YET on a machine with a GPU. Writing and proof run on the CPU everywhere; a machine of that kind has the memory
for tier 2 and 3 of a 7B model, which a laptop may not. The model has random bf16 weights, so tier 3's accuracy means
nothing and is not asked for: tiers 1 and 2 are.
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

from benchmarks.export import SHAPES, make_model


def main() -> None:
    """One line a type: seconds, size, bits a weight, the twin's largest difference, what was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="7b")
    parser.add_argument("--types", nargs="*", default=["q8_0", "q4_k_m"])
    parser.add_argument("--scratch", help="a folder on a disk with room for the model twice")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.scratch) as scratch:
        model = make_model(Path(scratch) / args.shape, args.shape, None)
        print(f"{args.shape}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
        for kind in args.types:
            out = Path(scratch) / f"out-{kind}"
            command = [sys.executable, "-m", "distill", "export", str(model), "--format", "gguf", "--type", kind]
            began_s = time.perf_counter()
            done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - began_s
            if done.returncode not in (0, 3):
                raise RuntimeError(f"{kind}: {done.stderr[-2000:]}")
            (entry,) = json.loads((out / "proof.json").read_text(encoding="utf-8"))["files"]
            print(
                f"{kind}: {seconds:.0f} s, {entry['bytes'] / 1e9:.2f} GB, "
                f"{entry['bits_per_weight']:.2f} bits a weight, tiers {entry['tiers']}, "
                f"largest difference {entry['max_logprob_diff']}, "
                f"missed: {'; '.join(entry['missed']) or 'nothing'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
