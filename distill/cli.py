"""The command line: names of commands, one line of help each; imports only what the chosen command runs.

Answers go to stdout, everything else to stderr. Exit codes: 0 done; 1 failed while running; 2 wrong command or
experiment file, nothing was run; 3 finished, but a bound was missed; 130 stopped by the user.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from distill.core.rundir import Manifest
    from distill.pipeline import Done, Runner

STAGE_HELP = {
    "problems": "Choose the problems and split them into train, dev and test.",
    "sample": "Let the teacher answer the training problems; every answer is paid for once.",
    "import": "Take recorded answers instead of sampling a teacher.",
    "verify": "Check every answer against its gold answer.",
    "filter": "Keep the traces worth learning from, and say why the others went.",
    "score": "One pass of the teacher over the kept traces, for its log-probabilities.",
    "train": "Train the student on the kept traces.",
    "evaluate": "Measure base, student and teacher on the test problems.",
}

FAULTS_OF_THE_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip
"""What a disk or its owner refuses is for a person to mend; any other OSError is a bug and keeps its traceback."""


class ReaderGoneError(Exception):
    """Whoever read our output has closed it (`distill run x.yaml | head -1`); click itself would exit with 1."""


class Commands(click.Group):
    """The commands; leaving early is the reader's right and no failure of ours."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse the command line; `--help` prints here."""
        with _told_from_other_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _told_from_other_pipes():
            return super().invoke(ctx)


@contextmanager
def _told_from_other_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        if poll.poll(0):  # POLLERR is all that is asked for: stdout has no reader
            raise ReaderGoneError from error
        raise RuntimeError("a pipe or connection of our own broke") from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="reasoning-distill", prog_name="distill")
def app() -> None:
    """Turn a large reasoning model into a small one that runs where you are.

    One YAML file is one experiment; one command is one stage; `distill run` is all of them.
    """


def _experiment_options(command: Callable[..., Any]) -> Callable[..., Any]:
    command = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(command)
    command = click.option(
        "--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs."
    )(command)
    command = click.option(
        "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting: --set train.epochs=1"
    )(command)
    return click.argument("experiment", type=click.Path(path_type=Path))(command)


def _launch_option(command: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--launch", metavar="N|CONFIG.yaml",
        help="Train on N processes, or as an accelerate configuration says (configs/accelerate/).",
    )(command)  # fmt: skip


def _runner(experiment: Path, overrides: tuple[str, ...], workspace: str, launch: str | None = None) -> Runner:
    from distill import experiment as experiments
    from distill import pipeline
    from distill.core.stage import Workspace

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    if launch is not None:
        import importlib

        launch = launch if importlib.import_module("students.launch").read(launch) is not None else None
    runner = pipeline.Runner(loaded, Workspace(Path(workspace)), launch=launch)
    experiments.check(loaded, pipeline.CHECKS, experiment, overrides)
    return runner


def _refuse_pairs(runner: Runner) -> None:
    """Before anything is bought: a teacher and a student whose logits cannot be matched, though a loss asks for it."""
    import importlib

    from distill.core.errors import ConfigError

    for arm in runner.experiment.arms:
        why = importlib.import_module("students.contract").refusal(arm.sections, fetch=True)  # by name, as stages are
        if why is not None:
            raise ConfigError(f"{runner.experiment.file}: {why}")


@app.command(help="Run every stage that is missing or stale, then report.")
@_experiment_options
@_launch_option
def run(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, launch: str | None) -> None:
    _alone("distill run")
    runner = _runner(experiment, overrides, workspace, launch)
    _refuse_pairs(runner)
    done = list(runner.run())
    from distill.report import final

    if not any(item.ran for item in done):
        click.echo(f"{runner.folder}: everything is done already; nothing was run", err=True)
    final.write(runner.folder)
    final.show(runner.folder, as_json=as_json)
    _end_with_missed(item.manifest for item in done)


def _stage_command(name: str) -> Callable[..., None]:
    @_experiment_options
    def command(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool) -> None:
        _run_stage(name, experiment, overrides, workspace, as_json)

    return command


def _run_stage(
    name: str,
    experiment: Path,
    overrides: tuple[str, ...],
    workspace: str,
    as_json: bool,
    launch: str | None = None,
) -> None:
    from distill.core.errors import ConfigError

    runner = _runner(experiment, overrides, workspace, launch)
    if not runner.has(name):
        raise ConfigError(f"{experiment}: has no section `{name}:`")
    if name == "train" and _is_follower(launch):
        import importlib

        importlib.import_module("students.launch").follow(runner)
        return
    done = [item for item in runner.run(until=name) if item.stage.name == name]
    folders = {item.folder: item for item in done}
    for item in folders.values():
        _show(item, as_json)
    _end_with_missed(item.manifest for item in done)


def _alone(command: str) -> None:
    """Refuse to be one of several processes: only training has use for them."""
    import importlib

    from distill.core.errors import ConfigError

    if (count := importlib.import_module("students.processes").here().count) > 1:
        raise ConfigError(f"`{command}` is started once, not as {count} processes; add `--launch {count}` instead")


def _is_follower(launch: str | None) -> bool:
    """Whether torchrun or `accelerate launch` started this process beside the one that writes and speaks."""
    import importlib

    from distill.core.errors import ConfigError

    me = importlib.import_module("students.processes").here()
    if me.count > 1 and launch is not None:
        raise ConfigError(f"--launch {launch}: this already is one of {me.count} processes; leave it out")
    return bool(me.index)


def _show(done: Done, as_json: bool) -> None:
    data = done.manifest.data
    _print_report(data["rows"], f"{done.stage.name}: {data['summary']}", data["counts"], as_json)
    click.echo(f"written {done.folder}", err=True)


def _print_report(rows: list[dict[str, Any]], summary: str, data: dict[str, Any], as_json: bool) -> None:
    """What a command has to say, on stdout: a table and a line, or both as JSON."""
    if as_json:
        click.echo(json.dumps({"summary": summary, "rows": rows, "counts": data}, ensure_ascii=False))
        return
    if rows:
        from distill.report import table

        table.show(rows)
    click.echo(summary)


def _end_with_missed(manifests: Any) -> None:
    from distill.core.errors import ThresholdMissed

    missed: list[Manifest] = [manifest for manifest in manifests if manifest.data["missed"]]
    if missed:
        raise ThresholdMissed(missed[0].data["missed"])


@_experiment_options
@click.option("--dry-run", is_flag=True, help="Say what would be bought and what it may cost; buy nothing.")
@click.option(
    "--escalate", type=click.IntRange(min=1), metavar="LIMIT",
    help="Try answers that were cut again, with limits doubling up to LIMIT tokens: `sample.escalate_to`.",
)  # fmt: skip
def _sample(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, dry_run: bool, escalate: int | None
) -> None:
    if escalate is not None:
        overrides = (*overrides, f"sample.escalate_to={escalate}")
    runner = _runner(experiment, overrides, workspace)
    _refuse_pairs(runner)
    if dry_run:
        _dry_run(runner, experiment, as_json)
        return
    _run_stage("sample", experiment, overrides, workspace, as_json)
    if escalate is not None:
        click.echo(f"set `escalate_to: {escalate}` in the file too: the later stages then read these answers", err=True)


def _dry_run(runner: Runner, experiment: Path, as_json: bool) -> None:
    import importlib

    from distill.core.errors import ConfigError

    if not runner.has("sample"):
        raise ConfigError(f"{experiment}: has no section `sample:`")
    for planned in runner.planned("sample"):
        report = importlib.import_module("teachers.sample").estimate(planned)  # by name, as stages are
        _print_report(report.rows, report.summary, report.data, as_json)


@_experiment_options
@click.option("--traces", type=click.Path(path_type=Path), help="Filter this file (.jsonl, .parquet), not the run.")
@click.option("--out", type=click.Path(path_type=Path), help="With --traces: folder to write.")
def _filter(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, traces: Path | None, out: Path | None
) -> None:
    if (traces is None) != (out is None):
        raise click.UsageError("--traces and --out go together")
    if traces is None or out is None:
        _run_stage("filter", experiment, overrides, workspace, as_json)
        return
    from distill import experiment as experiments
    from distill import filter_file, pipeline

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    report = filter_file.filter_file(traces, loaded.arms[0].sections, out, str(experiment))
    _print_report(report.rows, report.summary, report.data, as_json)


@_experiment_options
@click.option("--regrade", is_flag=True, help="Grade what was graded again and list what changed; buys nothing.")
@click.option("--show", type=click.IntRange(min=0), default=10, show_default=True, help="Changed answers to list.")
def _verify(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, regrade: bool, show: int
) -> None:
    if not regrade:
        _run_stage("verify", experiment, overrides, workspace, as_json)
        return
    from distill import regrade as anew

    report = anew.regrade(_runner(experiment, overrides, workspace), show)
    if not as_json and report.data["examples"]:
        from distill.report import table

        table.show([{name: row[name] for name in anew.COLUMNS} for row in report.data["examples"]])
    _print_report(report.rows, report.summary, report.data, as_json)
    click.echo(f"kept in the ledger; `distill run {experiment}` brings the stages up to date with it", err=True)


@_experiment_options
@click.option("--dry-run", is_flag=True, help="Check every row and show what would be trained on; load no weights.")
@_launch_option
def _train(
    experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool, dry_run: bool, launch: str | None
) -> None:
    if not dry_run:
        _run_stage("train", experiment, overrides, workspace, as_json, launch)
        return
    import importlib
    from dataclasses import asdict

    from distill.core.errors import ConfigError

    runner = _runner(experiment, overrides, workspace)
    if not runner.has("train"):
        raise ConfigError(f"{experiment}: has no section `train:`")
    for planned in runner.planned("train"):
        train = importlib.import_module("students.train")  # by name, as stages are
        report, samples = train.dry_run(planned)
        data = {**report.data, "samples": [asdict(sample) for sample in samples]}
        _print_report(report.rows, report.summary, data, as_json)
        if not as_json:
            train.contract.show(samples)


_SPECIAL = {"sample": _sample, "verify": _verify, "filter": _filter, "train": _train}
"""Stages whose command can do more than run the stage."""

for _name, _help in STAGE_HELP.items():
    app.command(_name, help=_help)(_SPECIAL.get(_name) or _stage_command(_name))


@app.command(help="Ask the teacher a dozen small questions: what its server returns, which settings it honours.")
@_experiment_options
def probe(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool) -> None:
    import importlib

    from distill.core.errors import ConfigError

    arms = [arm for arm in _runner(experiment, overrides, workspace).experiment.arms if "teacher" in arm.sections]
    if not arms:
        raise ConfigError(f"{experiment}: has no section `teacher:`")
    teachers: dict[str, Any] = {}
    for arm in arms:  # arms that ask the same teacher in the same way are probed once
        asked = {name: arm.sections[name].dump() for name in ("teacher", "sample") if name in arm.sections}
        teachers.setdefault(json.dumps(asked, sort_keys=True), arm.sections)
    for sections in teachers.values():
        report = importlib.import_module("teachers.probe").run(sections)
        _print_report(report.rows, report.summary, report.data, as_json)


@app.command(help="Say whether a student can match a teacher's logits; reads tokenizers only, of folders or Hub ids.")
@click.argument("teacher")
@click.argument("student")
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON.")
def pair(teacher: str, student: str, as_json: bool) -> None:
    from distill.core.models import resolve_text
    from distill.text import pairing

    verdict = pairing.compare(resolve_text(teacher), resolve_text(student))
    data = {"kl_possible": verdict.kl_possible, "why": verdict.why, "notes": list(verdict.notes)}
    _print_report(list(verdict.facts), str(verdict), data, as_json)
    if not as_json:
        for note in verdict.notes:
            click.echo(f"- {note}")


@app.command(help="What the experiment needs on these GPUs: memory, time, cost, and what to change; loads nothing.")
@click.argument("experiment", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Change one setting.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON, in bytes and seconds.")
@click.option(
    "--gpus", required=True, metavar="GPU[:COUNT]", help="h100:8, rtx4090, 24GB:2, or cpu for this machine's memory."
)
@click.option(
    "--sharding",
    type=click.Choice(["ddp", "fsdp2", "zero3"]),
    default="ddp",
    show_default=True,
    help="How several GPUs share a training.",
)
@click.option("--price", type=click.FloatRange(min=0), help="Of one GPU for an hour.")
@click.option("--rows", type=click.IntRange(min=1), help="Traces of an epoch, where you know it.")
@click.option("--row-tokens", type=click.IntRange(min=1), help="Their mean length, prompt included.")
def plan(experiment: Path, overrides: tuple[str, ...], as_json: bool, gpus: str, **asked: Any) -> None:
    from distill import experiment as experiments
    from distill import pipeline
    from distill.plan import experiment as planning
    from distill.plan.gpus import parse

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    report, changes = planning.run(loaded, planning.Question(*parse(gpus), **asked))
    if not as_json and changes:
        from distill.report import table

        table.show(report.rows)
        table.show(changes)
    _print_report([] if changes and not as_json else report.rows, report.summary, report.data, as_json)
    if report.missed:
        from distill.core.errors import ThresholdMissed

        raise ThresholdMissed(report.missed)


@app.command(help="Write the student as safetensors or GGUF and prove it; takes an experiment, or any model folder.")
@click.argument("what", metavar="EXPERIMENT.yaml|MODEL", type=str)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="With an experiment: change one setting.")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--format", "format_name", help="With a model: safetensors or gguf.")
@click.option("--type", "tensor_type", help="With a model: q8_0, q6_k, q4_k_m ... for gguf; bf16, nf4 ... else.")
@click.option("--imatrix", metavar="FILE", help="With a model: importance matrix of llama-imatrix, .gguf or .dat.")
@click.option("--out", type=click.Path(path_type=Path), help="With a model: folder to write into.")
@click.option("--adapter", help="With a model: a LoRA adapter to merge on the way.")
@click.option("--adapter-alone", is_flag=True, help="With safetensors: write the adapter itself, not a merge.")
@click.option(
    "--adapter-base", "onto", type=click.Choice(["trained", "stored"]),
    help="With a QLoRA adapter: lay it over the 4-bit base that it learnt on (trained), or over the base as stored.",
)  # fmt: skip
@click.option(
    "--tier-3/--no-tier-3", "tier_3", default=None,
    help="With a model: compare the file's distributions with the model's; on by itself up to 300 M weights.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    what: str,
    overrides: tuple[str, ...],
    workspace: str,
    format_name: str | None,
    tensor_type: str | None,
    out: Path | None,
    adapter: str | None,
    adapter_alone: bool,
    imatrix: str | None,
    onto: Literal["trained", "stored"] | None,
    tier_3: bool | None,
    as_json: bool,
) -> None:
    if what.endswith((".yaml", ".yml")):
        for option, given in {
            "--format": format_name,
            "--type": tensor_type,
            "--imatrix": imatrix,
            "--out": out,
            "--adapter": adapter,
            "--adapter-alone": adapter_alone or None,
            "--adapter-base": onto,
            "--tier-3": tier_3,
        }.items():
            if given is not None:
                raise click.UsageError(f"{option} goes with a model folder; an experiment says it in its `export:`")
        _run_stage("export", Path(what), overrides, workspace, as_json)
        return
    if format_name is None or out is None:
        raise click.UsageError("a model folder needs --format and --out")
    if overrides:
        raise click.UsageError("--set goes with an experiment")
    from distill.export import stage

    named = "dtype" if format_name == "safetensors" else "type"
    settings = {named: tensor_type, "imatrix": imatrix, "adapter": "alone" if adapter_alone else None}
    choice = stage.format_choice(format_name, **settings)
    report = stage.export_folder(what, out, [choice], adapter=adapter, onto=onto or "trained", tier_3=tier_3)
    _print_report(report.rows, report.summary, report.data, as_json)
    if report.missed:
        from distill.core.errors import ThresholdMissed

        raise ThresholdMissed(report.missed)


@app.command(help="Grade a file of answers (.jsonl, .parquet): adds verdict, reason and extracted answer to every row.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verifier", default="math", show_default=True, help="Which verifier judges.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one setting: --set percent=ignore")
@click.option("--gold", metavar="FIELD", help="Field of the gold answer; dots reach into objects.")
@click.option("--tests", metavar="FIELD", help="Field of hidden tests, for `--verifier code`.")
@click.option("--response", metavar="FIELD", help="Field of a whole model output, thinking and all.")
@click.option("--answer", metavar="FIELD", help="Field of an already extracted answer.")
@click.option("--finish-reason", metavar="FIELD", help="Field that says how the response ended (stop, length).")
@click.option(
    "--thinker", is_flag=True, help="The model thinks: a response that never closed its thinking is unfinished."
)
@click.option(
    "--dialect", type=click.Choice(["think", "begin_of_thought", "harmony", "none"]), default="think",
    show_default=True, help="What stands around the thinking of a response.",
)  # fmt: skip
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="File to write: .jsonl(.gz|.zst), .parquet."
)
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def grade(
    file: Path, verifier: str, settings: tuple[str, ...], out: Path, as_json: bool,
    **fields: Any,
) -> None:  # fmt: skip
    if (fields["response"] is None) == (fields["answer"] is None):
        raise click.UsageError("give one of --response and --answer")
    if fields["gold"] is None and fields["tests"] is None:
        raise click.UsageError("give --gold, --tests, or both")
    from distill.grade import Fields, grade_file

    asked = Fields(**fields)
    report = grade_file(file, asked, verifier=verifier, settings=settings, out=out)
    _print_report(report.rows, report.summary, report.data, as_json)


@app.command(help="Hash a benchmark's questions, for the `contamination` filter; the file gives no text back.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--field", required=True, help="Field with the question; dots reach into objects.")
@click.option("--name", required=True, help="What the benchmark is called in reasons and reports.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Signature file to write.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
def signature(file: Path, field: str, name: str, out: Path, as_json: bool) -> None:
    from distill.signature import sign_file

    report = sign_file(file, field=field, name=name, out=out)
    _print_report(report.rows, report.summary, report.data, as_json)


@app.command(help="Talk to a student and see it think: a run folder, a model folder, or a .gguf file.")
@click.argument("target")
@click.option("--temperature", type=float, default=0.6, show_default=True, help="0 is greedy.")
@click.option("--max-tokens", type=int, help="Longest answer; the model's context unless given.")
def chat(target: str, temperature: float, max_tokens: int | None) -> None:
    from distill.chat import chat as talk

    talk(target, temperature=temperature, max_tokens=max_tokens)


@app.command(help="Write a commented experiment file and its JSON Schema to start from.")
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@click.option("--preset", metavar="NAME", help="Start from a pair of real models: r1-distill-qwen-7b, qwen3-4b ...")
def init(folder: Path, preset: str | None) -> None:
    from distill import init as initial
    from distill.pipeline import SECTIONS

    for path in initial.write(folder, SECTIONS, preset):
        click.echo(f"written {path}")


@app.command(help="What the workspace's ledger holds and what it cost; takes in other ledgers, each answer once.")
@click.option("--merge", "others", multiple=True, type=click.Path(path_type=Path), help="Take in this ledger.sqlite.")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def ledger(others: tuple[Path, ...], workspace: str, as_json: bool) -> None:
    from distill.core import merging
    from distill.core.stage import Workspace

    path = Workspace(Path(workspace)).ledger
    for other in others:
        merged = merging.merge(path, other)
        click.echo(
            f"{other}: {merged.answers:,} answers taken in, {merged.already:,} were there, "
            f"{merged.verdicts:,} verdicts, {merged.shards:,} files of log-probabilities", err=True,
        )  # fmt: skip
    report = merging.report(path)
    _print_report(report.rows, report.summary, report.data, as_json)


@app.command(help="Write report.html of a run anew and print its table.")
@click.argument("run_folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON.")
def report(run_folder: Path, as_json: bool) -> None:
    from distill.report import final

    final.write(run_folder)
    final.show(run_folder, as_json=as_json)


def main() -> None:
    """Entry point: run the command, turn a `DistillError` into one line, leave quietly on a closed pipe."""
    # Threads that wait for each other shall sleep, not spin: read by OpenMP when torch is loaded, so it is set here.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # peft 0.21 asks by a name that transformers 5.23 has left behind; nobody who reads it could do anything about it.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
    # peft imports bitsandbytes wherever it is installed, which then misses an optional kernel on CPUs.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        click.echo("\nstopped; what is done is kept, the same command goes on from there", err=True)
        _leave(130)
    except (ReaderGoneError, BrokenPipeError):
        # A second complaint at interpreter exit would help nobody.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        if error.errno not in FAULTS_OF_THE_PLACE:
            raise
        where = "" if error.filename is None else f"{error.filename}: "
        click.echo(f"distill: {where}{error.strerror}; what is done is kept", err=True)
        sys.exit(1)
    except Exception as error:  # DistillError is told apart here, so that its module is not imported for --help
        from distill.core.errors import DistillError

        if not isinstance(error, DistillError):
            raise
        click.echo(f"distill: {error}", err=True)
        sys.exit(error.exit_code)


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)


if __name__ == "__main__":
    main()
