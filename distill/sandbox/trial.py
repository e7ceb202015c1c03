"""Grades one program by its hidden tests, in sandboxes. Nothing of the program's runs here or beside the tests.

- `stdio`: a sandbox per case; what it prints is compared here.
- `call`: the program is loaded in a sandbox, called with plain data, and the plain data it returns is compared here.
- `function`: the tests run in a second sandbox (`inside/judge.py`) whose stand-ins pass calls on to the program's.

A verdict comes from here or, with the nonce of this trial, from the judge: nothing that a program prints, returns or
exits with is one. A case that ends its program voids no other: the next one meets a new process.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from distill.sandbox.box import Box, Broken, Ended, Guest, Limits, Role, word
from distill.sandbox.inside import wire
from distill.text.code_tests import CallTests, CodeTests, FunctionTests, StdioTests

Watch = Callable[[Guest], None]
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,4})?", re.ASCII)


@dataclass(frozen=True)
class Budget:
    """Limits of one case, and the number of cases over a limit after which the others are not run."""

    case: Limits
    overs: int


@dataclass(frozen=True)
class Result:
    """How one case went: passed, or why not.

    `over`: a limit ended it. `unfit`: the test itself cannot be run. `idle`: it asked the program for nothing.
    """

    passed: bool
    how: str = ""
    over: bool = False
    unfit: bool = False
    idle: bool = False


def run(box: Box, program: str, tests: CodeTests, budget: Budget, watch: Watch) -> list[Result]:
    """One result per case or test, in order. `watch` is told of every sandbox, so that it can be ended from outside.

    Raises Broken for a fault of the machine.
    """
    return _Trial(box, program, budget, watch).run(tests)


def same_output(given: str, expected: str) -> bool:
    """Whether a program's output is the expected one: as many lines, each equal, or equal number by number.

    Space around a line and empty lines around the text do not count. `1.0` equals `1`, 12345 is not 12346.
    """
    left, right = given.strip().split("\n"), expected.strip().split("\n")
    return len(left) == len(right) and all(_same_line(a.strip(), b.strip()) for a, b in zip(left, right, strict=True))


def _same_line(given: str, expected: str) -> bool:
    if given == expected:
        return True
    left, right = given.split(), expected.split()
    return len(left) == len(right) and all(
        _NUMBER.fullmatch(a) and _NUMBER.fullmatch(b) and Decimal(a) == Decimal(b)
        for a, b in zip(left, right, strict=True)
    )


def returned(data: Any, depth: int = 0) -> Any:
    """A value that a program returned, from `wire`'s form to what JSON has: tuples are lists, keys are texts.

    Builds no set and no key but text: values that a program chose to collide would take this process hours to hash.
    Raises wire.NotPlain for what JSON has not.
    """
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if depth > wire.MAX_DEPTH:
        raise wire.NotPlain("nested too deeply")
    if isinstance(data, list):
        return [returned(item, depth + 1) for item in data]
    if isinstance(data, dict) and len(data) == 1:
        ((tag, body),) = data.items()
        if tag == "t" and isinstance(body, list):
            return returned(body, depth)
        if tag == "d" and isinstance(body, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in body):
            return {_key(key): returned(value, depth + 1) for key, value in body}
        if tag == "i" and isinstance(body, str):
            return wire.decode(data, wire.no_references)
        if tag == "v" and isinstance(body, list) and len(body) == 2 and body[0] in wire.DICTS:
            return returned({"d": body[1]}, depth)
    raise wire.NotPlain("no JSON value")


def _key(key: Any) -> str:
    if isinstance(key, str):
        return key
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    raise wire.NotPlain("no key that JSON has")


class _Trial:
    def __init__(self, box: Box, program: str, budget: Budget, watch: Watch) -> None:
        self._box, self._program, self._budget, self._watch = box, program, budget, watch
        self._overs = 0
        self._guest: Guest | None = None
        self._unloadable: Result | None = None
        self._case_ends = 0.0

    def run(self, tests: CodeTests) -> list[Result]:
        if isinstance(tests, StdioTests):
            return self._each(len(tests.cases), lambda n: self._stdio(tests.cases[n].input, tests.cases[n].output))
        try:
            if isinstance(tests, CallTests):
                return self._each(len(tests.cases), lambda n: self._call(tests, n))
            return self._judged(tests)
        finally:
            self._drop()

    def _each(self, count: int, case: Callable[[int], Result]) -> list[Result]:
        results: list[Result] = []
        while len(results) < count and self._overs < self._budget.overs:
            results.append(case(len(results)))
            self._overs += results[-1].over
        return self._filled(results, count)

    def _filled(self, results: list[Result], count: int) -> list[Result]:
        """With a result for every case that was not run."""
        return [*results, *[Result(False, "not run")] * (count - len(results))]

    def _stdio(self, given: str, expected: str) -> Result:
        guest = self._start("candidate", {"style": "script", "program": self._program}, given.encode())
        printed = guest.output()
        ended = guest.end()
        if ended.reason():
            return Result(False, ended.reason(), over=bool(ended.over))
        try:
            same = same_output(printed.decode(), expected)
        except UnicodeDecodeError:
            return Result(False, "output is not UTF-8")
        return Result(same, "" if same else "no output" if not printed.strip() else "wrong output")

    def _start(self, role: Role, setup: dict[str, Any], stdin: bytes | None = None, cases: int = 1) -> Guest:
        guest = self._box.start(role, setup, self._budget.case, stdin, cases)
        self._watch(guest)
        return guest

    # --- programs that answer calls ---

    def _load(self, setup: dict[str, Any], cases: int) -> Result | None:
        """Have the program loaded in `self._guest`; a failed result if it cannot be, now and whenever it is tried."""
        if self._unloadable is not None or self._guest is not None:
            return self._unloadable
        limits = self._budget.case
        setup = {"program": self._program, "prelude": "", "entry_point": None, "cpu_s_case": limits.cpu_s} | setup
        self._guest = self._start("candidate", setup, cases=cases + 1)
        self._guest.begin()
        self._case_ends = time.monotonic() + limits.wall_s
        line = self._guest.line(self._case_ends)
        if line is None:
            ended = self._guest.end()
            self._drop()
            self._unloadable = Result(False, f"when loaded: {_gone(ended)}", over=bool(ended.over))
        elif "value" not in (message := _message(line)):
            self._drop()
            self._unloadable = Result(False, f"when loaded: raised {word(message.get('as'))}")
        return self._unloadable

    def _drop(self) -> None:
        if self._guest is not None:
            self._guest.end()
            self._guest = None

    def _ask(self, line: bytes) -> bytes | Ended:
        """Send the program a line; its next one, or how it ended."""
        assert self._guest is not None
        heard = self._guest.line(self._case_ends) if self._guest.say(line, self._case_ends) else None
        if heard is not None:
            return heard
        ended = self._guest.end()
        self._guest = None
        return ended

    def _call(self, tests: CallTests, number: int) -> Result:
        case = tests.cases[number]
        try:
            args = [wire.encode(item, wire.no_references) for item in case.input]
        except wire.NotPlain as error:
            return Result(False, f"the test cannot be run: {error}", unfit=True)
        fault = self._load({"style": "call", "entry_point": tests.entry_point}, len(tests.cases))
        if fault is not None:
            return fault
        self._case_ends = time.monotonic() + self._budget.case.wall_s
        request = {"case": number, "do": "call", "target": {"g": tests.entry_point}, "args": args, "named": []}
        heard = self._ask(json.dumps(request).encode() + b"\n")
        if isinstance(heard, Ended):
            return Result(False, _gone(heard), over=bool(heard.over))
        message = _message(heard)
        if "raised" in message:
            return Result(False, f"raised {word(message.get('as'))}")
        try:
            same = bool(returned(message["value"]) == case.output)
        except (KeyError, wire.NotPlain, RecursionError, OverflowError):
            self._drop()
            return Result(False, "returned no plain data")
        return Result(same, "" if same else "wrong result")

    # --- tests that a judge runs ---

    def _judged(self, tests: FunctionTests) -> list[Result]:
        """Results of all tests; a judge that a test has ended is followed by another for the tests after it."""
        results: list[Result] = []
        count = len(tests.tests)
        program = {"style": "function", "prelude": tests.prelude, "entry_point": tests.entry_point}
        while len(results) < count and self._overs < self._budget.overs and self._unloadable is None:
            nonce = secrets.token_hex(16)
            left = list(tests.tests[len(results) :])
            setup = {"prelude": tests.prelude, "entry_point": tests.entry_point, "setup": tests.setup}
            judge = self._start("judge", {**setup, "nonce": nonce, "tests": left}, cases=len(left) + 1)
            try:
                judge.begin()
                results += self._conversation(judge, nonce, program, len(left))
            finally:
                judge.end()
        return self._filled(results, count)

    def _conversation(self, judge: Guest, nonce: str, program: dict[str, Any], count: int) -> list[Result]:
        """Pass on what judge and program say to each other, until the judge says how every test went, or ends."""
        results: list[Result] = []
        gone = Result(False, "ended before it answered")
        wall_s = self._budget.case.wall_s
        while len(results) < count and self._overs < self._budget.overs:
            line = judge.line(time.monotonic() + wall_s)
            if line is None:
                return [*results, self._unjudged(judge.end())]
            message = json.loads(line)  # the judge's own words: it runs nothing of the program's
            if message.get("nonce") != nonce:
                answer = b"gone\n" if self._guest is None else self._ask(line)
                if isinstance(answer, Ended):
                    gone, answer = Result(False, _gone(answer), over=bool(answer.over)), b"gone\n"
                judge.say(answer, time.monotonic() + wall_s)  # a judge that has ended says so by its next line
            elif "begin" in message:
                fault = self._load(program, count)
                if fault is not None:
                    return [*results, *[fault] * (count - len(results))]
                self._case_ends = time.monotonic() + wall_s
            elif "drop" in message:
                gone = Result(False, str(message["drop"]))
                self._drop()
            elif message.get("how") == "gone":
                results.append(gone)
                self._overs += gone.over
            elif "passed" in message:
                passed = message["passed"] is True
                unfit, idle = message.get("unfit") is True, passed and message["asked"] is not True
                results.append(Result(passed, str(message["how"]), unfit=unfit, idle=idle))
        return results

    def _unjudged(self, ended: Ended) -> Result:
        """The judge is gone in the middle of a test: what the program gave it was more than its limits allow.

        Raises Broken where no limit was the reason.
        """
        if not ended.over and ended.status <= 128:
            raise Broken(f"the judge ended by itself ({_last_line(ended)})")
        self._drop()
        self._overs += 1
        return Result(False, f"when the result was looked at: {_gone(ended)}", over=True)


def _gone(ended: Ended) -> str:
    return ended.reason() or "ended before it answered"


def _last_line(ended: Ended) -> str:
    said = ended.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"status {ended.status}: {said[:200]}"


def _message(line: bytes) -> dict[str, Any]:
    """A line from a program: an object, or an empty one for anything else."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}
