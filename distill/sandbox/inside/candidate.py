"""Runs a candidate program: as a script, or as functions that answer a judge's calls.

The program shares this process, so nothing here is secret from it and nothing here decides anything: it sees the
arguments of the calls it gets, and what it sends back is read as plain data elsewhere.
"""

from __future__ import annotations

import _ast
import builtins
import os
import sys
import types
from itertools import islice

from distill.sandbox.inside import confine, names, wire

TYPE_CHECKING = False  # mypy knows this name; importing `typing` would cost every program milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Told = Callable[[], dict[str, Any] | None]


CONTEST_MODULES = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "typing",
)  # fmt: skip
"""What contest sites import for a program (LiveCodeBench's own runner does the same)."""
CONTEST_RECURSION = 50_000


def main() -> None:
    """Entry point: argv[1] is the number of the file with the setup."""
    setup = confine.begin()
    _site_builtins()
    if setup["style"] == "script":
        _script(setup["program"])
    else:
        _functions(setup)


def _site_builtins() -> None:
    """`exit` and `quit`, which programs use and `-S` leaves out."""
    from _sitebuiltins import Quitter

    for name in ("exit", "quit"):
        setattr(builtins, name, Quitter(name, "Ctrl-D (i.e. EOF)"))


def _script(program: str) -> None:
    sys.setrecursionlimit(CONTEST_RECURSION)
    sys.argv = ["answer.py"]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    try:
        code = _compiled(program)
        _contest_names(program, module.__dict__)
        exec(code, module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:  # whatever a program raises is how it ended; the host reads the last line
        _flush()
        _report(f"raised {type(error).__name__}")
        os._exit(1)


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BaseException:  # its stdout may be anything by now
        return


def _report(text: str) -> None:
    try:
        os.write(2, f"\n{text[:200]}\n".encode(errors="replace"))
    except OSError:
        return  # it closed its stderr: no reason is told then


def _compiled(program: str) -> types.CodeType:
    return compile(program, "answer.py", "exec", dont_inherit=True)


def _contest_names(program: str, namespace: dict[str, Any]) -> None:
    """Give a program the standard names it uses without importing them, as contest sites do."""
    tree = names.parse(program)
    missing = {name for name in names.used(tree) - names.bound(tree) if not hasattr(builtins, name)}
    if not missing:
        return
    import importlib

    for module in (importlib.import_module(name) for name in CONTEST_MODULES):
        for name in missing:
            if name in getattr(module, "__all__", dir(module)):
                namespace[name] = getattr(module, name)
    for name in missing.intersection(CONTEST_MODULES):
        namespace[name] = importlib.import_module(name)
    if "datetime" in missing:  # `from datetime import *` comes before `import datetime`
        namespace["datetime"] = importlib.import_module("datetime")


def _functions(setup: dict[str, Any]) -> None:
    import json  # a script does not pay for it

    hear, say = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)

    def tell(message: dict[str, Any]) -> None:
        say.write(json.dumps(message).encode() + b"\n")
        say.flush()

    def told() -> dict[str, Any] | None:
        line = hear.readline()
        return json.loads(line) if line else None

    served = _Served(told, tell, setup["cpu_s_case"])
    if setup["style"] == "call":
        sys.setrecursionlimit(CONTEST_RECURSION)
    served.say(served.attempt(served.load, setup))
    while request := told():
        served.say(served.attempt(served.answer, request))
    os._exit(0)


class _Served:
    """A loaded program and the objects of it that the judge holds references to."""

    def __init__(self, told: Told, say: Callable[[dict[str, Any]], None], cpu_s_case: float) -> None:
        self._told, self.say, self._cpu_s_case = told, say, cpu_s_case
        self._module = types.ModuleType("answer")
        self._namespace = self._module.__dict__
        self._held: list[Any] = []
        self._case: Any = None

    def attempt(self, act: Callable[[dict[str, Any]], Any], message: dict[str, Any]) -> dict[str, Any]:
        """What `act` gives for a message, encoded, or what it raised."""
        try:
            return {"value": wire.encode(act(message), self._refer)}
        except BaseException as error:  # whatever a program raises is its answer
            kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
            return {"raised": kinds, "as": type(error).__name__[:80], "text": _text(error)}

    def load(self, setup: dict[str, Any]) -> None:
        """Run the program's top level. For tests with a prelude, as `distill.text.code_tests` says."""
        sys.modules["answer"] = self._module
        confine.more_cpu(self._cpu_s_case)
        prelude, program, entry_point = setup["prelude"], setup["program"], setup["entry_point"]
        if setup["style"] == "call":
            code = _compiled(program)
            _contest_names(program, self._namespace)
            exec(code, self._namespace)
        elif not prelude.strip() or _defines(program, entry_point):
            whole = _completed(prelude)
            if whole is not None:
                exec(whole, self._namespace)
            exec(_compiled(program), self._namespace)
        else:
            joint = "" if prelude.endswith((" ", "\t", "\n")) else "\n"
            exec(_compiled(prelude + joint + program), self._namespace)

    def answer(self, request: dict[str, Any]) -> Any:
        """Do what the judge asks for."""
        if request.get("case") != self._case:
            self._case = request.get("case")
            confine.more_cpu(self._cpu_s_case)
        target = self._resolve(request["target"])
        do = request["do"]
        if do == "call":
            args = [wire.decode(item, self._resolve) for item in request["args"]]
            named = {name: wire.decode(item, self._resolve) for name, item in request["named"]}
            return target(*args, **named)
        if do == "get":
            return getattr(target, request["name"])
        if do == "set":
            return setattr(target, request["name"], wire.decode(request["value"], self._resolve))
        if do == "item":
            return target[wire.decode(request["key"], self._resolve)]
        if do == "length":
            return len(target)
        if do == "iterate":
            return _Iterator(iter(target))
        if do == "next":
            return list(islice(target.items, request["count"]))
        return target

    def _refer(self, value: Any) -> dict[str, Any]:
        self._held.append(value)
        return {"h": len(self._held) - 1}

    def _resolve(self, reference: dict[str, Any]) -> Any:
        if "h" in reference:
            return self._held[reference["h"]]
        if "j" in reference:
            return lambda *args: self._ask(reference["j"], args)
        if "o" in reference:
            return self._made(*reference["o"])
        first, *rest = reference["g"].split(".")
        if first not in self._namespace:
            raise NameError(f"name {first!r} is not defined")
        found = self._namespace[first]
        if rest and isinstance(found, type):
            found = found()  # `Solution.add` is a method of a new Solution
        for name in rest:
            found = getattr(found, name)
        return found

    def _made(self, name: str, attributes: Any) -> Any:
        """An object of a class that the tests define: of the program's class of that name, where it has one."""
        kind = self._namespace.get(name)
        if not isinstance(kind, type):
            kind = type(name, (), {})
        made: Any = object.__new__(kind)
        made.__dict__.update(wire.decode(attributes, self._resolve))
        return made

    def _ask(self, number: int, args: tuple[Any, ...]) -> Any:
        """Call a function that the judge passed as an argument; its own calls are served meanwhile."""
        self.say({"ask": number, "args": [wire.encode(item, self._refer) for item in args]})
        while message := self._told():
            if "do" not in message:
                if "raised" in message:
                    raise getattr(builtins, message["raised"], ValueError)(message["text"])
                return wire.decode(message["value"], self._resolve)
            self.say(self.attempt(self.answer, message))
        raise EOFError


class _Iterator:
    """An iterator that the judge draws from. No list, tuple or number, so it is always sent as a reference."""

    def __init__(self, items: Any) -> None:
        self.items = items


def _text(error: BaseException) -> str:
    try:
        return str(error)[:1000]
    except BaseException:  # its own __str__ may do anything
        return ""


def _defines(program: str, entry_point: str | None) -> bool:
    """Whether a program stands for itself: it compiles, and defines the function (any, where none is named)."""
    try:
        body = names.parse(program).body
    except (SyntaxError, ValueError):
        return False
    definitions = [name for node in body for name in _defined(node)]
    return entry_point.partition(".")[0] in definitions if entry_point else bool(definitions)


def _defined(node: _ast.stmt) -> set[str]:
    """Names that a statement at the top level defines."""
    if isinstance(node, (_ast.Assign, _ast.AnnAssign)):
        targets = node.targets if isinstance(node, _ast.Assign) else [node.target]
        return {target.id for target in targets if isinstance(target, _ast.Name)}
    return names.binds(node)


def _completed(prelude: str) -> types.CodeType | None:
    """A prelude that may end in an open signature, as a program; None where it is no Python."""
    for end in ("", "\n    pass\n"):
        try:
            return _compiled(prelude + end)
        except (SyntaxError, ValueError):
            continue
    return None
