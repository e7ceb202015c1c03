"""Runs hidden tests in which the candidate's functions are stand-ins: calls go to the candidate's process and back.

Tests see plain data (`wire`), so nothing of the candidate's can read them, change them or take part in a comparison.
What is no plain data (a generator, an object of the candidate's class) is a `Remote`: attributes, items, length,
iteration and calls go to its process; it equals nothing but itself. Arguments are sent by value, objects of the tests'
own classes with their attributes: what a candidate does to them is not seen. Exceptions come back as the nearest
built-in kind. Names that tests use and nobody defines are the candidate's, unless they name a standard module.
"""

from __future__ import annotations

import _ast
import builtins
import json
import os
import sys

from distill.sandbox.inside import confine, names, wire

TYPE_CHECKING = False  # mypy knows this name; importing `typing` would cost every program milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

TESTS = "tests"
"""Module of what the tests define."""
BATCH = 64
"""Items fetched from a remote iterator at a time, at most."""
MOST_REPLIES = 200_000
"""Messages that one test may cost: an endless iterator ends there."""
MOST_BYTES = 64 << 20
"""What a program may send back in one test."""


class Gone(BaseException):
    """The candidate's process will not answer. No test can catch it by `except Exception`."""


class Unsendable(BaseException):
    """A test passes what cannot be sent: a fault of the test."""


def main() -> None:
    """Entry point: argv[1] is the number of the file with the setup."""
    setup = confine.begin()
    hear, say = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1):
        os.dup2(nowhere, number)
    link = _Link(hear, say, setup["nonce"])
    for number, source in enumerate(setup["tests"]):
        link.case(number)
        outcome = _outcome(link, setup, source)
        link.tell({"case": number, **outcome})
    link.tell({"done": True})
    os._exit(0)


def _outcome(link: _Link, setup: dict[str, Any], source: str) -> dict[str, Any]:
    """Run one test. `passed` only where it ran to its end and the candidate answered all it was asked."""
    try:
        code = compile(source, "<test>", "exec", dont_inherit=True)
        namespace = _namespace(link, setup, source)
        exec(compile(setup["setup"], "<setup>", "exec", dont_inherit=True), namespace)
        exec(code, namespace)
    except Gone:
        return {"passed": False, "how": "gone"}
    except Unsendable as error:
        return {"passed": False, "how": f"the tests cannot be run: {error}", "unfit": True}
    except BaseException as error:  # a failed test raises: an assertion, or whatever the candidate raised
        if link.gone:
            return {"passed": False, "how": "gone"}
        if error is link.raised:
            return {"passed": False, "how": f"raised {link.raised_as}"}
        if isinstance(error, MemoryError):
            os._exit(128 + 9)  # no room to judge: as if killed for it
        if isinstance(error, ImportError) or not link.asked:
            return {
                "passed": False,
                "how": f"the tests cannot be run: {type(error).__name__}: {error}"[:200],
                "unfit": True,
            }
        return {"passed": False, "how": _failure(error, source)}
    if link.gone:
        return {"passed": False, "how": "gone"}
    return {"passed": True, "how": "", "asked": link.asked > 0}


def _failure(error: BaseException, source: str) -> str:
    if not isinstance(error, AssertionError):
        return f"the result cannot be used ({type(error).__name__})"
    asserts = sorted({node.lineno for node in names.walk(names.parse(source)) if isinstance(node, _ast.Assert)})
    trace, line = error.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<test>":
            line = trace.tb_lineno
        trace = trace.tb_next
    if len(asserts) < 2:
        return "wrong result"
    return f"wrong result at assertion {sum(place <= line for place in asserts)} of {len(asserts)}"


def _namespace(link: _Link, setup: dict[str, Any], source: str) -> dict[str, Any]:
    """What a test starts with: the prelude's helpers (never the candidate's version of them) and the stand-ins."""
    namespace: dict[str, Any] = {"__name__": TESTS}
    prelude, entry_point = setup["prelude"], setup["entry_point"]
    for end in ("", "\n    pass\n"):
        try:
            exec(compile(prelude + end, "<prelude>", "exec", dont_inherit=True), namespace)
            break
        except (SyntaxError, ValueError):
            continue
        except Exception:  # a prelude that fails by itself defines what came before; the rest is asked of the candidate
            break
    if entry_point is not None:
        namespace[entry_point.partition(".")[0]] = Remote(link, {"g": entry_point.partition(".")[0]})
    text = setup["setup"] + "\n" + source
    for name, module in _free(text, namespace, entry_point):
        namespace[name] = __import__(name) if module else Remote(link, {"g": name})
    return namespace


def _free(text: str, namespace: dict[str, Any], entry_point: str | None) -> Iterator[tuple[str, bool]]:
    """Names that the tests use and nobody defines; whether each is a standard module's."""
    tree = names.parse(text)
    nodes = list(names.walk(tree))
    bases = {id(node.value) for node in nodes if isinstance(node, _ast.Attribute)}
    uses = [node for node in nodes if isinstance(node, _ast.Name) and isinstance(node.ctx, _ast.Load)]
    found = False
    for name in sorted(names.used(tree) - names.bound(tree) - set(namespace)):
        if hasattr(builtins, name):
            continue
        module = name in sys.stdlib_module_names and all(id(node) in bases for node in uses if node.id == name)
        found = found or not module
        yield name, module
    if entry_point is None and not found:  # only built-in names: the function under test replaces one of them
        first = next((node.func for node in nodes if isinstance(node, _ast.Call)), None)
        if isinstance(first, _ast.Name):
            yield first.id, False


class _Link:
    """The judge's end of the conversation with the candidate, which the host passes on."""

    def __init__(self, hear: Any, say: Any, nonce: str) -> None:
        self._hear, self._say, self._nonce = hear, say, nonce
        self._functions: list[Any] = []
        self._case = 0
        self.gone = False
        self.asked = 0
        self.raised: BaseException | None = None
        self.raised_as = ""
        self._bytes = 0

    def case(self, number: int) -> None:
        """A new test begins; the host starts the candidate anew if the last one ended it."""
        self._case, self.gone, self.asked, self._bytes = number, False, 0, 0
        self.raised, self.raised_as = None, ""
        self._functions.clear()
        self.tell({"begin": number})

    def tell(self, message: dict[str, Any]) -> None:
        """Say something to the host itself."""
        self._write({"nonce": self._nonce, **message})

    def request(self, do: str, target: dict[str, Any], **more: Any) -> Any:
        """Ask the candidate's process for something and wait for it."""
        if self.gone:
            raise Gone
        self.asked += 1
        if self.asked > MOST_REPLIES:
            self._give_up("asked for too many items")
        self._write({"case": self._case, "do": do, "target": target, **more})
        while True:
            message = self._read()
            if "ask" in message:
                self._write(self._asked(message))
            elif "raised" in message:
                raise self._exception(message)
            elif "value" in message:
                return self._value(message["value"])
            else:
                self._give_up("answered nonsense")

    def encode(self, value: Any) -> Any:
        """An argument, for the candidate."""
        try:
            return wire.encode(value, self._refer)
        except (wire.NotPlain, RecursionError) as error:
            raise Unsendable(str(error)) from None

    def _refer(self, value: Any) -> dict[str, Any]:
        if isinstance(value, Remote):
            return dict(object.__getattribute__(value, "_target"))
        if callable(value) and not isinstance(value, type):
            self._functions.append(value)
            return {"j": len(self._functions) - 1}
        if hasattr(value, "__next__"):
            return {"I": [wire.encode(item, self._refer) for item in value]}
        if type(value).__module__ == TESTS and hasattr(value, "__dict__"):
            return {"o": [type(value).__name__, wire.encode(vars(value), self._refer)]}
        raise wire.NotPlain(f"it passes a {type(value).__name__}")

    def _value(self, data: Any) -> Any:
        try:
            return wire.decode(data, lambda reference: Remote(self, reference))
        except (wire.NotPlain, RecursionError, OverflowError):
            self._give_up("answered nonsense")

    def _asked(self, message: dict[str, Any]) -> dict[str, Any]:
        """The candidate calls a function that a test passed to it."""
        try:
            function = self._functions[message["ask"]]
            args = [self._value(item) for item in message["args"]]
        except (LookupError, TypeError):
            self._give_up("answered nonsense")
        try:
            return {"value": self.encode(function(*args))}
        except Exception as error:  # the function's own way to answer
            return {"raised": type(error).__name__, "text": str(error)[:200]}

    def _exception(self, message: dict[str, Any]) -> BaseException:
        kinds = message["raised"] if isinstance(message["raised"], list) else []
        text = str(message.get("text", ""))
        kind: type[Exception] = Exception
        for name in kinds:
            found = getattr(builtins, name, None) if isinstance(name, str) else None
            if isinstance(found, type) and issubclass(found, Exception):
                kind = found
                break
        if issubclass(kind, (StopIteration, StopAsyncIteration)):  # would end a loop of the test's, quietly
            kind = RuntimeError
        try:
            error: BaseException = kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more
            error = ValueError(text)
        said = message.get("as")
        fit = isinstance(said, str) and said.isidentifier() and said.isascii()
        self.raised, self.raised_as = error, str(said) if fit else kind.__name__
        return error

    def _give_up(self, why: str) -> Any:
        self.gone = True
        self.tell({"drop": why})
        raise Gone

    def _read(self) -> dict[str, Any]:
        line = self._hear.readline()
        self._bytes += len(line)
        if not line:
            os._exit(1)  # the host is gone
        if line == b"gone\n":
            self.gone = True
            raise Gone
        if self._bytes > MOST_BYTES:
            self._give_up("sent back too much")
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            message = None
        return message if isinstance(message, dict) else {}

    def _write(self, message: dict[str, Any]) -> None:
        self._say.write(json.dumps(message).encode() + b"\n")
        self._say.flush()


class Remote:
    """Stands for something in the candidate's process. Compared by identity: it has no say in a test."""

    __slots__ = ("_link", "_target")

    def __init__(self, link: _Link, target: dict[str, Any]) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_target", target)

    def __call__(self, *args: Any, **named: Any) -> Any:
        link: _Link = object.__getattribute__(self, "_link")
        given = [link.encode(item) for item in args]
        return _ask(self, "call", args=given, named=[[name, link.encode(item)] for name, item in named.items()])

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _ask(self, "get", name=name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name=name, value=object.__getattribute__(self, "_link").encode(value))

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "item", key=object.__getattribute__(self, "_link").encode(key))

    def __len__(self) -> int:
        length = _ask(self, "length")
        return length if isinstance(length, int) else 0

    def __bool__(self) -> bool:
        return True

    def __iter__(self) -> Iterator[Any]:
        items = _ask(self, "iterate")
        if not isinstance(items, Remote):
            object.__getattribute__(self, "_link")._give_up("answered nonsense")
        count = 1
        while True:
            batch = _ask(items, "next", count=count)
            if not isinstance(batch, list) or len(batch) > count:
                object.__getattribute__(self, "_link")._give_up("answered nonsense")
            yield from batch
            if len(batch) < count:
                return
            count = min(2 * count, BATCH)

    def __next__(self) -> Any:
        for item in self:
            return item
        raise StopIteration


def _ask(remote: Remote, do: str, **more: Any) -> Any:
    link: _Link = object.__getattribute__(remote, "_link")
    return link.request(do, object.__getattribute__(remote, "_target"), **more)
