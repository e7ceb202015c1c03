"""The table of commands: every name has its file, its help in one place, and costs nothing until it is asked for."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from distill import cli, commands

SHARED = {"shared", "stages"}


def test_every_file_of_commands_is_in_the_table_and_the_other_way_round():
    files = {module.name for module in pkgutil.iter_modules(commands.__path__)} - SHARED

    assert files == set(cli.COMMANDS) - set(cli.PLAIN_STAGES)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_its_help_begins_with_its_line_of_the_table(name: str):
    done = CliRunner().invoke(cli.app, [name, "--help"])

    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split("Options:")[0].split())
    assert cli.COMMANDS[name] in said


def test_an_unknown_command_is_one_line():
    done = CliRunner().invoke(cli.app, ["tarin"])

    assert done.exit_code == 2
    assert "No such command 'tarin'" in done.output


def test_the_list_of_commands_imports_none_of_them():
    code = (
        "import sys; from distill.cli import app; app(['--help'], standalone_mode=False);"
        "print(sorted(m for m in sys.modules if m.startswith('distill.')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert ast.literal_eval(done.stdout.splitlines()[-1]) == ["distill.cli"]


def test_every_command_is_one():
    context = click.Context(cli.app)

    assert all(isinstance(cli.app.get_command(context, name), click.Command) for name in cli.COMMANDS)
