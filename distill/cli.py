"""The command line: names of commands, one line of help each; imports only what the chosen command runs.

Answers go to stdout, everything else to stderr. Exit codes: 0 done; 1 failed while running; 2 wrong command or
experiment file, nothing was run; 3 finished, but a bound was missed; 130 stopped by the user.
"""

from __future__ import annotations

import errno
import importlib
import logging
import os
import select
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

COMMANDS = {
    "init": "Write a commented experiment file and its JSON Schema to start from.",
    "run": "Run every stage that is missing or stale, then report.",
    "problems": "Choose the problems and split them into train, dev and test.",
    "sample": "Let the teacher answer the training problems; every answer is paid for once.",
    "import": "Take recorded answers instead of sampling a teacher.",
    "verify": "Check every answer against its gold answer.",
    "filter": "Keep the traces worth learning from, and say why the others went.",
    "score": "One pass of the teacher over the kept traces, for its log-probabilities.",
    "train": "Train the student on the kept traces.",
    "evaluate": "Measure base, student and teacher on the test problems.",
    "export": "Write the student as safetensors or GGUF and prove it; takes an experiment, or any model folder.",
    "publish": "Show what would go to the Hub, with its cards; `--yes` sends it.",
    "pull": "Fetch a published run back as a run folder, and check its hashes.",
    "report": "Write report.html of a run anew and print its table.",
    "compare": "Compare runs, arms, seeds and models on the same problems.",
    "view": "Read traces and answers in the browser.",
    "runs": "List, show, compare and delete runs.",
    "chat": "Talk to a student and see it think: a run folder, a model folder, or a .gguf file.",
    "plan": "What the experiment needs on these GPUs: memory, time, cost, and what to change; loads nothing.",
    "probe": "Ask the teacher a dozen small questions: what its server returns, which settings it honours.",
    "pair": "Say whether a student can match a teacher's logits; reads tokenizers only, of folders or Hub ids.",
    "grade": "Grade a file of answers (.jsonl, .parquet): adds verdict, reason and extracted answer to every row.",
    "signature": "Hash a benchmark's questions, for the `contamination` filter; the file gives no text back.",
    "ledger": "What the workspace's ledger holds and what it cost; takes in other ledgers, each answer once.",
}
"""Each is `command` in a file of its name in `distill.commands`; those of plain stages are made by `stages`."""

PLAIN_STAGES = ("problems", "import", "score")

FAULTS_OF_THE_PLACE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG,
)  # fmt: skip
"""What a disk or its owner refuses is for a person to mend; any other OSError is a bug and keeps its traceback."""


class ReaderGoneError(Exception):
    """Whoever read our output has closed it (`distill run x.yaml | head -1`); click itself would exit with 1."""


class Commands(click.Group):
    """The commands, each imported when it is asked for; leaving early is the reader's right and no failure of ours."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the order of the work."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command called `cmd_name`, None where there is none."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        if cmd_name in PLAIN_STAGES:
            from distill.commands import stages

            command = stages.command(cmd_name)
        else:
            command = importlib.import_module(f"distill.commands.{cmd_name}").command
        command.name, command.help = cmd_name, COMMANDS[cmd_name]
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of `--help`, which imports none of them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

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
