"""What the fault server answers: sums with reasoning, a function of (messages, seed) alone, in any dialect.

A question reads "What is 17 + 25?". Most answers are right, the others say one more; each carries some of a fixed text
as its reasoning. A token is four characters.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

TOKEN_CHARS = 4
FINISHED: Literal["stop"] = "stop"
CUT: Literal["length"] = "length"

INLINE = {
    "inline": ("<think>", "</think>", ""),
    "prefilled": ("", "</think>", ""),
    "r1_zero": ("<think>", "</think> <answer>", "</answer>"),
    "harmony": (
        "<|channel|>analysis<|message|>",
        "<|end|><|start|>assistant<|channel|>final<|message|>",
        "<|return|>",
    ),
    "kimi": ("◁think▷", "◁/think▷", ""),
    "none": None,
}
"""Reasoning inside the text: what stands before it, between it and the answer, and at the end."""

FIELDS = ("reasoning_content", "reasoning", "both", "both_differ", "details", "parts", "thinking_blocks", "hidden")
"""Reasoning beside the text: in one field, in two (equal, or not), as parts or blocks, or only counted."""

DIALECTS = (*INLINE, *FIELDS)


def draw(*parts: Any) -> float:
    """A number in [0, 1) that depends on the parts alone."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest(), "big") / 2**56


def _filler() -> str:
    """Text about as varied as writing, not ASCII alone: pieces of it may end inside characters."""
    rng = random.Random(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(2000)] + ["—", "½", "für", "∑", "和"]
    weights = [1 / (rank + 10) for rank in range(len(words) - 5)] + [0.004] * 5
    return " ".join(rng.choices(words, weights, k=40_000))


FILLER = _filler()


@dataclass(frozen=True)
class Answer:
    """One answer before it is put into a dialect. `answer` None: cut at the limit while still thinking."""

    reasoning: str | None
    answer: str | None
    finish_reason: Literal["stop", "length"]
    prompt_tokens: int
    completion_tokens: int

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the reasoning."""
        return tokens(self.reasoning or "")


def tokens(text: str) -> int:
    """How many tokens a text has."""
    return -(-len(text) // TOKEN_CHARS)


def think(
    question: str, seed: int | None, limit: int | None, *, right: float, thought_chars: int, dialect: str
) -> Answer:
    """The answer to a question with a seed; `right` is the share of right answers, the same for every dialect."""
    numbers = [int(digits) for digits in re.findall(r"\d+", question)]
    value = sum(numbers) + (draw("right", question, seed) >= right)
    start = int(draw("thought", question, seed) * (len(FILLER) - thought_chars - 1))
    reasoning = f"Adding {numbers} with seed {seed}: {FILLER[start : start + thought_chars]}, so {value}."
    answer = f"The sum is \\boxed{{{value}}}."
    prompt_tokens = tokens(question)
    if dialect == "none":
        reasoning, answer = "", f"{reasoning} {answer}"
    length = tokens(reasoning) + tokens(answer)
    if limit is None or length <= limit:
        return Answer(reasoning or None, answer, FINISHED, prompt_tokens, length)
    room = limit * TOKEN_CHARS
    if len(reasoning) >= room:
        return Answer(reasoning[:room], None, CUT, prompt_tokens, limit)
    return Answer(reasoning or None, answer[: (limit - tokens(reasoning)) * TOKEN_CHARS], CUT, prompt_tokens, limit)


def text_of(answer: Answer, dialect: str) -> str:
    """The raw text of an answer, as a completion (or a chat server without a reasoning parser) gives it."""
    marks = INLINE.get(dialect, INLINE["inline"])
    if marks is None or answer.reasoning is None:
        return answer.answer or ""
    before, between, after = marks
    if answer.answer is None:
        return f"{before}{answer.reasoning}"
    return f"{before}{answer.reasoning}{between}{answer.answer}{after if answer.finish_reason == FINISHED else ''}"


def distribution(ids: Sequence[int], vocab: int) -> list[float]:
    """Log-probabilities of what follows these ids: a function of the last few of them, peaked at some, with ties."""
    rng = random.Random(repr(tuple(ids[-6:])))
    logits = [float(round(rng.gauss(0.0, 2.5))) for _ in range(vocab)]
    most = math.log(math.fsum(math.exp(value) for value in logits))
    return [value - most for value in logits]


def prompt_logprobs(ids: Sequence[int], k: int, vocab: int) -> list[dict[str, Any] | None]:
    """Rows of a prompt as vLLM sends them: the k largest in order, and the token that stands there if it is none."""
    rows: list[dict[str, Any] | None] = [None]
    for j in range(1, len(ids)):
        values = distribution(ids[:j], vocab)
        order = sorted(range(vocab), key=lambda i: -values[i])
        shown = order[:k] if ids[j] in order[:k] else [ids[j], *order[:k]]
        rows.append({
            str(i): {"logprob": values[i], "rank": order.index(i) + 1, "decoded_token": f"<{i}>"} for i in shown
        })  # fmt: skip
    return rows


def message_of(answer: Answer, dialect: str) -> dict[str, Any]:
    """An answer as the `message` of a chat reply."""
    message: dict[str, Any] = {"role": "assistant"}
    if dialect in INLINE:
        return message | {"content": text_of(answer, dialect)}
    reasoning, content = answer.reasoning, answer.answer
    match dialect:
        case "reasoning_content" | "reasoning":
            return message | {"content": content, dialect: reasoning}
        case "both":
            return message | {"content": content, "reasoning": reasoning, "reasoning_content": reasoning}
        case "both_differ":
            return message | {"content": content, "reasoning": reasoning, "reasoning_content": f"not {reasoning}"}
        case "details":
            details = [{"type": "reasoning.text", "text": reasoning, "format": "unknown", "index": 0}]
            return message | {"content": content, "reasoning": reasoning, "reasoning_details": details}
        case "parts":
            parts = [{"type": "thinking", "thinking": [{"type": "text", "text": reasoning}]}]
            return message | {"content": parts + ([{"type": "text", "text": content}] if content is not None else [])}
        case "thinking_blocks":
            blocks = [{"type": "thinking", "thinking": reasoning, "signature": "c2lnbmF0dXJl"}]
            return message | {"content": content, "thinking_blocks": blocks}
        case "hidden":
            return message | {"content": content or ""}
    raise ValueError(f"no dialect {dialect!r}; known: {', '.join(DIALECTS)}")


def usage_of(answer: Answer, dialect: str) -> dict[str, Any]:
    """The `usage` of a reply; only hidden reasoning is counted apart."""
    total = answer.prompt_tokens + answer.completion_tokens
    usage: dict[str, Any] = {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": total,
    }
    if dialect == "hidden":
        usage["completion_tokens_details"] = {"reasoning_tokens": answer.reasoning_tokens}
    return usage


def deltas(answer: Answer, dialect: str, chars: int) -> list[dict[str, Any]]:
    """The `delta`s of a streamed chat reply: each field of the message, in the order it is thought, piece by piece."""
    message = message_of(answer, dialect)
    pieces: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    content = message.pop("content")
    fields = {key: value for key, value in message.items() if isinstance(value, str) and key != "role"}
    if fields:
        longest = max(len(value) for value in fields.values())
        for start in range(0, longest, chars):
            pieces.append({key: value[start : start + chars] for key, value in fields.items() if value[start:]})
    for block in message.get("thinking_blocks", ()):
        for piece in _pieces(block["thinking"], chars):
            pieces.append({"thinking_blocks": [{"type": "thinking", "thinking": piece}]})
    if isinstance(content, list):
        for part in content:
            if part["type"] == "thinking":
                for piece in _pieces(part["thinking"][0]["text"], chars):
                    thinking = [{"type": "thinking", "thinking": [{"type": "text", "text": piece}]}]
                    pieces.append({"content": thinking})
            else:
                pieces.extend({"content": [{"type": "text", "text": piece}]} for piece in _pieces(part["text"], chars))
    else:
        pieces.extend({"content": piece} for piece in _pieces(content or "", chars))
    return pieces


def _pieces(text: str, chars: int) -> list[str]:
    return [text[start : start + chars] for start in range(0, len(text), chars)]


def dumps(value: Any) -> bytes:
    """JSON as servers write it."""
    return json.dumps(value, ensure_ascii=False).encode()
