"""A run folder with all that a card says, made of a few problems and fixed figures; tests change what they look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core import files, rundir, tables
from distill.core.config import digest
from distill.core.records import Decision, Message, Problem, Sample, Split, Trace, Verdict, VerdictValue, problem_id
from distill.evaluate import results, scores
from distill.evaluate.scores import Score
from distill.publish.settings import Config
from distill.stages.filter import trace_of

SAMPLING = {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "seed": 0, "thinking": None, "max_tokens": 512}
FAMILY = {
    "name": "deepseek-r1", "title": "DeepSeek-R1", "licence": "MIT", "distillation": "allowed", "note": "",
    "terms": "The licence allows distillation.",
    "notice": "DeepSeek-R1: licence MIT. The licence allows distillation. (https://github.com/deepseek-ai/DeepSeek-R1, "
    "read 2026-11-20)",
}  # fmt: skip
CONFIG = Config(repo="you/small-r1", dataset_repo="you/small-r1-traces", licence="apache-2.0")
FOLDERS = ("problems", "sample", "verify", "filter", "train", "evaluate", "export")


def problem(text: str, gold: str, split: Split = "train", **more: Any) -> Problem:
    """A problem of one turn."""
    messages = (Message("user", text),)
    known: dict[str, Any] = {"domain": "sums", "source": "openai/gsm8k", "licence": "MIT"}
    return Problem(problem_id(messages), messages, gold, split, **{**known, **more})


def sample(of: Problem, answer: str, index: int = 0, **more: Any) -> Sample:
    """An answer of the teacher."""
    key = digest([of.id, index, answer])
    known: dict[str, Any] = {
        "engine": "openai", "max_tokens": 512, "finish_reason": "stop", "reasoning": f"Let me add. It is {answer}.",
        "answer": f"\\boxed{{{answer}}}", "closed": True, "latency_s": 1.5, "cost": 0.25, "reasoning_tokens": 7,
        "prompt_ids": (1, 2), "completion_ids": (3, 4), "settings": {"url": "http://10.0.0.7:8000/v1"},
    }  # fmt: skip
    return Sample(key, of.id, index, "deepseek-r1-id", "deepseek-ai/DeepSeek-R1", **{**known, **more})


def verdict(of: Sample, value: VerdictValue = "correct", **more: Any) -> Verdict:
    """What the math verifier said of it."""
    known: dict[str, Any] = {"reason": "same number", "extracted": "4", "verifier": "math", "verifier_version": 2}
    return Verdict(digest(["verdict", of.key]), of.key, value, **{**known, **more})


@dataclass
class CardRun:
    """What goes into the run; `write` makes the folder. Everything may be changed before."""

    problems: list[Problem] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    lines: list[Score] = field(default_factory=list)
    evaluated: list[Problem] = field(default_factory=list)
    """Problems of other tasks, beside scores.parquet."""
    results: dict[str, Any] | None = None
    proof: list[dict[str, Any]] = field(default_factory=list)
    counts: dict[str, dict[str, Any]] = field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    missed: dict[str, str] = field(default_factory=dict)
    stages: Sequence[str] = FOLDERS
    training: dict[str, Any] = field(default_factory=dict)
    name: str = "small-r1"
    arm: str = "main"

    def traces(self) -> list[Trace]:
        """The answers that were kept."""
        by_id, graded = {one.id: one for one in self.problems}, {one.sample_key: one for one in self.verdicts}
        kept = {one.sample_key for one in self.decisions if one.kept}
        return [trace_of(by_id[one.problem_id], one, graded.get(one.key)) for one in self.samples if one.key in kept]

    def write(self, run: Path) -> Path:
        """The run folder."""
        index: dict[str, Any] = {}
        for stage in self.stages:
            key = digest(["card run", stage])
            folder = run / rundir.folder_name(stage, key)
            rundir.begin(folder)
            getattr(self, f"_{stage}")(folder)
            rundir.finish(folder, self._about(stage, key))
            index[stage] = {"key": key, "folder": folder.name, "seconds": 10.0}
        asked = {stage: {"formats": [1]} if stage == "export" else {"set": True} for stage in FOLDERS}
        files.write_json(run / "experiment.json", {"name": self.name, "seeds": [0], "arms": {self.arm: asked}})
        files.write_json(
            run / rundir.INDEX, {"name": self.name, "experiment": "x.yaml", "arms": {self.arm: {"0": index}}}
        )
        return run

    def _about(self, stage: str, key: str) -> dict[str, Any]:
        packages = {"reasoning-distill": "0.1.0", "torch": "2.13.0", "vllm": "not installed"}
        return {
            "key": key, "made_of": {"stage": stage, "version": 1}, "inputs": {}, "summary": f"{stage} is done",
            "settings": self.settings.get(stage, {}), "seed": None, "rows": [], "counts": self.counts.get(stage, {}),
            "missed": self.missed.get(stage), "environment": {"python": "3.11.7", "packages": packages},
            "started": "2026-11-20T11:00:00+00:00", "seconds": 7200.0 if stage == "train" else 10.0,
        }  # fmt: skip

    def _problems(self, out: Path) -> None:
        tables.write(out / "problems.parquet", self.problems, Problem)

    def _sample(self, out: Path) -> None:
        tables.write(out / "samples.parquet", self.samples, Sample)

    _import = _sample

    def _verify(self, out: Path) -> None:
        tables.write(out / "verdicts.parquet", self.verdicts, Verdict)

    def _filter(self, out: Path) -> None:
        tables.write(out / "decisions.parquet", self.decisions, Decision)
        tables.write(out / "traces.parquet", self.traces(), Trace)

    def _train(self, out: Path) -> None:
        (out / "student").mkdir()
        files.write_json(out / "student" / "config.json", {"max_position_embeddings": 4096})
        files.write_json(out / "report.json", self.training)
        files.write_json(out / "contract.json", {"thinking_opens": {"in the prompt": 2}})

    def _evaluate(self, out: Path) -> None:
        scores.write(out, self.lines)
        if self.evaluated:
            tables.write(out / "problems.parquet", self.evaluated, Problem)
        files.write_json(out / "results.json", self.results)

    def _export(self, out: Path) -> None:
        for entry in self.proof:
            path = out / entry["file"]
            if path.suffix == ".gguf":
                path.parent.mkdir(parents=True)
                path.write_bytes(b"GGUF")
                (path.parent / "Modelfile").write_text(f"FROM ./{path.name}\n", encoding="utf-8")
            else:
                path.mkdir(parents=True)
                (path / "model.safetensors").write_bytes(b"weights")
        files.write_json(out / "proof.json", {"files": self.proof, "problems": 4})


def card_run() -> CardRun:
    """The plain case: nothing stands against publishing it."""
    train = [problem(f"What is {n} plus {n}?", str(2 * n)) for n in (2, 3, 4)]
    test = [
        problem(f"Ann has {n} apples, Bob {n + 5}. How many do both have?", str(2 * n + 5), "test") for n in range(8)
    ]
    samples = [sample(of, of.gold or "") for of in train] + [sample(train[0], "5", 1)]
    verdicts = [*(verdict(of) for of in samples[:3]), verdict(samples[3], "wrong", reason="another number")]
    decisions = [Decision(of.key, True) for of in samples[:3]]
    decisions.append(Decision(samples[3].key, False, "verdict", "wrong: another number"))
    made = CardRun([*train, *test], samples, verdicts, decisions)
    add_task(made, "problems", test, {"base": 1, "student": 6, "teacher": 7})
    made.proof = [
        proof("safetensors", "safetensors/student", 1_200_000_000, 16.0),
        proof("gguf-q8_0", "gguf-q8_0/student-q8_0.gguf", 640_000_000, 8.5, kl=2.1e-4, top_1=0.991, right=(6, 6)),
        proof("gguf-q4_k_m", "gguf-q4_k_m/student-q4_k_m.gguf", 400_000_000, 5.3, kl=1.3e-2, top_1=0.942, right=(6, 6)),
    ]
    made.training = {
        "target": "trace", "rows": 3, "epochs": 2, "steps": 6, "trained_tokens": 42, "ce_first": 1.5, "ce_last": 0.25,
        "kd_first": 0.75, "kd_last": 0.125, "seed": 0, "device": "cuda", "dtype": "bfloat16",
    }  # fmt: skip
    student = {"model": "Qwen/Qwen3-0.6B-Base", "revision": None, "adapter": None}
    teacher = {"model": "deepseek-ai/DeepSeek-R1", "revision": None, "engine": {"engine": "openai"}}
    steps = [
        {"filter": "", "rejected": 0, "reasons": {}, "kept": 4, "problems": 3},
        {"filter": "verdict", "rejected": 1, "reasons": {"wrong: another number": 1}, "kept": 3, "problems": 3},
    ]
    loss = {"name": "forward_kl", "weight": 0.5, "top_k": 16, "loss_temperature": 1.0}
    made.settings = {
        "sample": {"sample": {}, "teacher": teacher},
        "verify": {"verify": {"verifier": {"verifier": "math"}}},
        "filter": {"filter": {"filters": [{"filter": "verdict"}]}},
        "train": {"train": {"epochs": 2, "learning_rate": 1e-4, "batch_size": 64, "loss": loss}, "student": student},
        "export": {"export": {}, "student": student},
    }
    made.counts = {
        "sample": {
            "samples": 4, "problems": 3, "tokens": 44, "spent_tokens": 66, "spent_cost": 1.25, "family": FAMILY,
            "asked_as": {"None": {**SAMPLING, "system": None, "instruction": "Think first."}},
        },
        "filter": {"seen": 4, "kept": 3, "steps": steps},
        "export": {"base_licence": "apache-2.0"},
    }  # fmt: skip
    return made


def add_task(made: CardRun, name: str, problems: Sequence[Problem], right: Mapping[str, int], **more: Any) -> None:
    """Measure a task: of each model so many of its first answers are right."""
    lines = [
        Score(
            model, of.id, 0, digest([name, model, of.id]), "correct" if place < n else "wrong",
            "correct" if place < n else "wrong", "stop", 10 + place, 20 + place, "1", of.domain, name,
            group=0 if place < n else 1,
        )
        for model, n in right.items() for place, of in enumerate(problems)
    ]  # fmt: skip
    about = {
        model: {"name": model, "model": model, "identity": digest(model)[:32], "thinking": None} for model in right
    }
    task = {
        "name": name, "problems": len(problems), "samples": 1, "sampling": SAMPLING, "licence": "MIT",
        "verifier": {"verifier": "math"}, **results.of_task(lines, about), **more,
    }  # fmt: skip
    made.lines += lines
    made.results = made.results or {"split": "test", "tasks": [], "guard": None}
    made.results["tasks"].append(task)


def proof(
    name: str, file: str, n_bytes: int, bits: float, *, kl: float | None = None, top_1: float | None = None,
    right: tuple[int, int] | None = None, tiers: Sequence[int] = (1, 2), missed: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """An entry of proof.json; `right` are the greedy answers of the file and of the student, of 8."""
    checks = [{"name": f"check {tier}", "tier": tier, "missed": None, "figures": {}, "notes": []} for tier in tiers]
    entry: dict[str, Any] = {
        "name": name, "file": file, "bytes": n_bytes, "bits_per_weight": bits, "run": f"distill chat {file}",
        "types": {}, "fallback": 0, "tiers": list(tiers), "missed": list(missed), "checks": checks, "notes": [],
    }  # fmt: skip
    if kl is not None:
        entry |= {"kl": kl, "top_1": top_1, "tiers": [*tiers, 3]}
    if right is not None:
        rates = [{"k": k, "n": 8, "value": k / 8, "low": max(0.0, k / 8 - 0.3), "high": 1.0, "items": 8} for k in right]
        entry |= {"rate": rates[0], "student_rate": rates[1]}
    return entry


def names_of(release: Any) -> dict[str, Path]:
    """The files of one repository that has all of a release's exports, as the layout of a release names them."""
    found = {}
    for file in release.files:
        local = release.folders["export"] / file.path
        if file.what == "gguf":
            found |= {local.name: local, f"Modelfile.{file.name[5:]}": local.with_name("Modelfile")}
        else:
            found |= {path.name: path for path in local.iterdir()}
    return found
