"""Log-probabilities as servers send them, made into rows whose ids, tail and realised token are known to belong.

N completion tokens, K recorded entries. A row that does not fit its token is absent, never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from distill.core.protocols import TokenLogprobs

LEAST = -103.28
"""Log of the smallest positive float32: what a server's rounded zero (or vLLM's -9999) stands for."""

SLACK = 1e-3
"""How far above one the mass of a row may lie: servers round to single precision, some to four places."""


@dataclass(frozen=True)
class Row:
    """One token as the server reports it; `id` None where it gives a string only. `top` holds (id, log-probability)."""

    id: int | None
    logprob: float | None
    top: tuple[tuple[int, float], ...]


def chat_rows(entries: Sequence[dict[str, Any]]) -> list[Row]:
    """Rows of a chat reply's `logprobs.content` (llama.cpp sends it for completions too)."""
    return [_row(_id(entry), entry.get("logprob"), _top(entry.get("top_logprobs") or ())) for entry in entries]


def completion_rows(logprobs: dict[str, Any]) -> list[Row]:
    """Rows of a completions reply's `logprobs`: parallel lists of tokens, values, and mappings of the top ones."""
    tokens: list[Any] = logprobs["tokens"]
    values = logprobs.get("token_logprobs") or [None] * len(tokens)
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    rows = []
    for token, value, top in zip(tokens, values, tops, strict=True):
        pairs = [(_number(name), number) for name, number in (top or {}).items()]
        rows.append(_row(_number(token), value, [(i, v) for i, v in pairs if i is not None] if _whole(pairs) else ()))
    return rows


def prompt_rows(rows: Sequence[dict[str, Any] | None], ids: Sequence[int]) -> list[Row]:
    """Rows of given tokens, as vLLM's `prompt_logprobs` has them: mappings of id to `{logprob, rank, decoded_token}`.

    The token that stands there is always among them, as an entry more where it is not among the largest.
    """
    found = []
    for row, token in zip(rows, ids, strict=True):
        entries = row if row is not None else {}
        values = {int(i): entry["logprob"] for i, entry in entries.items() if _is_entry(i, entry)}
        whole = len(values) == len(entries)
        found.append(_row(token if token in values else None, values.get(token), list(values.items()) if whole else ()))
    return found


def _is_entry(token: str, entry: Any) -> bool:
    return token.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("logprob"), (int, float))


def _row(token: int | None, value: Any, top: Sequence[tuple[int, float]]) -> Row:
    return Row(token, None if value is None else float(value), tuple((i, float(v)) for i, v in top))


def _top(entries: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    pairs = [(_id(entry), entry["logprob"]) for entry in entries]
    return [(i, v) for i, v in pairs if i is not None] if _whole(pairs) else []


def _whole(pairs: Sequence[tuple[int | None, Any]]) -> bool:
    return all(token is not None for token, _ in pairs)


def _id(entry: dict[str, Any]) -> int | None:
    """llama.cpp's `id`, or vLLM's `token_id:17` in place of the token."""
    given = entry.get("id", entry.get("token_id"))
    return given if isinstance(given, int) else _number(entry.get("token"))


def _number(token: Any) -> int | None:
    if isinstance(token, str) and token.startswith("token_id:") and token[9:].isdigit():
        return int(token[9:])
    return None


def as_logprobs(
    ids: Sequence[int], rows: Sequence[Row] | None, k: int, vocab_size: int | None
) -> tuple[TokenLogprobs | None, str]:
    """The rows of an answer with these ids, or (None, why there are none).

    As many rows as tokens are needed, or which belongs to which is a guess. A row is present where it names its
    token, has K distinct entries and a mass that can be one. vLLM adds the drawn token as an extra rank when it lies
    outside the top K: it is dropped there and kept as `realised`.
    """
    import numpy as np

    if vocab_size is None:
        return None, "the size of the vocabulary is unknown (set `tokenizer`)"
    if rows is None:
        return None, "the server sent none"
    if len(rows) != len(ids):
        return None, f"the server sent {'fewer' if len(rows) < len(ids) else 'more'} rows than tokens"
    n, k = len(ids), min(k, vocab_size)
    ids_NK = np.tile(np.arange(k, dtype=np.int32), (n, 1))
    top_NK = np.zeros((n, k), np.float32)
    tail_N, realised_N, present_N = np.zeros(n, np.float32), np.zeros(n, np.float32), np.zeros(n, np.bool_)
    for j, (token, row) in enumerate(zip(ids, rows, strict=True)):
        top = _best(row, k)
        if row.id != token or row.logprob is None or top is None or max(i for i, _ in top) >= vocab_size:
            continue
        values = [value for _, value in top]
        tail = _tail(values, vocab_size)
        if tail is None or row.logprob > SLACK:
            continue
        ids_NK[j] = [i for i, _ in top]
        top_NK[j] = values
        tail_N[j], realised_N[j], present_N[j] = tail, min(0.0, max(row.logprob, LEAST)), True
    if not present_N.any():
        return None, "no row of the server names its token and its top entries by id"
    return TokenLogprobs(ids_NK, top_NK, tail_N, realised_N, present_N), ""


def _best(row: Row, k: int) -> list[tuple[int, float]] | None:
    """The K most probable distinct entries, ties by id; None if there are fewer or one comes twice with two values."""
    found: dict[int, float] = {}
    for token, value in row.top:
        value = max(value, LEAST)
        if math.isnan(value) or found.setdefault(token, value) != value:
            return None
    best = sorted(found.items(), key=lambda entry: (-entry[1], entry[0]))[:k]
    return best if len(best) == k else None


def _tail(logprobs: Sequence[float], vocab_size: int) -> float | None:
    """Log of the mass outside the entries: one minus theirs, and no more than if each outside had the smallest.

    None if the entries alone have more than one.
    """
    left = 1.0 - math.fsum(math.exp(value) for value in logprobs)
    if left < -SLACK:
        return None
    outside = vocab_size - len(logprobs)
    if outside == 0:
        return -math.inf
    most = math.log(outside) + min(logprobs)
    return min(math.log(left), most) if left > 0 else most
