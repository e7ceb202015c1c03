"""What storing and accounting cost beside a bare loop, how soon a finished sampling is done, and whether memory grows.

    python -m benchmarks.served                  # rate and CPU a sample, at delays of 0.5 to 2 s and 256 at once
    python -m benchmarks.served --resume         # 100,000 rows in the ledger, nothing to do
    python -m benchmarks.served --memory         # peak memory at 2,000 to 100,000 samples

The server is tests/served/fault_server.py with no faults, in a process of its own. `bare` is a loop over the same
HTTP library that parses each reply and drops it (`lean`: the same over aiohttp, to show what the library costs);
`sample` is the whole command `distill sample`, from its start to its Parquet file. Each runs in a process of its own,
in turn. The rate is what the server saw, from the first call to the last answer; `wall` is the whole process. CPU a
sample is what a run takes more than one of a single sample, over the number of samples more, so that the start of the
interpreter is not counted to either.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.served.process import FaultServer
from tests.served.runs import Run

ANSWER_CHARS = 8000
CONCURRENCY = 256
RATE_LIMIT, CPU_LIMIT, RESUME_LIMIT_S, GROWTH_LIMIT = 0.90, 2.0, 3.0, 1.25
SAMPLES_A_QUESTION = 4
WAYS = ("bare", "lean", "sample")


@dataclass(frozen=True)
class Took:
    """What one process took."""

    wall_s: float
    cpu_s: float
    peak_mib: float
    output: str


def measured(command: list[str], folder: Path) -> Took:
    """Run to the end. CPU and peak memory are the system's own account of the process."""
    began_s = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, cwd=folder, env=Run.environment(), stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{text}")
    return Took(time.perf_counter() - began_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, text)


async def bare(url: str, samples: int) -> None:
    """Ask for as many answers, `CONCURRENCY` at once; parse each and drop it."""
    import httpx2

    waiting = iter(range(samples))

    async def worker(client: httpx2.AsyncClient) -> None:
        for number in waiting:
            asked = {
                "model": "acme/teacher-7b", "messages": [{"role": "user", "content": f"What is {number} + 2?"}],
                "max_tokens": 32768, "temperature": 0.6, "top_p": 0.95, "seed": number,
            }  # fmt: skip
            reply = await client.post(f"{url}/chat/completions", json=asked)
            _ = reply.json()["choices"][0]["message"]["content"]

    limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx2.AsyncClient(limits=limits, timeout=None, trust_env=False) as client:
        await asyncio.gather(*(worker(client) for _ in range(CONCURRENCY)))


async def lean(url: str, samples: int) -> None:
    """The same through aiohttp, to show what the library costs."""
    import aiohttp

    waiting = iter(range(samples))

    async def worker(session: aiohttp.ClientSession) -> None:
        for number in waiting:
            asked = {
                "model": "acme/teacher-7b", "messages": [{"role": "user", "content": f"What is {number} + 2?"}],
                "max_tokens": 32768, "temperature": 0.6, "top_p": 0.95, "seed": number,
            }  # fmt: skip
            async with session.post(f"{url}/chat/completions", json=asked) as reply:
                _ = json.loads(await reply.read())["choices"][0]["message"]["content"]

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(worker(session) for _ in range(CONCURRENCY)))


def run_of(folder: Path, url: str, samples: int) -> Run:
    """A sampling of so many answers, ready to start."""
    n = samples if samples < SAMPLES_A_QUESTION else SAMPLES_A_QUESTION
    return Run(
        folder, url, questions=samples // n, n=n, engine={"concurrency": CONCURRENCY}, sample={"max_tokens": 32768}
    ).prepare()


class Bench:
    """A server and a folder to work in."""

    def __init__(self, server: FaultServer, folder: Path) -> None:
        self.server, self.folder = server, folder
        self._names = 0

    def endpoint(self, **plan: Any) -> tuple[str, str]:
        """Name and URL of a new endpoint."""
        self._names += 1
        name = f"bench{self._names}"
        return name, self.server.plan(name, log=False, **plan)

    def once(self, what: str, samples: int, **plan: Any) -> dict[str, float]:
        """One run of one of `WAYS`: the rate the server saw, CPU of both sides, wall time and peak memory."""
        name, url = self.endpoint(**plan)
        if what != "sample":
            command = [sys.executable, "-m", "benchmarks.served", f"--{what}", url, "--samples", str(samples)]
            folder = self.folder
        else:
            run = run_of(self.folder / name, url, samples)
            command, folder = run.command(), run.folder
        before = self.server.stats(name)["cpu_s"]
        took = measured(command, folder)
        stats = self.server.stats(name)
        assert stats["delivered"] == stats["good"] == samples, stats
        shutil.rmtree(self.folder / name, ignore_errors=True)
        rate = samples / stats["seconds"] if stats["seconds"] else 0.0
        server_cpu_s = stats["cpu_s"] - before
        return {"rate": rate, "server_cpu_ms": server_cpu_s / samples * 1e3, **_numbers(took)}


def _numbers(took: Took) -> dict[str, float]:
    return {name: value for name, value in asdict(took).items() if name != "output"}


def rates(bench: Bench, samples: int, repeats: int) -> dict[str, Any]:
    """Bare loop and `distill sample` in turn: medians, and their ratios."""
    plan = {"thought_chars": ANSWER_CHARS, "delay_s": (0.5, 2.0)}
    starts = {what: bench.once(what, 1)["cpu_s"] for what in WAYS}
    found: dict[str, list[dict[str, float]]] = {what: [] for what in WAYS}
    for _ in range(repeats):
        for what, figures in found.items():
            one = bench.once(what, samples, **plan)
            figures.append(one | {"cpu_ms": (one["cpu_s"] - starts[what]) / (samples - 1) * 1e3})
    shown = ("rate", "wall_s", "cpu_ms", "cpu_s", "peak_mib", "server_cpu_ms")
    medians = {
        what: {name: statistics.median(one[name] for one in figures) for name in shown}
        for what, figures in found.items()
    }
    print(f"{samples:,} samples, {CONCURRENCY} at once, {ANSWER_CHARS:,} characters, delays of 0.5 to 2 s, "
          f"medians of {repeats}; load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print(
        "| | answers/s | wall s | CPU ms a sample | CPU s in all | CPU s to start | peak MiB | CPU ms of the server |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for what, m in medians.items():
        print(f"| {what} | {m['rate']:.1f} | {m['wall_s']:.1f} | {m['cpu_ms']:.2f} | {m['cpu_s']:.2f} "
              f"| {starts[what]:.2f} | {m['peak_mib']:.0f} | {m['server_cpu_ms']:.2f} |")  # fmt: skip
    rate = statistics.median(
        ours["rate"] / loop["rate"] for loop, ours in zip(found["bare"], found["sample"], strict=True)
    )
    cpu = statistics.median(
        ours["cpu_ms"] / loop["cpu_ms"] for loop, ours in zip(found["bare"], found["sample"], strict=True)
    )
    wall = medians["sample"]["wall_s"] / medians["bare"]["wall_s"]
    print(f"rate {rate:.3f} of the bare loop's (at least {RATE_LIMIT}), CPU a sample {cpu:.2f} times its (at most "
          f"{CPU_LIMIT}); wall time of the whole command {wall:.2f} times")  # fmt: skip
    return {"found": found, "rate": rate, "cpu": cpu, "missed": rate < RATE_LIMIT or cpu > CPU_LIMIT}


def instant(folder: Path, questions: int, n: int, chars: int) -> Run:
    """A sampling from an engine that answers at once: 100,000 answers take a minute, not ten."""
    engine = {"engine": "benchmarks.instant", "chars": chars}
    return Run(folder, "", questions=questions, n=n, teacher={"engine": engine}).prepare()


def resume(bench: Bench, samples: int) -> dict[str, Any]:
    """Fill a ledger, then ask again: with the stage done, with only the ledger there, and the ledger alone."""
    run = instant(bench.folder / "resume", samples // SAMPLES_A_QUESTION, SAMPLES_A_QUESTION, 400)
    took = {"everything is bought, at once": measured(run.command(), run.folder)}
    took["the stage is done"] = done = measured(run.command(), run.folder)
    ledger = measured([sys.executable, "-m", "benchmarks.served", "--fill", str(run.folder)], run.folder)
    (run.out / "manifest.json").unlink()
    took["its Parquet file is written anew"] = measured(run.command(), run.folder)
    seconds = float(ledger.output.split()[-1])
    print(f"| {samples:,} rows in the ledger | wall s | CPU s | peak MiB |")
    print("| --- | --- | --- | --- |")
    for what, one in took.items():
        print(f"| `distill sample`: {what} | {one.wall_s:.2f} | {one.cpu_s:.2f} | {one.peak_mib:.0f} |")
    what = f"nothing to buy: `rollout.fill` alone (its process: {ledger.wall_s:.2f} s)"
    print(f"| {what} | {seconds:.2f} | {ledger.cpu_s:.2f} | {ledger.peak_mib:.0f} |")
    missed = max(seconds, done.wall_s) > RESUME_LIMIT_S
    return {**{what: _numbers(one) for what, one in took.items()}, "fill_s": seconds, "missed": missed}


def fill(folder: Path) -> None:
    """Ask the ledger of a finished run for everything once more, and print the seconds."""
    from distill import experiment as experiments
    from distill import pipeline, rollout
    from distill.core import tables
    from distill.core.records import Problem
    from distill.core.stage import Workspace

    arm = experiments.load(folder / "served.yaml", pipeline.SECTIONS).arms[0]
    (table,) = (folder / "runs" / "served").glob("problems-*/problems.parquet")
    problems = [problem for problem in tables.read(table, Problem) if problem.split == "train"]
    config: Any = arm.sections["sample"]
    manner = config.manner(arm.sections["teacher"])
    asks = [rollout.Ask(problem, range(SAMPLES_A_QUESTION)) for problem in problems]
    began_s = time.perf_counter()
    filled = rollout.fill(asks, manner.sampling, manner.teacher, Workspace(folder / "runs"), label="sample")
    seconds = time.perf_counter() - began_s
    assert filled.had == filled.wanted == len(problems) * SAMPLES_A_QUESTION, filled
    print(seconds)


def memory(bench: Bench, most: int) -> dict[str, Any]:
    """Peak memory of the whole command: over HTTP, and, at once, more samples a problem and more problems."""
    print("| samples | peak MiB | CPU ms a sample |")
    print("| --- | --- | --- |")
    peaks: list[tuple[float, float]] = []
    http = [bench.once("sample", size, thought_chars=2000, delay_s=(0.0, 0.02)) for size in (most // 10, most)]
    for size, one in zip((most // 10, most), http, strict=True):
        print(f"| {size:,} over HTTP, 4 a problem | {one['peak_mib']:.0f} | {one['cpu_s'] / size * 1e3:.2f} |")
    peaks.append((http[0]["peak_mib"], http[1]["peak_mib"]))
    for shapes in (((500, 4), (500, 200)), ((500, 4), (25_000, 4))):
        took = []
        for questions, n in shapes:
            run = instant(bench.folder / "memory", questions, n, 2000)
            one = measured(run.command(), run.folder)
            took.append(one.peak_mib)
            size = questions * n
            print(
                f"| {size:,} at once, {n} a problem | {one.peak_mib:.0f} | {one.cpu_s / size * 1e3:.2f} |", flush=True
            )
            shutil.rmtree(run.folder)
        peaks.append((took[0], took[1]))
    growth = max(many / few for few, many in peaks[:2])
    each_kib = (peaks[2][1] - peaks[1][1]) * 1024 / 24_500
    print(f"with the samples it grows {growth:.2f} times (at most {GROWTH_LIMIT}); {each_kib:.1f} KiB more a problem")
    return {"peaks": peaks, "missed": growth > GROWTH_LIMIT}


def main() -> int:
    """Run one of the benchmarks and print its table; 3 where a bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--samples", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    parser.add_argument("--bare", metavar="URL", help="be the bare loop")
    parser.add_argument("--lean", metavar="URL", help="be the bare loop over aiohttp")
    parser.add_argument("--fill", type=Path, metavar="FOLDER", help="ask the ledger of a finished run")
    arguments = parser.parse_args()
    if arguments.bare:
        asyncio.run(bare(arguments.bare, arguments.samples))
        return 0
    if arguments.lean:
        asyncio.run(lean(arguments.lean, arguments.samples))
        return 0
    if arguments.fill:
        fill(arguments.fill)
        return 0
    server = FaultServer.start()
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(server, Path(folder))
            if arguments.resume:
                figures = resume(bench, arguments.samples or 100_000)
            elif arguments.memory:
                figures = memory(bench, arguments.samples or 20_000)
            else:
                figures = rates(bench, arguments.samples or 5_120, arguments.repeats)
    finally:
        server.close()
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 3 if figures["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
