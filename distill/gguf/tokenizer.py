"""A Hugging Face tokenizer as GGUF's header holds it: pieces, types, merges, ids that start and stop, chat template.

The pre-tokenizer's name is chosen by the structure of tokenizer.json, never by hashing a few ids, and an unknown
structure is refused: a near miss tokenises almost everything right and the rest silently wrong.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from distill.core.errors import DistillError
from distill.core.fingerprint import chat_template

QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3_SPLIT = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

BYTE_LEVEL_SPLITS = {
    ("regex", QWEN2_SPLIT, False): "qwen2",
    ("regex", LLAMA3_SPLIT, True): "llama-bpe",
    ("regex", LLAMA3_SPLIT, False): "smaug-bpe",
    ("gpt-2", "", False): "gpt-2",
    ("digits, gpt-2", "", False): "smollm",
}
"""Kind of splitting, its regex, `ignore_merges`: llama.cpp's name for exactly that."""

UNKNOWN_SPLIT = (
    "llama.cpp has no pre-tokenizer known here for {what}; export `safetensors`, or give this model one of the known "
    f"splits ({', '.join(sorted(set(BYTE_LEVEL_SPLITS.values())))})"
)


@dataclass(frozen=True)
class Vocabulary:
    """What the header's `tokenizer.*` keys say."""

    model: str
    """`gpt2` (byte-level BPE) or `llama` (SentencePiece with byte fallback)."""
    pre: str
    pieces: list[str]
    kinds: list[TokenType]
    merges: list[str]
    scores: list[float] | None
    bos: int
    eos: int
    stops: tuple[int, ...]
    """Every id that ends an answer, `eos` first."""
    pad: int | None
    unk: int | None
    add_bos: bool
    add_eos: bool
    add_space_prefix: bool
    template: str | None
    notes: tuple[str, ...] = field(default=())

    def write(self, writer: GGUFWriter) -> None:
        """Write the keys."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.pieces)
        writer.add_token_types(self.kinds)
        if self.scores is not None:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        writer.add_bos_token_id(self.bos)
        writer.add_eos_token_id(self.eos)
        for add, stop in zip((writer.add_eot_token_id, writer.add_eom_token_id), self.stops[1:], strict=False):
            add(stop)
        if self.pad is not None:
            writer.add_pad_token_id(self.pad)
        if self.unk is not None:
            writer.add_unk_token_id(self.unk)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(self.add_eos)
        if self.model == "llama":
            writer.add_add_space_prefix(self.add_space_prefix)
        if self.template is not None:
            writer.add_chat_template(self.template)


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """The tokenizer of a model folder whose embedding has `rows` rows.

    Raises DistillError if there is none, if it is of a kind that llama.cpp cannot follow exactly, or if it is longer
    than the embedding.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        raise DistillError(f"{folder}: no tokenizer.json there; save the model's fast tokenizer beside its weights")
    content = json.loads(path.read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE":
        raise DistillError(f"{path}: tokenizer model {model.get('type')} cannot be written as GGUF, only BPE")
    by_byte = not model.get("byte_fallback")
    pre = byte_level_name(path, content) if by_byte else _sentencepiece(path, content)
    pieces, kinds = _pieces(path, content, rows, by_byte)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model.get("merges", [])]
    notes = []
    if (content.get("normalizer") or {}).get("type") == "NFC":
        notes.append("the tokenizer normalises text to NFC, llama.cpp does not: only text that is not NFC differs")
    special = _special_ids(folder, content)
    add_bos, add_eos = _adds(content, special)
    if len(special["stops"]) > 3:
        rest = special["stops"][3:]
        notes.append(f"three stop ids fit the header; llama.cpp stops at {rest} only if it knows their names")
    return Vocabulary(
        model="gpt2" if by_byte else "llama",
        pre=pre,
        pieces=pieces,
        kinds=kinds,
        merges=merges if by_byte else [],
        scores=None if by_byte else _scores(pieces, merges),
        bos=special["bos"],
        eos=special["stops"][0],
        stops=tuple(special["stops"]),
        pad=special["pad"],
        unk=special["unk"],
        add_bos=add_bos,
        add_eos=add_eos,
        add_space_prefix=not by_byte and "Prepend" in json.dumps(content.get("normalizer")),
        template=chat_template(folder),
        notes=tuple(notes),
    )


def byte_level_name(path: Path, content: dict[str, Any]) -> str:
    """llama.cpp's name of a byte-level pre-tokenizer, by its structure. Raises DistillError where it has none."""
    normalizer = (content.get("normalizer") or {}).get("type", "none")
    if normalizer not in ("none", "NFC"):
        raise DistillError(f"{path}: {UNKNOWN_SPLIT.format(what=f'the normalizer {normalizer}')}")
    pre = content.get("pre_tokenizer") or {}
    steps = pre.get("pretokenizers", [pre]) if pre.get("type") == "Sequence" else [pre]
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        shown = json.dumps(last, ensure_ascii=False)[:120]
        raise DistillError(f"{path}: {UNKNOWN_SPLIT.format(what=f'the pre-tokenizer {shown}')}")
    found = _split_kind(steps[:-1], bool(last.get("use_regex", True)))
    key = (*found, bool(content["model"].get("ignore_merges"))) if found is not None else None
    if key not in BYTE_LEVEL_SPLITS:
        shown = json.dumps(steps, ensure_ascii=False)[:300]
        merges = " with ignore_merges" if content["model"].get("ignore_merges") else ""
        raise DistillError(f"{path}: {UNKNOWN_SPLIT.format(what=f'the split {shown}{merges}')}")
    return BYTE_LEVEL_SPLITS[key]


def _split_kind(steps: list[dict[str, Any]], gpt2: bool) -> tuple[str, str] | None:
    """(kind, regex) of what runs before the byte level; None for anything else. `gpt2`: ByteLevel splits by itself."""
    if not steps:
        return ("gpt-2", "") if gpt2 else None
    if len(steps) > 1:
        return None
    step = steps[0]
    if step.get("type") == "Digits" and step.get("individual_digits") and gpt2:
        return ("digits, gpt-2", "")
    if step.get("type") == "Split" and step.get("behavior") == "Isolated" and not step.get("invert") and not gpt2:
        return ("regex", step.get("pattern", {}).get("Regex", ""))
    return None


def _sentencepiece(path: Path, content: dict[str, Any]) -> str:
    """Check that a BPE with byte fallback is SentencePiece's, which llama.cpp runs by scores; `pre` is `default`."""
    normalizer = content.get("normalizer") or {}
    steps = normalizer.get("normalizers", [normalizer])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = {"type": "Prepend", "prepend": "▁"}
    if content.get("pre_tokenizer") or steps not in ([replace], [prepend, replace]):
        what = f"byte fallback with the normalizer {json.dumps(normalizer, ensure_ascii=False)[:120]}"
        raise DistillError(f"{path}: {UNKNOWN_SPLIT.format(what=what)}")
    return "default"


def _pieces(path: Path, content: dict[str, Any], rows: int, by_byte: bool) -> tuple[list[str], list[TokenType]]:
    """One piece and type an embedding row; rows without a token become unused `[PADn]`."""
    added = {token["id"]: token for token in content.get("added_tokens", [])}
    by_id = {place: piece for piece, place in content["model"]["vocab"].items()}
    by_id |= {place: token["content"] for place, token in added.items()}
    if (longest := max(by_id) + 1) > rows:
        raise DistillError(
            f"{path}: {longest} tokens, but the embedding has {rows} rows; resize it, or remove the added tokens"
        )
    unknown = content["model"].get("unk_token")
    pieces, kinds = [], []
    for place in range(rows):
        piece = by_id.get(place)
        kind = TokenType.NORMAL
        if piece is None:
            piece, kind = f"[PAD{place}]", TokenType.UNUSED
        elif not by_byte and piece == unknown:
            kind = TokenType.UNKNOWN
        elif place in added:
            kind = TokenType.CONTROL if added[place]["special"] else TokenType.USER_DEFINED
        elif not by_byte and len(piece) == 6 and piece.startswith("<0x"):
            kind = TokenType.BYTE
        pieces.append(piece)
        kinds.append(kind)
    if len(set(pieces)) != len(pieces):
        twice = next(piece for piece in pieces if pieces.count(piece) > 1)
        raise DistillError(f"{path}: the token {twice!r} is there twice, which llama.cpp cannot load")
    return pieces, kinds


def _scores(pieces: list[str], merges: list[str]) -> list[float]:
    """SentencePiece scores from merge ranks: llama.cpp joins the neighbours whose joint piece scores highest."""
    rank: dict[str, int] = {}
    for place, merge in enumerate(merges):
        rank.setdefault(merge.replace(" ", ""), place)
    return [-float(rank.get(piece, len(merges))) for piece in pieces]


def _special_ids(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Ids of the special tokens, from the tokenizer's config, the generation config and the model's config."""
    ids = {**content["model"]["vocab"], **{token["content"]: token["id"] for token in content.get("added_tokens", [])}}
    named, generation, config = (
        _json(folder / name) for name in ("tokenizer_config.json", "generation_config.json", "config.json")
    )

    def of(role: str) -> int | None:
        token = named.get(f"{role}_token")
        text = token.get("content") if isinstance(token, dict) else token
        return ids.get(text) if isinstance(text, str) else None

    def first(role: str) -> int | None:
        for found in (of(role), generation.get(f"{role}_token_id"), config.get(f"{role}_token_id")):
            if found is not None:
                return int(found[0] if isinstance(found, list) else found)
        return None

    eos = first("eos")
    if eos is None:
        raise DistillError(
            f"{folder}: no EOS token in its tokenizer, generation or model config: nothing would stop it"
        )
    stops = [eos]
    for more in (generation.get("eos_token_id"), config.get("eos_token_id")):
        for stop in more if isinstance(more, list) else [more]:
            if stop is not None and stop not in stops:
                stops.append(int(stop))
    bos = first("bos")
    # Without the key llama.cpp takes token 11 of a GPT-2 vocabulary and shows its text where a template asks for BOS.
    return {"bos": eos if bos is None else bos, "stops": stops, "pad": first("pad"), "unk": of("unk")}


def _adds(content: dict[str, Any], special: dict[str, Any]) -> tuple[bool, bool]:
    """Whether the tokenizer's post-processor puts BOS before a text and EOS after it."""
    processor = content.get("post_processor") or {}
    steps = processor.get("processors", [processor])
    template = next((step for step in steps if step.get("type") == "TemplateProcessing"), None)
    if template is None:
        return False, False
    listed = template["special_tokens"]
    ids = [listed[part["SpecialToken"]["id"]]["ids"] if "SpecialToken" in part else None for part in template["single"]]
    return ids[0] == [special["bos"]], ids[-1] == [special["stops"][0]]


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
