"""Which engine samples the embedded teacher faster, and how far each is from the forward passes alone.

    python -m benchmarks.engines --problems 256 --samples 4 --threads 2

The same requests go through both engines (temperature 0.6, top_p 0.95, 16 log-probabilities recorded a token). The
limit is what a full batch of this model's bare forward steps reaches on transformers: same slots, same cache, no draws.
Each engine runs in its own process at its default settings, so that memory is its own; CPU seconds count its children
too. `--threads` is how many cores torch may use; llama.cpp takes one for a file this small.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from typing import Any

from distill.core.protocols import Request
from distill.core.records import Message, Sampling

ENGINES = ("transformers", "llamacpp")


def requests(problems: int, samples: int, top_logprobs: int) -> list[Request]:
    """What quickstart asks: several samples a problem."""
    from distill.sources import embedded

    how = Sampling(temperature=0.6, top_p=0.95, max_tokens=160, top_logprobs=top_logprobs)
    return [
        Request(f"{i}.{j}", (Message("user", item.question),), how)
        for i, item in enumerate(embedded.draw("sampling", problems, seed=0))
        for j in range(samples)
    ]


def measure(name: str, model: str, threads: int, asked: list[Request]) -> dict[str, Any]:
    """Sample once through one engine, after a warm-up of 8 requests."""
    import torch

    from distill.core.plugins import load

    torch.set_num_threads(threads)
    module = load("distill.engines", name)
    engine = module.build(module.Config(), model)
    list(engine.generate(asked[:8]))
    started_s, cpu_s = time.monotonic(), _cpu_s(engine)
    drawn = list(engine.generate(asked))
    wall_s, cpu_s = time.monotonic() - started_s, _cpu_s(engine) - cpu_s
    tokens = sum(completion.completion_tokens for completion in drawn)
    result = {
        "engine": name,
        "answers": len(drawn),
        "tokens": tokens,
        "wall_s": round(wall_s, 2),
        "cpu_s": round(cpu_s, 2),
        "tokens_per_s": round(tokens / wall_s),
        "tokens_per_cpu_s": round(tokens / cpu_s),
    }
    if name == "transformers":
        result["limit_tokens_per_cpu_s"] = round(limit(engine, tokens // len(drawn)))
    engine.close()
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return result | {"peak_mib": sum(peaks) // 1024, "load": [round(load, 1) for load in os.getloadavg()]}


def _cpu_s(engine: Any) -> float:
    """CPU seconds of this process and of the engine's server."""
    import psutil

    total = time.process_time()
    if engine.name == "llamacpp":
        times = psutil.Process(engine._serve().pid).cpu_times()
        total += times.user + times.system
    return total


def limit(engine: Any, length: int, prompt: int = 40) -> float:
    """Tokens a CPU second of bare forward steps at full slots, from `prompt` to `prompt + length` cached tokens."""
    import torch

    from distill.decoding.cache import RowCache
    from distill.engines.transformers import SLOTS

    torch.set_num_threads(1)  # as each of the engine's workers
    slots = SLOTS["cpu"]
    ids_BT = torch.randint(7, engine.vocab_size, (slots, 48))
    with torch.inference_mode():
        layers = engine.read(ids_BT)
        cache = RowCache(layers, slots, prompt + length + engine.shapes.span)
        cache.put(layers, torch.arange(slots), torch.arange(slots))
        started_s = time.process_time()
        for n in range(prompt, prompt + length):
            cache.point(torch.full((slots,), n), -(-(n + 1) // engine.shapes.span) * engine.shapes.span)
            engine.step(ids_BT[:, n % 48], cache)
        return slots * length / (time.process_time() - started_s)


def main() -> None:
    """Run both engines, one after the other, and print one table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="embedded-teacher")
    parser.add_argument("--problems", type=int, default=256)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--top-logprobs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--engine", choices=ENGINES, help="measure this one here and print JSON")
    arguments = parser.parse_args()
    if arguments.engine:
        asked = requests(arguments.problems, arguments.samples, arguments.top_logprobs)
        print(json.dumps(measure(arguments.engine, arguments.model, arguments.threads, asked)))
        return
    rows = []
    for name in ENGINES:
        command = [sys.executable, "-m", "benchmarks.engines", *sys.argv[1:], "--engine", name]
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()))
    first, second = rows
    for what in ("tokens_per_s", "tokens_per_cpu_s"):
        print(f"{what}: {first['engine']} / {second['engine']} = {first[what] / second[what]:.2f}")
    share = first["tokens_per_cpu_s"] / first["limit_tokens_per_cpu_s"]
    print(f"tokens_per_cpu_s: transformers / bare forward steps = {share:.2f}")


if __name__ == "__main__":
    main()
