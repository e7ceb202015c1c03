"""Hostile programs: each ends within its limits, none scores correct, none leaves anything behind.

They run in bubblewrap or not at all: never try them with `sandbox: subprocess`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from distill.core.protocols import Answer, Finding
from distill.sandbox import box as box_module
from distill.sandbox.box import Unavailable, open_box
from distill.text.code_tests import CodeTests, Exchange, FunctionTests, StdioTests, dump
from distill.verifiers.code import CodeVerifier, Config

PROGRAMS = sorted((Path(__file__).parents[1] / "adversarial" / "programs").glob("*.txt"))
SECRET = "sk-secret-of-the-caller"
EXPECTED = "distill-expected-output"

CHECK = "def check(candidate):\n    assert candidate('ab') == 'abab'\n    assert candidate(0) == 0\n\ncheck(double)"
FUNCTION = FunctionTests("double", ("assert double(21) == 42", "assert double([1]) == [1, 1]", CHECK))
STDIO = StdioTests((Exchange("21\n", "42\n"), Exchange("5\n", "10\n")))
TESTS: dict[str, dict[str, CodeTests]] = {
    "both": {"function": FUNCTION, "stdio": STDIO},
    "function": {"function": FUNCTION},
    "function-list": {"function": FunctionTests("double", ("assert list(double(3)) == [3, 3]",))},
    "function-mutable": {"function": FunctionTests("double", ("value = [1]\nassert double(value) == value * 2",))},
    "stdio": {"stdio": STDIO},
    "stdio-late": {"stdio": STDIO},
    "stdio-lines": {"stdio": StdioTests((Exchange("21\n5\n", "42\n10\n"),))},
}
GOOD = {
    "function": Answer("def double(x):\n    return x * 2\n", None, dump(FUNCTION), extracted=True),
    "stdio": Answer("print(int(input()) * 2)\n", None, dump(STDIO), extracted=True),
}
CASES = [
    (path.stem, style)
    for path in PROGRAMS
    for style in TESTS[path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")]
]
SETTINGS = Config(cpu_s=1.0, wall_s=6.0, memory_mib=256, output_mib=4.0, overs=1, workers=6)


@dataclass
class Corpus:
    """What came of grading all of them at once."""

    findings: dict[tuple[str, str], Finding]
    good: list[Finding]
    seconds: float
    left_running: list[str]
    left_behind: set[str]
    left_open: int


def _answer(name: str, style: str) -> Answer:
    run, _, program = (PROGRAMS[0].parent / f"{name}.txt").read_text(encoding="utf-8").partition("\n")
    return Answer(program, None, dump(TESTS[run.removeprefix("# ")][style]), extracted=True)


def _files() -> set[str]:
    """Everything in the places where a program might leave something."""
    found: set[str] = set()
    for folder in ("/tmp", "/var/tmp", "/dev/shm", "/", str(Path.home()), os.getcwd()):  # noqa: PTH109 - as programs see it
        if Path(folder).is_dir():
            found |= {f"{folder}/{name}" for name in os.listdir(folder)}  # noqa: PTH208 - names are all that is wanted
    return found


def _running(mark: str) -> list[str]:
    """Command lines of processes that carry the mark of these sandboxes in their environment, or are our children."""
    found = []
    for process in psutil.process_iter():
        try:
            marked = process.environ().get("DISTILL_MARK") == mark
            if marked and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:200])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    """All programs through one verifier, a good one after every eighth."""
    try:
        open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
    patch = pytest.MonkeyPatch()
    mark = f"{os.getpid()}-{time.time_ns()}"
    patch.setenv("DISTILL_TEST_SECRET", SECRET)
    patch.setitem(box_module._ENVIRONMENT, "DISTILL_MARK", mark)
    patch.chdir(tmp_path_factory.mktemp("caller"))
    Path(EXPECTED).write_text("42\n", encoding="utf-8")
    answers: list[Answer] = []
    for number, (name, style) in enumerate(CASES):
        answers.append(_answer(name, style))
        if number % 8 == 7:
            answers.append(GOOD["function" if number % 16 == 7 else "stdio"])
    before, opened = _files(), psutil.Process().num_fds()
    verifier = CodeVerifier(SETTINGS)
    start = time.monotonic()
    findings = verifier.grade([*answers, GOOD["function"], GOOD["stdio"]])
    seconds = time.monotonic() - start
    deadline = time.monotonic() + 5
    while (running := _running(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    verifier.close()
    kept = Path(EXPECTED).read_text(encoding="utf-8")
    good = [finding for answer, finding in zip(answers, findings, strict=False) if answer in GOOD.values()]
    bad = [finding for answer, finding in zip(answers, findings, strict=False) if answer not in GOOD.values()]
    yield Corpus(
        dict(zip(CASES, bad, strict=True)),
        [*good, *findings[-2:]],
        seconds,
        running,
        {path for path in _files() - before if "distill" in path} | ({"expected output"} if kept != "42\n" else set()),
        psutil.Process().num_fds() - opened,
    )
    patch.undo()


def test_there_are_enough_programs():
    assert len(PROGRAMS) >= 40


@pytest.mark.parametrize(("name", "style"), CASES)
def test_is_not_correct_and_tells_no_secret(corpus: Corpus, name: str, style: str):
    finding = corpus.findings[name, style]

    assert finding.value in ("wrong", "unparseable"), finding
    assert finding.score is None or finding.score < 1
    assert SECRET not in finding.reason
    assert "assert double" not in finding.reason


def test_the_programs_between_and_after_them_are_graded_right(corpus: Corpus):
    assert len(corpus.good) > 10
    assert {finding.value for finding in corpus.good} == {"correct"}, corpus.good


def test_nothing_keeps_running(corpus: Corpus):
    assert corpus.left_running == []


def test_nothing_is_left_behind(corpus: Corpus):
    assert corpus.left_behind == set()


def test_no_pipe_stays_open(corpus: Corpus):
    assert corpus.left_open <= 0


def test_all_end_in_time(corpus: Corpus):
    slowest = SETTINGS.wall_s * len(CASES) / SETTINGS.workers

    assert corpus.seconds < slowest


@pytest.mark.parametrize("name", ["read_the_environment", "looks_through_frames", "imports_the_judge", "sockets"])
def test_the_corpus_can_tell(name: str, monkeypatch: pytest.MonkeyPatch):
    """A right program graded by these tests is correct: the corpus does not pass because nothing ever could."""
    try:
        open_box("bubblewrap")
    except Unavailable as error:
        pytest.skip(str(error))
    right = "\ndef double(x):\n    return x * 2\n"

    finding = CodeVerifier(SETTINGS).grade([Answer(right, None, _answer(name, "function").tests, extracted=True)])[0]

    assert finding.value == "correct"
