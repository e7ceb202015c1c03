"""Teacher and student side by side, from their tokenizers alone: can logits be matched, or only text be learned?

Matching compares probabilities id by id, so every id that both know must stand for the same bytes. How many rows a head
has beyond its tokenizer (151,936 and 152,064 of the Qwen family) and how the file is written say nothing about that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from distill.core.errors import DistillError
from distill.core.fingerprint import chat_template, tokenizer_fingerprint
from distill.text.chat import PROBES
from distill.text.think import CLOSE, OPEN


@dataclass(frozen=True)
class Entry:
    """What an id stands for. `special`: a control token, which no text gives."""

    text: bytes
    special: bool


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer as a table, with what its folder says of the model around it."""

    name: str
    entries: Mapping[int, Entry]
    rows: int
    """Rows of the output head, padding included; the entries' number where no config.json says it."""
    eos: frozenset[int]
    context: int | None
    template: str | None
    fingerprint: str | None
    probe_ids: tuple[tuple[int, ...], ...]
    """Ids of `distill.text.chat.PROBES`: how it splits text."""


@dataclass(frozen=True)
class Verdict:
    """Whether a teacher's logits can be matched by a student. `why` is empty where they can."""

    why: str
    notes: tuple[str, ...] = ()
    facts: tuple[dict[str, Any], ...] = field(default=(), repr=False)
    """A table: what, the teacher's, the student's."""

    @property
    def kl_possible(self) -> bool:
        """True: logits can be matched."""
        return not self.why

    def __str__(self) -> str:
        return "KL possible" if self.kl_possible else f"SFT only, because {self.why}"


def compare(teacher: Path, student: Path) -> Verdict:
    """The verdict on two model folders. Reads tokenizer and configuration files, no weights.

    Raises DistillError if one has no readable `tokenizer.json`.
    """
    return judge(read(teacher), read(student))


def judge(teacher: Vocabulary, student: Vocabulary) -> Verdict:
    """The verdict on two vocabularies: ids that both have, ids that only the teacher has, and what differs besides."""
    shared = sorted(set(teacher.entries) & set(student.entries))
    differing = [token for token in shared if teacher.entries[token] != student.entries[token]]
    missing = sorted(set(teacher.entries) - set(student.entries))
    notes = []
    if differing:
        texts = [token for token in differing if teacher.entries[token].text != student.entries[token].text]
        first = (texts or differing)[0]
        theirs, own = _shown(teacher.entries[first]), _shown(student.entries[first])
        why = f"{len(differing):,} of {len(shared):,} ids mean something else: id {first} is {theirs}, here {own}"
    elif not shared:
        why = "no id is in both vocabularies"
    elif missing and any(teacher.entries[token].text.decode(errors="replace") in (OPEN, CLOSE) for token in missing):
        why = (
            f"the teacher's think tags are tokens that the student does not have (ids {missing[0]} to {missing[-1]}); "
            "with `student.think_tokens: spare-ids` it takes them over where it has spare rows"
        )
    elif missing and missing[-1] >= student.rows:
        why = f"the teacher's id {missing[-1]} is beyond the student's head of {student.rows:,} rows"
    else:
        why = ""
    if missing and not why:
        notes.append(f"{len(missing):,} ids are the teacher's alone; a trace that holds one trains from its text")
    if teacher.rows != student.rows:
        notes.append("the heads have different numbers of rows: the smaller one counts, the rest is padding")
    splits = sum(a != b for a, b in zip(teacher.probe_ids, student.probe_ids, strict=True))
    if splits and not why:
        notes.append(f"they split {splits} of {len(PROBES)} probe texts differently: only ids as drawn can be matched")
    if teacher.eos != student.eos:
        notes.append(f"they stop at other tokens ({_listed(teacher)} and {_listed(student)}): the student's end a row")
    if teacher.template != student.template:
        notes.append("their chat templates differ: `student.template: teacher` takes the teacher's")
    if teacher.context is not None and student.context is not None and student.context < teacher.context:
        notes.append(f"rows over the student's context of {student.context:,} tokens are dropped and counted")
    return Verdict(why, tuple(notes), _facts(teacher, student))


def _shown(entry: Entry) -> str:
    return f"{entry.text.decode(errors='replace')!r}{' (special)' if entry.special else ''}"


def _listed(vocabulary: Vocabulary) -> str:
    names = [
        vocabulary.entries[token].text.decode(errors="replace") if token in vocabulary.entries else str(token)
        for token in sorted(vocabulary.eos)
    ]
    return ", ".join(names) or "none"


def _facts(teacher: Vocabulary, student: Vocabulary) -> tuple[dict[str, Any], ...]:
    both = (teacher, student)
    lines: dict[str, list[Any]] = {
        "model": [one.name for one in both],
        "tokens": [len(one.entries) for one in both],
        "rows of the head": [one.rows for one in both],
        "special tokens": [sum(entry.special for entry in one.entries.values()) for one in both],
        "stops at": [_listed(one) for one in both],
        "context": [one.context if one.context is not None else "-" for one in both],
        "template": ["-" if one.template is None else f"{len(one.template):,} characters" for one in both],
    }
    return tuple({"": what, "teacher": values[0], "student": values[1]} for what, values in lines.items())


def read(folder: Path) -> Vocabulary:
    """The vocabulary of a model folder. Raises DistillError if its `tokenizer.json` is missing or cannot be read."""
    if not (folder / "tokenizer.json").is_file():
        raise DistillError(f"{folder}: no tokenizer.json there; write one with AutoTokenizer's save_pretrained")
    names = ("tokenizer.json", "tokenizer_config.json", "config.json", "generation_config.json", "chat_template.jinja")
    stats = ((folder / name).stat() for name in names if (folder / name).exists())
    return _read(folder, tuple((about.st_mtime_ns, about.st_size) for about in stats))


@lru_cache(maxsize=8)
def _read(folder: Path, _stamp: tuple[tuple[int, int], ...]) -> Vocabulary:
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare Exceptions for a file that it cannot read
        raise DistillError(f"{path}: cannot be read as a tokenizer ({' '.join(str(error).split())[:200]})") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    config = _json(folder / "config.json")
    config = config.get("text_config", config)
    generation = _json(folder / "generation_config.json")
    entries = _entries(content, tokenizer.get_vocab(with_added_tokens=True))
    return Vocabulary(
        name=folder.name,
        entries=entries,
        rows=int(config.get("vocab_size") or max(entries, default=-1) + 1),
        eos=_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
        context=config.get("max_position_embeddings"),
        template=chat_template(folder),
        fingerprint=tokenizer_fingerprint(folder),
        probe_ids=tuple(tuple(tokenizer.encode(text, add_special_tokens=False).ids) for text in PROBES),
    )


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _ids(value: Any) -> frozenset[int]:
    return frozenset() if value is None else frozenset({value} if isinstance(value, int) else value)


def _entries(content: Mapping[str, Any], vocabulary: Mapping[str, int]) -> dict[int, Entry]:
    """Every id's bytes. An added token stands for its text as written; a piece is read by the file's own decoder."""
    added = {token["id"]: token for token in content.get("added_tokens") or ()}
    kinds = _kinds(content.get("decoder")) | _kinds(content.get("pre_tokenizer"))
    kinds |= {"ByteFallback"} if content["model"].get("byte_fallback") else set()
    entries: dict[int, Entry] = {}
    for piece, token in vocabulary.items():
        if token in added:
            entries[token] = Entry(added[token]["content"].encode(), bool(added[token].get("special")))
        else:
            entries[token] = Entry(_bytes(piece, kinds), special=False)
    return entries


def _kinds(part: Any) -> set[str]:
    """Types of a pre-tokenizer or decoder and of all that it is a sequence of."""
    if not isinstance(part, dict):
        return set()
    inner = [*(part.get("decoders") or ()), *(part.get("pretokenizers") or ())]
    return {str(part.get("type")), *(kind for one in inner for kind in _kinds(one))}


def _bytes(piece: str, kinds: set[str]) -> bytes:
    if "ByteLevel" in kinds:
        table = _byte_table()
        return bytes(table[c] for c in piece) if all(c in table for c in piece) else piece.encode()
    if "ByteFallback" in kinds and len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace("\u2581", " ").encode()


@lru_cache(maxsize=1)
def _byte_table() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, encoder.py, bytes_to_unicode)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(rest)}
