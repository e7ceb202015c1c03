"""The command line: names of commands, one line of help each; imports only what the chosen command runs.

Answers go to stdout, everything else to stderr. Exit codes: 0 done; 1 failed while running; 2 wrong command or
experiment file, nothing was run; 3 finished, but a bound was missed; 130 stopped by the user.
"""

from __future__ import annotations

import errno
import json
import os
import select
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def _runner(experiment: Path, overrides: tuple[str, ...], workspace: str) -> Runner:
    from distill import experiment as experiments
    from distill import pipeline
    from distill.core.stage import Workspace

    loaded = experiments.load(experiment, pipeline.SECTIONS, overrides)
    runner = pipeline.Runner(loaded, Workspace(Path(workspace)))
    experiments.check(loaded, pipeline.CHECKS, experiment, overrides)
    return runner


@app.command(help="Run every stage that is missing or stale, then report.")
@_experiment_options
def run(experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool) -> None:
    runner = _runner(experiment, overrides, workspace)
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


def _run_stage(name: str, experiment: Path, overrides: tuple[str, ...], workspace: str, as_json: bool) -> None:
    from distill.core.errors import ConfigError

    runner = _runner(experiment, overrides, workspace)
    if not runner.has(name):
        raise ConfigError(f"{experiment}: has no section `{name}:`")
    done = [item for item in runner.run(until=name) if item.stage.name == name]
    folders = {item.folder: item for item in done}
    for item in folders.values():
        _show(item, as_json)
    _end_with_missed(item.manifest for item in done)


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
    if dry_run:
        _dry_run(_runner(experiment, overrides, workspace), experiment, as_json)
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


_SPECIAL = {"sample": _sample, "verify": _verify, "filter": _filter}
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


@app.command(help="Write the student as safetensors or GGUF and prove it; takes an experiment, or any model folder.")
@click.argument("what", metavar="EXPERIMENT.yaml|MODEL", type=str)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="With an experiment: change one setting.")
@click.option("--workspace", default="runs", show_default=True, envvar="DISTILL_WORKSPACE", help="Folder of all runs.")
@click.option("--format", "format_name", help="With a model: safetensors or gguf.")
@click.option("--type", "tensor_type", help="With a model: f32, f16, bf16, q8_0, q6_k, q4_k_m ...")
@click.option("--out", type=click.Path(path_type=Path), help="With a model: folder to write into.")
@click.option("--adapter", help="With a model: a LoRA adapter to merge on the way.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def export(
    what: str,
    overrides: tuple[str, ...],
    workspace: str,
    format_name: str | None,
    tensor_type: str | None,
    out: Path | None,
    adapter: str | None,
    as_json: bool,
) -> None:
    if what.endswith((".yaml", ".yml")):
        for option, given in {
            "--format": format_name,
            "--type": tensor_type,
            "--out": out,
            "--adapter": adapter,
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

    choice = stage.format_choice(format_name, type=tensor_type)
    report = stage.export_folder(what, out, [choice], adapter=adapter)
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
def init(folder: Path) -> None:
    from distill import init as initial
    from distill.pipeline import SECTIONS

    for path in initial.write(folder, SECTIONS):
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
