"""HumanEval's layout: `prompt` (signature and docstring), `entry_point`, hidden `test` with `check(candidate)`.

problems: {source: {humaneval: {path: HumanEval.jsonl.gz, split: test}}}
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from distill import tabular
from distill.core.records import Problem, Split
from distill.text.code_tests import FunctionTests, dump

ASK = "Complete this Python function. Answer with the whole function in one code block.\n\n```python\n{prompt}\n```"


class Config(tabular.Preset):
    """Settings of the `humaneval` source."""


def externals(config: Config) -> dict[str, str]:
    """The content of its files."""
    return tabular.externals(config.path)


def own_split(config: Config) -> bool:
    """Whether the rows come with their split."""
    return config.split is not None


def build(config: Config, counts: Mapping[Split, int | None]) -> Iterator[Problem]:
    """The rows of the file as problems, in its order. `counts` are limits that the stage applies."""
    del counts
    return tabular.problems(tabular.rows(config.path), to_problem, config.split)


def to_problem(row: tabular.Row, where: str) -> Problem:
    """One row; faults start with `where`."""
    prompt, entry_point = tabular.text(row, "prompt", where), tabular.text(row, "entry_point", where)
    test = f"{tabular.text(row, 'test', where).strip()}\n\ncheck({entry_point})\n"
    return tabular.problem(
        ASK.format(prompt=prompt.strip()),
        gold=None,
        domain="code",
        source="humaneval",
        licence="MIT",
        verifier="code",
        tests=dump(FunctionTests(entry_point, (test,), prelude=prompt)),
    )
