"""JSON Lines, plain or compressed (.gz, .zst): every fault names its file and line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from distill.core.errors import DistillError


def read(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, row). Blank lines are passed over.

    Raises DistillError for a missing file, a line that is not JSON, or a row that is not an object.
    """
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, parse(line, f"{path}:{number}")


@contextmanager
def open_text(path: Path, encoding: str = "utf-8", newline: str | None = None) -> Iterator[IO[str]]:
    """A text file, decompressed where its name ends in .gz or .zst.

    Raises DistillError if it is not there, cannot be decompressed or is not text, also while it is read.
    """
    if not path.is_file():
        raise DistillError(f"{path}: no such file")
    try:
        with _opened(path, encoding, newline) as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DistillError(f"{path}: cannot be decompressed ({error})") from error
    except UnicodeDecodeError as error:
        raise DistillError(f"{path}: is not UTF-8 text ({error})") from error
    except OSError as error:
        raise DistillError(f"{path}: cannot be read ({error})") from error


def field(row: dict[str, Any], name: str, where: str) -> Any:
    """The value of a field; dots go into nested objects (`a.b`), unless a field has that very name.

    Raises DistillError, starting with `where` (file and line), if it is not there.
    """
    value: Any = row
    if name in row:
        return row[name]
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            there = ", ".join(f"`{key}`" for key in row) or "none"
            raise DistillError(f"{where}: no field `{name}`; there are {there}")
        value = value[part]
    return value


def text(row: dict[str, Any], name: str, where: str) -> str | None:
    """A field as text: numbers as they are written, null as None. Raises DistillError for lists, objects, booleans."""
    value = field(row, name, where)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise DistillError(f"{where}: `{name}` is neither text nor a number: {json.dumps(value, default=str)[:80]}")
    return str(value)


def parse(line: str, where: str) -> dict[str, Any]:
    """One line as a row. Raises DistillError, starting with `where`, for what is not JSON or no object."""
    try:
        row = json.loads(line)
        if r"\ud" in line.lower():  # half a character, which no file in UTF-8 can hold, becomes a question mark
            row = json.loads(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
    except json.JSONDecodeError as error:
        raise DistillError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, brackets without end
        raise DistillError(f"{where}: not JSON that can be read ({error})") from None
    if not isinstance(row, dict):
        raise DistillError(f"{where}: a row is an object with named fields; got {line.strip()[:60]}")
    return row


def _opened(path: Path, encoding: str, newline: str | None) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline=newline)
    if path.suffix == ".zst":
        import pyarrow as pa

        return io.TextIOWrapper(pa.input_stream(str(path), compression="zstd"), encoding=encoding, newline=newline)
    return path.open(encoding=encoding, newline=newline)
