"""How good the student is while it trains: answers to dev problems, drawn from the model in memory and graded.

The same prompts, template form and verifier as `evaluate`; the dev split, never the test problems. Every answer has
noise of its own, made from seed, problem and number, so that looks at different steps are paired and none of torch's
random numbers is used: training ends with the same bits as without them. Records and the best weights go into
checkpoints.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, NonNegativeFloat, PositiveInt

from distill.core import files, tables
from distill.core.config import Settings, digest
from distill.core.device import Placement
from distill.core.errors import DistillError
from distill.core.plugins import Choice
from distill.core.protocols import Completion, Request
from distill.core.records import GRADED, ModelIdentity, Problem, Sample, Sampling, VerdictValue
from distill.core.stage import StageRun, Workspace
from distill.rollout.answers import as_sample
from distill.rollout.asks import Ask
from distill.stages import verify
from students.processes import FSDP2, ZERO3, Group, Ranks

if TYPE_CHECKING:
    from distill.engines.transformers import TransformersEngine
    from students.rows import StudentText, Target

BEST, RECORDS = "best.safetensors", "dev.json"


class DevSettings(Settings):
    """Settings of `train.dev:`."""

    every: PositiveInt = 50
    """Steps between two looks; there is one after the last step too."""
    problems: PositiveInt = 100
    """How many of the dev problems are asked: the first by id. The looks cost as much as their answers are long."""
    samples: PositiveInt = 1
    """Answers to each problem."""
    sample_temperature: NonNegativeFloat = 0.0
    """Temperature of the draw; 0 is greedy."""
    top_p: float = Field(default=0.95, gt=0, le=1)
    """Nucleus: the smallest set of tokens with this much probability is drawn from."""
    max_tokens: PositiveInt = 2048
    """Longest answer; a cut one counts against the student. Less where the context leaves less."""
    keep: Literal["best", "last"] = "best"
    """Which weights become the student: those with the highest accuracy (of equal ones the earliest), or the last."""
    patience: PositiveInt | None = None
    """Stop after so many looks in a row without a new best. None: train to the end."""


def refusal(config: DevSettings, sections: Mapping[str, Settings]) -> str | None:
    """What `train.dev` lacks in other sections, in one line; None if nothing."""
    if "verify" not in sections:
        return "`train.dev` grades the student's answers; add `verify:`, or set `train.dev: none`"
    if getattr(sections.get("problems"), "dev", None) == 0:
        return f"`train.dev` asks {config.problems} dev problems, but `problems.dev` is 0; raise it"
    return None


def check_whole(group: Group) -> None:
    """Raise DistillError where processes hold parts of the model: none of them can draw an answer."""
    if group.kind in (FSDP2, ZERO3):
        raise DistillError(
            f"`train.dev` draws answers from a whole model, and {group.kind} spreads it over processes; set "
            "`train.dev: none` and evaluate the student afterwards"
        )


def chosen(path: Path, config: DevSettings) -> list[Problem]:
    """The dev problems that are asked, by id: the same ones whatever the order of the file. Raises DistillError if
    there are none.
    """
    found = sorted((p for p in tables.read(path, Problem) if p.split == "dev"), key=lambda problem: problem.id)
    if not found:
        raise DistillError("`train.dev`: no problem is in the dev split; set `problems.dev`, or `train.dev: none`")
    return found[: config.problems]


@contextmanager
def looks(
    config: DevSettings | None, stage: StageRun, text: StudentText, *, target: Target, seed: int, placement: Placement,
    ranks: Ranks,
) -> Iterator[Dev | None]:  # fmt: skip
    """The looks that a train stage asks for; None where it asks for none."""
    if config is None:
        yield None
        return
    problems = chosen(stage.inputs["problems"] / "problems.parquet", config)
    verifier = cast(verify.Config, stage.sections["verify"]).verifier
    with Dev(
        config, problems, verifier, text, False if target == "answer" else None, seed, placement, stage.work,
        stage.workspace, stage.say, ranks,
    ) as dev:  # fmt: skip
        yield dev


@dataclass
class Dev:
    """Looks at the dev problems in the course of one training: a context manager.

    `thinking` is the form that the student is trained in, as in `Sampling`. `say` takes lines for the person. Every
    process draws its share of the answers; the leader grades them and keeps the weights.
    """

    config: DevSettings
    problems: Sequence[Problem]
    verifier: Choice
    text: StudentText
    thinking: bool | None
    seed: int
    placement: Placement
    work: Path
    workspace: Workspace
    say: Callable[[str], None]
    ranks: Ranks
    records: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0
    """Spent on looks by this process; no result."""
    _best_sha256: str | None = None
    _engine: TransformersEngine | None = None

    def __enter__(self) -> Dev:
        self._graders = verify.Graders(self.verifier, workspace=self.workspace).__enter__()
        return self

    def __exit__(self, *raised: Any) -> None:
        self._graders.__exit__(*raised)

    @property
    def best(self) -> dict[str, Any] | None:
        """The record of the highest accuracy; of equal ones the earliest."""
        return max(self.records, key=lambda record: (record["accuracy"], -record["step"]), default=None)

    @property
    def stopped(self) -> bool:
        """Whether patience has run out."""
        best = self.best
        if best is None or self.config.patience is None:
            return False
        later = [record for record in self.records if record["step"] > best["step"]]
        return len(later) >= self.config.patience

    @property
    def kept(self) -> int:
        """The step whose weights the student has at the end."""
        best, last = self.best, self.records[-1]
        return cast(int, (best if best is not None and self.config.keep == "best" else last)["step"])

    def look(self, trainer: Any, step: int, *, last: bool) -> bool:
        """Measure the student after `step` if it is time; whether training is to stop."""
        if step % self.config.every and not last:
            return False
        began_s = time.monotonic()
        record = {"step": step, **self.ranks.agreed(self._measured(trainer, step))}
        better = self.best is None or record["accuracy"] > self.best["accuracy"]
        self.records.append(record)
        if better and self.config.keep == "best" and self.ranks.leads:
            self._keep(trainer.model)
        self.seconds += time.monotonic() - began_s
        if trainer.args.report_to:
            trainer.log({"dev_accuracy": record["accuracy"]})
        cut = f", {record['truncated']:,} cut at the limit" if record["truncated"] else ""
        self.say(
            f"step {step}: dev {record['accuracy']:.1%}, {record['correct']:,} of {record['graded']:,} answers{cut}"
            + (", the best so far" if better and len(self.records) > 1 else "")
        )
        if self.stopped:
            self.say(f"stopped: {self.config.patience} looks in a row without a better one")
        return self.stopped

    # ---- checkpoints

    def save(self, folder: Path) -> None:
        """Put the records and the best weights so far into a checkpoint's folder."""
        files.write_json(folder / RECORDS, {"records": self.records, "best_sha256": self._best_sha256})
        if self._best_sha256 is not None:
            _link(self.work / BEST, folder / BEST)

    def restore(self, folder: Path) -> None:
        """Go on from a checkpoint's folder: what later looks had left is forgotten."""
        about = files.read_json(folder / RECORDS)
        self.records, self._best_sha256 = about["records"], about["best_sha256"]
        if self._best_sha256 is not None and self.ranks.leads:
            _link(folder / BEST, self.work / BEST)

    def finish(self, model: Any) -> None:
        """Give the model the weights that are kept. Raises DistillError if the file with them has changed."""
        if self.kept == self.records[-1]["step"]:
            return
        from safetensors.torch import load_file

        path = self.work / BEST
        if files.sha256_file(path) != self._best_sha256:
            raise DistillError(f"{path}: the weights of step {self.kept} are not as they were written; train again")
        kept = load_file(path)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.data.copy_(kept.pop(name))
        assert not kept, f"weights that the model does not have: {sorted(kept)[:3]}"

    def into(self, history: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The history with the accuracy of every look in its step's record."""
        accuracy = {record["step"]: record["accuracy"] for record in self.records}
        return [{**record, "dev_accuracy": accuracy.get(record["step"])} for record in history]

    def cost(self, seconds: float) -> str:
        """What the looks took of a training of so many seconds, in words."""
        looks = f"{len(self.records)} look{'s' if len(self.records) > 1 else ''}"
        return f"{looks} at the dev problems: {self.seconds:,.0f} s, {self.seconds / seconds:.0%} of the time"

    def outcome(self) -> str:
        """What was kept, as part of the stage's line."""
        accuracy = next(record["accuracy"] for record in self.records if record["step"] == self.kept)
        return f", dev {accuracy:.1%} at step {self.kept}"

    def results(self) -> dict[str, Any]:
        """What dev.json says: settings, records and which weights were kept."""
        return {
            "split": "dev",
            "problems": len(self.problems),
            "settings": self.config.dump(),
            "verifier": self.verifier.dump(),
            "records": self.records,
            "best": self.best["step"] if self.best is not None else None,
            "kept": self.kept,
            "stopped_early": self.stopped,
        }

    def _keep(self, model: Any) -> None:
        """Write the weights that learn, whole or not at all."""
        from safetensors.torch import save_file

        learning = {n: p.detach().cpu().contiguous() for n, p in model.named_parameters() if p.requires_grad}
        with files.atomic(self.work / BEST) as partial:
            save_file(learning, partial)
        self._best_sha256 = files.sha256_file(self.work / BEST)

    # ---- one look

    def _measured(self, trainer: Any, step: int) -> Mapping[str, Any] | None:
        """Draw and grade; None on every process but the first, which grades for all."""
        drawn = self._drawn(trainer)
        if drawn is None:
            return None
        identity = ModelIdentity(id=f"student at step {step}", name="student", tokenizer=self.text.fingerprint)
        samples = []
        for place, (key, problem, index) in enumerate(self._asked()):
            assert drawn[place].key == key
            ask = Ask(problem, range(self.config.samples))
            samples.append(as_sample(drawn[place], ask, index, self._sampling, identity, "transformers"))
        verdicts = self._graders.grade({problem.id: problem for problem in self.problems}, samples)
        return _summary(samples, [verdict.value for verdict in verdicts])

    def _drawn(self, trainer: Any) -> list[Completion] | None:
        """One completion for each that is asked, in order; every process draws its share and the first has them all."""
        rank, world = self.ranks.index, self.ranks.count
        requests = [Request(key, problem.messages, self._sampling) for key, problem, _ in self._asked()]
        with _at_rest(trainer.core), trainer.accelerator.autocast():
            drawn = list(self._engine_of(trainer).generate(requests[rank::world]))
        by_key = {completion.key: completion for completion in self.ranks.gathered(drawn)}
        return [by_key[request.key] for request in requests] if rank == 0 else None

    def _asked(self) -> Iterator[tuple[str, Problem, int]]:
        for problem in self.problems:
            for index in range(self.config.samples):
                yield digest(["dev", self.seed, problem.id, index]), problem, index

    @cached_property
    def _sampling(self) -> Sampling:
        """How an answer is drawn: as long as set, or as the context leaves room for behind the longest prompt."""
        from distill.text.chat import render_prompt

        config, tokens, context = self.config, self.config.max_tokens, self.text.context
        if context is not None:
            prompts = (render_prompt(self.text.tokenizer, problem.messages, self.thinking) for problem in self.problems)
            tokens = min(tokens, context - max(len(prompt.ids) for prompt in prompts))
            if tokens < 1:
                raise DistillError(f"`train.dev`: a dev problem fills the student's context of {context} tokens")
            if tokens < config.max_tokens:
                self.say(f"answers to dev problems end at {tokens:,} tokens, where the student's context does")
        return Sampling(
            temperature=config.sample_temperature, top_p=config.top_p, seed=self.seed, thinking=self.thinking,
            max_tokens=tokens,
        )  # fmt: skip

    def _engine_of(self, trainer: Any) -> TransformersEngine:
        if self._engine is None:
            from distill.engines.transformers import TransformersEngine

            self._engine = TransformersEngine.around(
                trainer.core, self.text.tokenizer, self.text.stop_ids, self.placement,
                ModelIdentity(id="student", name="student", tokenizer=self.text.fingerprint),
            )  # fmt: skip
        return self._engine


@contextmanager
def _at_rest(model: Any) -> Iterator[None]:
    """The model in evaluation mode, with an attention that takes a mask; as it was, afterwards."""
    import torch

    training, attention = model.training, model.config._attn_implementation
    cuda = model.device.type == "cuda"
    model.eval()
    if attention not in ("sdpa", "eager"):
        model.set_attn_implementation("sdpa")
    try:
        if cuda:
            torch.cuda.empty_cache()  # what training left over is room for keys and values
        yield
    finally:
        if attention not in ("sdpa", "eager"):
            model.set_attn_implementation(attention)
        model.train(training)
        if cuda:
            torch.cuda.empty_cache()


def _summary(samples: Sequence[Sample], values: Sequence[VerdictValue]) -> dict[str, Any]:
    """Counts of one look. Raises DistillError if no answer could be graded: there is nothing to choose by."""
    counts = Counter(values)
    graded = sum(counts[value] for value in GRADED)
    if not graded:
        raise DistillError(
            f"`train.dev`: none of {len(values):,} answers could be graded ({counts['ungradable']:,} ungradable, "
            f"{counts['error']:,} failed); mend the dev problems' golds or the verifier"
        )
    return {
        "accuracy": counts["correct"] / graded,
        "graded": graded,
        **{value: counts[value] for value in (*GRADED, "ungradable", "error")},
        "truncated": sum(sample.finish_reason == "length" for sample in samples),
        "mean_tokens": sum(sample.completion_tokens for sample in samples) / len(samples),
    }


def _link(source: Path, target: Path) -> None:
    """The same file under another name; a copy where the file system has no such names."""
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    partial.unlink(missing_ok=True)
    try:
        os.link(source, partial)
    except OSError:
        shutil.copyfile(source, partial)
        files.sync(partial)
    partial.replace(target)
