"""Names in a Python source: which it uses, which it binds. Reads syntax, runs nothing, imports next to nothing."""

from __future__ import annotations

import _ast

TYPE_CHECKING = False  # mypy knows this name; importing `typing` would cost every program milliseconds
if TYPE_CHECKING:
    from collections.abc import Iterator

ONLY_SYNTAX = 0x400
"""`ast.PyCF_ONLY_AST`, without the cost of importing `ast`."""


def parse(source: str) -> _ast.Module:
    """The syntax tree. Raises SyntaxError, ValueError, RecursionError or MemoryError for what is no Python."""
    tree = compile(source, "<source>", "exec", ONLY_SYNTAX, dont_inherit=True)
    assert isinstance(tree, _ast.Module)
    return tree


def walk(node: _ast.AST) -> Iterator[_ast.AST]:
    """All nodes, a level at a time."""
    level = [node]
    while level:
        yield from level
        below = [getattr(each, name, None) for each in level for name in each._fields]
        flat = [item for value in below for item in (value if isinstance(value, list) else [value])]
        level = [item for item in flat if isinstance(item, _ast.AST)]


def used(tree: _ast.AST) -> set[str]:
    """Names that are read."""
    return {node.id for node in walk(tree) if isinstance(node, _ast.Name) and isinstance(node.ctx, _ast.Load)}


def bound(tree: _ast.AST) -> set[str]:
    """Names that are assigned, imported, defined or taken as parameters, wherever in the source."""
    found: set[str] = set()
    for node in walk(tree):
        found |= binds(node)
    return found


def binds(node: _ast.AST) -> set[str]:
    """Names that one node binds itself."""
    if isinstance(node, _ast.Name):
        return set() if isinstance(node.ctx, _ast.Load) else {node.id}
    if isinstance(node, (_ast.Import, _ast.ImportFrom)):
        return {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    if isinstance(node, (_ast.FunctionDef, _ast.AsyncFunctionDef, _ast.ClassDef)):
        return {node.name}
    if isinstance(node, _ast.arg):
        return {node.arg}
    if isinstance(node, _ast.ExceptHandler):
        return {node.name} if node.name else set()
    if isinstance(node, (_ast.MatchAs, _ast.MatchStar)):
        return {node.name} if node.name else set()
    if isinstance(node, _ast.MatchMapping):
        return {node.rest} if node.rest else set()
    return set()
