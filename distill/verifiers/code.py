"""Programs against hidden tests, run in a sandbox: function, call and stdin/stdout style.

The program is the last Python block (between fences) of the final answer that defines the function asked for, or the
last one at all; an answer without a fence is a program as a whole. Code in the thinking is never looked at.

- Every case counts: `score` is the share that passed; `correct` is all of them. The reason names the first that failed.
- Printed output: as many lines as expected, each the same, or the same numbers; never a prefix, never nothing.
- A program is one process without network, files it may write, or the caller's environment; its limits are settings.
- No code, or cut off: `unparseable`. Tests that cannot be run: `ungradable`. A sandbox that fails: `error`.
- Without bubblewrap it refuses. `sandbox: subprocess` runs programs as you, with your files in reach: for programs
  that you would run yourself, and nothing else.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Literal

from pydantic import PositiveFloat, PositiveInt

from distill.core.config import Settings, Unkeyed
from distill.core.protocols import Answer, Finding
from distill.sandbox import trial
from distill.sandbox.box import Box, Broken, Guest, Limits, open_box
from distill.text.code_tests import CodeTests, StdioTests, parse, tests_fault
from distill.text.think import OPEN

VERSION = 1
NOT_PYTHON = "not Python"
_FENCE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([^\n`]*)$", re.MULTILINE)
_PYTHON = {"", "python", "python3", "py", "py3", "python 3"}


class Config(Settings):
    """Settings of the `code` verifier."""

    sandbox: Literal["bubblewrap", "subprocess"] = "bubblewrap"
    """`subprocess` is UNSAFE: programs run as you, with your files in reach."""
    packages: bool = False
    """Whether programs may import the packages of this environment, not only the standard library."""
    cpu_s: PositiveFloat = 6.0
    """CPU seconds of one case, rounded up."""
    wall_s: PositiveFloat = 60.0
    """Seconds of one case, for programs that sleep; CPU time does not depend on the load of the machine, this does."""
    overs: PositiveInt = 3
    """After so many cases over a limit the other cases of an answer are not run (and not passed)."""
    memory_mib: PositiveInt = 1024
    """Address space of a program."""
    output_mib: PositiveFloat = 8.0
    """What a case may print or return."""
    max_characters: PositiveInt = 200_000
    """A longer program is none."""
    workers: Annotated[PositiveInt, Unkeyed] = 2
    """Answers that are tried at a time."""


def build(config: Config) -> CodeVerifier:
    """The verifier. Raises DistillError where no sandbox can be had."""
    return CodeVerifier(config)


def ready(config: Config) -> None:
    """Raises DistillError where no sandbox can be had: said before answers are paid for."""
    open_box(config.sandbox, packages=config.packages)


class CodeVerifier:
    """Implements `distill.core.protocols.Verifier`."""

    name = "code"
    version = VERSION
    compares = False  # programs are run against tests, not against each other

    def __init__(self, config: Config) -> None:
        self.config = config
        self._box: Box | None = None
        self._guests: set[Guest] = set()
        self._lock, self._opening = threading.Lock(), threading.Lock()
        self._closing = False

    def grade(self, answers: Sequence[Answer]) -> list[Finding]:
        """One finding per answer, in order. Raises DistillError where no sandbox can be had."""
        self._closing = False
        pool = ThreadPoolExecutor(self.config.workers, "code")
        try:
            return list(pool.map(self._one, answers))
        except BaseException:  # Ctrl-C too: no program outlives its caller; raised again below
            self.close()
            raise
        finally:
            pool.shutdown(cancel_futures=True)

    def close(self) -> None:
        """End what is running."""
        self._closing = True
        with self._lock:
            guests = list(self._guests)
        for guest in guests:
            guest.kill()

    def _one(self, answer: Answer) -> Finding:
        fault = tests_fault(answer.tests)
        if fault is not None or answer.tests is None:
            return Finding("ungradable", fault or "no tests")
        tests = parse(answer.tests)
        if not answer.extracted:
            if answer.finish_reason == "length":
                return Finding("unparseable", "truncated")
            if not answer.closed or OPEN in answer.text:
                return Finding("unparseable", "unfinished thinking")
        blocks = [] if answer.extracted else blocks_of(answer.text)
        program = pick(blocks, _name(tests)) if blocks else answer.text
        if not program.strip():
            return Finding("unparseable", "no code")
        if len(program) > self.config.max_characters:
            return Finding("unparseable", "program too long", program[:80] + "...")
        try:
            program.encode()
        except UnicodeEncodeError:
            return Finding("unparseable", "program is not Unicode text")
        found = self._tried(program, tests)
        if found.reason.endswith(f": {NOT_PYTHON}; 0 passed") and not (blocks or answer.extracted):
            return Finding("unparseable", "no code")  # prose, in which no fence says that it is a program
        return found

    def _tried(self, program: str, tests: CodeTests) -> Finding:
        config = self.config
        with self._opening:  # a sandbox is sought when there is something to run, and once
            box = self._box = self._box or open_box(config.sandbox, packages=config.packages)
        limits = Limits(config.cpu_s, config.wall_s, config.memory_mib, config.output_mib)
        fault = ""
        for _ in range(2):  # a fault of the machine may pass
            mine: list[Guest] = []
            try:
                results = trial.run(box, program, tests, trial.Budget(limits, config.overs), self._watcher(mine))
            except Broken as error:
                fault = str(error)
                if self._closing:
                    break
                continue
            finally:
                with self._lock:
                    self._guests.difference_update(mine)
            return finding(results, program, "case" if isinstance(tests, StdioTests) else "test")
        return Finding("error", fault, program)

    def _watcher(self, mine: list[Guest]) -> trial.Watch:
        def watch(guest: Guest) -> None:
            with self._lock:
                mine.append(guest)
                self._guests.add(guest)
                closing = self._closing
            if closing:
                guest.kill()
                guest.end()
                raise Broken("grading was stopped")

        return watch


def finding(results: Sequence[trial.Result], program: str, word: str) -> Finding:
    """The verdict on a program, from the results of its cases."""
    count, passed = len(results), sum(result.passed for result in results)
    unfit = next((result.how for result in results if result.unfit), None)
    if unfit is not None:
        return Finding("ungradable", unfit, program)
    if all(result.idle for result in results):
        return Finding("ungradable", "the tests call nothing of the program", program)
    if passed == count:
        return Finding("correct", f"passed {count} {word}{'s' if count > 1 else ''}", program, score=1.0)
    first = next(number for number, result in enumerate(results) if not result.passed)
    how = results[first].how
    if how.endswith(("raised SyntaxError", "raised IndentationError", "raised TabError")):
        how = NOT_PYTHON
    return Finding("wrong", f"{word} {first + 1} of {count}: {how}; {passed} passed", program, score=passed / count)


def pick(blocks: Sequence[str], name: str | None) -> str:
    """The program among blocks of code: the last one that defines `name`, or the last.

    >>> pick(["def f(): ...", "print(f())"], "f")
    'def f(): ...'
    """
    if name is not None:
        said = re.escape(name)
        defines = re.compile(rf"^[ \t]*(?:async[ \t]+def|def|class)[ \t]+{said}\b|^{said}[ \t]*[=:]", re.MULTILINE)
        blocks = [block for block in blocks if defines.search(block)] or blocks
    return blocks[-1]


def blocks_of(text: str) -> list[str]:
    """Contents of the Python blocks between fences, without the fence's own indentation.

    A fence says Python or nothing; a last one that never closes holds all that follows it.

    >>> blocks_of("So:\\n```python\\nprint(1)\\n```\\nDone.")
    ['print(1)\\n']
    """
    blocks: list[str] = []
    opened: re.Match[str] | None = None
    for fence in _FENCE.finditer(text):
        if opened is None:
            opened = fence
        elif fence[2][0] == opened[2][0] and len(fence[2]) >= len(opened[2]) and not fence[3].strip():
            _keep(blocks, opened, text[opened.end() + 1 : fence.start()])
            opened = None
    if opened is not None:
        _keep(blocks, opened, text[opened.end() + 1 :])
    return blocks


def _keep(blocks: list[str], opened: re.Match[str], block: str) -> None:
    if opened[3].strip().lower().strip("{}.") in _PYTHON:
        indent = opened[1]
        blocks.append("".join(line.removeprefix(indent) for line in block.splitlines(keepends=True)))


def _name(tests: CodeTests) -> str | None:
    return None if isinstance(tests, StdioTests) else (tests.entry_point or "").partition(".")[0] or None
