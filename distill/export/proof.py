"""Proof that an exported GGUF file is the model: three tiers, from the file's bytes to what it answers.

1. Always, streamed: types as planned, values within each type's error, token ids three ways, the rendered chat, stops.
2. Any size: an F32 twin (of a large model its first layers) gives transformers' log-probabilities under llama.cpp.
3. Where it fits: next-token distributions beside the model's own (`distill.export.divergence`), greedy answers and
   accuracy beside the student's (`distill.export.stage`).

P prefixes, V vocabulary entries.
"""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.errors import DistillError
from distill.export.graph import quiet, reference_logprobs
from distill.export.runtime import Answers, Chat, Questions, ask
from distill.gguf.runtime import ServerEnded

if TYPE_CHECKING:
    import numpy as np
    from gguf import GGMLQuantizationType
    from numpy.typing import NDArray

    from distill.export.source import Source
    from distill.gguf.adapter import Onto
    from distill.gguf.convert import Plan

RELATIVE_ERROR = {
    "F32": 0.0, "F16": 5e-4, "BF16": 4e-3, "Q8_0": 0.02,
    "Q6_K": 0.05, "Q5_K": 0.1, "Q5_1": 0.1, "Q5_0": 0.12, "Q4_K": 0.16, "Q4_1": 0.2, "Q4_0": 0.25,
    "IQ4_NL": 0.2, "IQ4_XS": 0.2, "Q3_K": 0.38, "Q2_K": 0.7,
}  # fmt: skip
"""Highest root mean square error of a tensor, relative to its own, that a type may leave: about twice what heavy-tailed
values (Student's t with 3 degrees of freedom) come to. A wrong or shifted tensor is near 1.4."""

WEIGHED = 1.5
"""By how much that bound rises where an importance matrix moves the error to columns that matter less."""

LOGPROB_TOLERANCE = 1e-3
"""Largest difference of a log-probability, in nats, between the F32 twin under llama.cpp and float32 transformers."""

MERGED_TOLERANCE = 1e-4
"""Largest difference, in nats, between a merged float32 folder and its adapter's own graph."""

SLAB = 1 << 20
"""Values that are looked at together."""

PREFIX_LENGTHS = (1, 2, 3, 5, 9, 17, 65, 129, 257, 399)
WHOLE_UP_TO = 300_000_000
"""Weights up to which the twin is the whole model."""
SLICE_LAYERS = 2

PROBES = (
    "".join(chr(code) for code in range(1, 256)),
    "".join(chr(code) for code in range(0x100, 0x2000, 37)),
    "0 1 12 123 1234 12345 1,000.50 007 3.14e-10 17*23=391 x2y3",
    "It's we'll THEY'RE I'd you've can't 'S 'LL",
    "  two  three   four\t\ttabs\n\nlines\r\nend \n  indented\n\n\n",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # done\n",
    "中文字符测试，日本語のテスト。한국어 텍스트 — Ελληνικά кириллица עברית العربية हिन्दी ไทย",
    "🙂🙃👩‍👩‍👧‍👦🇩🇪 ½ ² ﬁ … “quotes” −5 × 10⁻³ √2 ≤ ∞",
    "\\frac{1}{2} \\boxed{42} $x^2$ \\( a_1 \\)",
    "",
    " ",
    "a" * 70,
)
"""Texts whose ids must agree three ways; a model's own added tokens join them, alone and inside text."""

CHATS: tuple[tuple[tuple[str, str], ...], ...] = (
    (("user", "What is 17*23?"),),
    (("system", "You are brief."), ("user", " Solve 3x+7=22.\n")),
    (("user", "Hi"), ("assistant", "Hello."), ("user", "And 2+2?")),
)

UNSAID_THINKING = (
    "where a chat says nothing of thinking, llama.cpp asks for it and transformers does not; "
    "pass enable_thinking to be sure of either"
)
DATED = "the template writes a date: llama.cpp gives it today's, transformers the template's own"
DATE = re.compile(r"\d{1,2} [A-Z][a-z]{2} \d{4}|\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True)
class Check:
    """One thing that was checked. `missed` says what is wrong, in one line; None: it holds."""

    name: str
    tier: int
    missed: str | None
    figures: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    """Differences that are known, harmless where they are known, and told beside the file."""


def read_back(file: Path, plan: Plan) -> list[Check]:
    """Tier 1, streamed: names, shapes, types and size are the plan's, values are within each type's error."""
    import numpy as np
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
    except (ValueError, IndexError, OSError) as error:
        return [Check("types", 1, f"{file.name} cannot be read back: {error}")]
    planned = {entry.tensor.name: entry for entry in plan.tensors}
    stored = {tensor.name: tensor for tensor in reader.tensors}
    checks = [Check("types", 1, _type_fault(planned, stored), {"types": plan.types_used})]
    padded = sum(-(-entry.n_bytes // reader.alignment) * reader.alignment for entry in plan.tensors)
    due, size = int(reader.data_offset) + padded, file.stat().st_size
    checks.append(Check("size", 1, None if size == due else f"{size:,} bytes where the plan makes {due:,}"))
    if checks[0].missed:
        return checks
    worst: dict[str, float] = {}
    fault = None
    for name, entry in planned.items():
        off = stored_error(np.asarray(stored[name].data).view(np.uint8), entry.kind, entry.tensor.make())
        worst[entry.kind.name] = max(worst.get(entry.kind.name, 0.0), off)
        bound = RELATIVE_ERROR[entry.kind.name] * (1.0 if plan.column_weights(name) is None else WEIGHED)
        if fault is None and not off <= bound:
            fault = f"{name} is off by {off:.3g} of its size as {entry.kind.name}; the bound is {bound:g}"
    checks.append(Check("values", 1, fault, {"relative_error": worst}))
    return checks


def _type_fault(planned: dict[str, Any], stored: dict[str, Any]) -> str | None:
    if planned.keys() != stored.keys():
        odd = sorted(planned.keys() ^ stored.keys())
        return f"{len(odd)} tensors are not as planned, first {odd[0]}"
    for name, entry in planned.items():
        kind, shape = stored[name].tensor_type, tuple(int(size) for size in reversed(stored[name].shape))
        if kind != entry.kind or shape != tuple(entry.tensor.shape):
            return f"{name} is {kind.name} {shape}, planned {entry.kind.name} {entry.tensor.shape}"
    return None


def opens(file: Path, folder: Path, plan: Plan, log: Path, timeout_s: float = 600.0) -> list[Check]:
    """Tier 1, in llama.cpp: the file opens, ids agree three ways, the rendered chat agrees, every stop id stops.

    `folder` holds the tokenizer that the model is used with.
    """
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(folder)
    texts = probe_texts(folder)
    chats = probe_chats(auto)
    vocabulary = plan.vocabulary
    try:
        said = ask(
            file,
            Questions(
                texts=texts,
                chats=[Chat(messages, arguments) for messages, arguments, _ in chats],
                stops=vocabulary.stops,
                plain=plain_token(plan),
                speed=True,
            ),
            log=log,
            timeout_s=timeout_s,
        )
    except ServerEnded as error:
        return [Check("opens", 1, str(error))]
    odd = [stop for stop, stopped in zip(vocabulary.stops, said.stopped, strict=True) if not stopped]
    silent = f"llama.cpp does not stop at {', '.join(repr(vocabulary.pieces[stop]) for stop in odd)}" if odd else None
    return [
        Check("opens", 1, None, {"tokens_per_s": said.tokens_per_s}),
        Check("ids", 1, _ids_fault(folder, auto, texts, said), {"texts": len(texts)}),
        _chat_check(auto, chats, said),
        Check("stops", 1, silent, {"stops": vocabulary.stops}),
    ]


def probe_texts(folder: Path) -> list[str]:
    """The fixed probes and every added token of this tokenizer (the first 64), alone and inside text.

    For a tokenizer that normalises to NFC they are in NFC: llama.cpp does not normalise, which the plan's notes say.
    """
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = [token["content"] for token in content.get("added_tokens", [])][:64]
    texts = [*PROBES, *added, *(f"12+3{token}ab" for token in added), " ".join(added), "x\n".join(added)]
    if (content.get("normalizer") or {}).get("type") == "NFC":
        return [unicodedata.normalize("NFC", text) for text in texts]
    return texts


def probe_chats(auto: Any) -> list[tuple[list[dict[str, str]], dict[str, Any], list[int]]]:
    """(messages, template arguments, transformers' ids) of every probe conversation that the template takes."""
    from jinja2 import TemplateError

    if not auto.chat_template:
        return []
    found = []
    for turns in CHATS:
        messages = [{"role": role, "content": text} for role, text in turns]
        for arguments in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
            try:
                text = auto.apply_chat_template(messages, add_generation_prompt=True, tokenize=False, **arguments)
            except TemplateError:
                continue  # a template without system turns, say: llama.cpp's refusal is its own affair
            found.append((messages, dict(arguments), auto(text, add_special_tokens=False)["input_ids"]))
    return found


def _ids_fault(folder: Path, auto: Any, texts: Sequence[str], said: Answers) -> str | None:
    """Compare tokenizer.json, AutoTokenizer and the file. The runtime splits off no BOS here."""
    from tokenizers import Tokenizer

    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    for text, in_file in zip(texts, said.text_ids, strict=True):
        if fault := _loaded_fault(plain, auto, text):
            return fault
        stored = plain.encode(text, add_special_tokens=False).ids
        if stored != in_file:
            at = next((i for i, (a, b) in enumerate(zip(stored, in_file, strict=False)) if a != b), 0)
            here, there = in_file[at : at + 6], stored[at : at + 6]
            return f"the file tokenises {text[:40]!r} as {here} from token {at} on, tokenizer.json as {there}"
    return None


def _chat_check(auto: Any, chats: Sequence[Any], said: Answers) -> Check:
    """The runtime's prompt ids are transformers', with thinking asked for, declined and not mentioned.

    Two differences are the runtime's own and only noted: it asks for thinking where nothing is said of it, and it gives
    a template today's date.
    """
    notes: dict[str, None] = {}
    for (messages, arguments, ids), text, in_file in zip(chats, said.chat_texts, said.chat_ids, strict=True):
        if in_file == ids:
            continue
        shown = auto.decode(ids)
        with_thinking = next(
            (other for m, given, other in chats if m == messages and given == {"enable_thinking": True}), None
        )
        if not arguments and in_file == with_thinking:
            notes[UNSAID_THINKING] = None
        elif text is not None and text != shown and DATE.sub("", text) == DATE.sub("", shown):
            notes[DATED] = None
        else:
            asked = messages[-1]["content"]
            fault = (
                f"{asked!r} with {arguments} becomes {in_file} in the file, {ids} in transformers"
                if text == shown
                else f"{asked!r} with {arguments} renders as {text!r} in the file, as {shown!r} in transformers"
            )
            return Check("chat", 1, fault, {"chats": len(chats)}, tuple(notes))
    return Check("chat", 1, None, {"chats": len(chats)}, tuple(notes))


def plain_token(plan: Plan) -> int:
    """A token that is whole text and ends nothing."""
    from gguf import TokenType

    vocabulary = plan.vocabulary
    for place, (piece, kind) in enumerate(zip(vocabulary.pieces, vocabulary.kinds, strict=True)):
        if kind == TokenType.NORMAL and piece.isascii() and piece.isalnum() and place not in vocabulary.stops:
            return place
    raise DistillError("the vocabulary has no plain ASCII token, so the proof cannot ask for probabilities")


def twin(
    model: Path,
    *,
    adapter: Path | None = None,
    onto: Onto = "trained",
    layers: int | None = None,
    log: Path,
    timeout_s: float = 1800.0,
) -> Check:
    """Tier 2: the F32 twin's log-probabilities under llama.cpp against transformers', over the whole vocabulary.

    `layers` None takes the whole model up to `WHOLE_UP_TO` weights, else its first layers. With an adapter the
    reference is the adapter's own graph (peft), not a merge.
    """
    import numpy as np

    from distill.gguf.convert import convert, plan

    planned = plan(model, "f32", adapter=adapter, onto=onto, layers=layers)
    if layers is None and planned.n_weights > WHOLE_UP_TO:
        return twin(model, adapter=adapter, onto=onto, layers=SLICE_LAYERS, log=log, timeout_s=timeout_s)
    ids = probe_ids(planned)
    with tempfile.TemporaryDirectory(prefix="distill-twin-") as scratch:
        file = Path(scratch) / "twin.gguf"
        convert(model, file, "f32", adapter=adapter, onto=onto, layers=layers)
        prefixes = [ids[:length] for length in PREFIX_LENGTHS if length <= len(ids)]
        asked = Questions(prefixes=prefixes, plain=plain_token(planned), vocabulary=planned.model.rows)
        try:
            said = ask(file, asked, log=log, timeout_s=timeout_s)
        except ServerEnded as error:
            return Check("twin", 2, str(error))
    assert said.logprobs_PV is not None  # prefixes were asked for
    reference_PV = reference_logprobs(model, adapter, layers, prefixes, onto)
    worst = float(np.max(np.abs(said.logprobs_PV - reference_PV)))
    figures = {"max_logprob_diff": worst, "layers": planned.model.layers, "of_layers": planned.model.all_layers}
    missed = f"log-probabilities differ by {worst:.3g} nats; the bound is {LOGPROB_TOLERANCE:g}"
    return Check("twin", 2, None if worst <= LOGPROB_TOLERANCE else missed, figures)


def probe_ids(plan: Plan) -> list[int]:
    """Plain tokens drawn with a fixed seed, BOS first: as many as the longest prefix, or as the context holds."""
    import numpy as np
    from gguf import TokenType

    normal = [place for place, kind in enumerate(plan.vocabulary.kinds) if kind == TokenType.NORMAL]
    length = min(PREFIX_LENGTHS[-1], int(plan.model.config["max_position_embeddings"]) - 8)
    drawn = np.random.default_rng(0).choice(normal, length - 1)
    return [plan.vocabulary.bos, *(int(place) for place in drawn)]


def same_folder(source: Source, folder: Path) -> list[Check]:
    """Tiers 1 and 2 of a Hugging Face folder: its tensors are the source's, its tokenizer loads as it is stored, and,
    where weights were merged or rounded, its log-probabilities are the source's.

    The bound on those, `MERGED_TOLERANCE`, is for weights stored in float32; in 16 bits the figure is only told.
    """
    import numpy as np

    from distill.gguf.adapter import open_weights
    from distill.gguf.weights import FolderWeights

    _, due = open_weights(source.model, source.adapter, source.onto)
    got = FolderWeights(folder)
    fault = None if due.names() == got.names() else "its tensors are not the source's"
    worst, kinds = 0.0, {got.dtype(name) for name in got.names()}
    for name in got.names() if fault is None else ():
        error = relative_error(got.read(name), due.read(name))
        worst = max(worst, error)
        if fault is None and not error <= RELATIVE_ERROR.get(got.dtype(name), 0.0):
            fault = f"{name} is off by {error:.3g} of its size as {got.dtype(name)}"
    checks = [Check("values", 1, fault, {"relative_error": worst}), loads_its_tokenizer(folder)]
    if source.adapter is None and not (source.model / "adapter_config.json").exists() and worst == 0.0:
        return [*checks, Check("twin", 2, fault, {"max_logprob_diff": 0.0})]  # the same numbers: nothing to run
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    total = sum(int(np.prod(got.shape(name))) for name in got.names())
    layers = SLICE_LAYERS if total > WHOLE_UP_TO else None
    length = min(PREFIX_LENGTHS[-1], int(config.get("max_position_embeddings", 512)))
    ids = np.random.default_rng(0).integers(0, int(config["vocab_size"]), length).tolist()
    prefixes = [ids[:count] for count in PREFIX_LENGTHS if count <= length]
    before_PV = reference_logprobs(source.model, source.adapter, layers, prefixes, source.onto)
    after_PV = reference_logprobs(folder, None, layers, prefixes)
    worst = float(np.max(np.abs(after_PV - before_PV)))
    missed = None
    if kinds == {"F32"} and not worst <= MERGED_TOLERANCE:
        missed = f"merging changed log-probabilities by {worst:.3g} nats; the bound is {MERGED_TOLERANCE:g}"
    return [*checks, Check("twin", 2, missed, {"max_logprob_diff": worst})]


def same_adapter(source: Source, adapter: Path, folder: Path) -> list[Check]:
    """Tiers 1 and 2 of an adapter alone: the source's own tensors and settings, and beside the base, loaded anew, the
    source's log-probabilities.
    """
    import numpy as np

    from distill.gguf.adapter import adapter_parts

    name = "adapter_model.safetensors"
    equal = (adapter / name).read_bytes() == (folder / name).read_bytes()
    checks = [Check("values", 1, None if equal else f"{name} is not the source's")]
    if (folder / "tokenizer.json").exists():
        checks.append(loads_its_tokenizer(folder))
    base, _ = adapter_parts(source.model, source.adapter)
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    ids = np.random.default_rng(0).integers(0, int(config["vocab_size"]), 65).tolist()
    prefixes = [ids[:count] for count in PREFIX_LENGTHS if count <= len(ids)]
    layers = SLICE_LAYERS if source.n_weights > WHOLE_UP_TO else None
    before_PV, after_PV = (
        reference_logprobs(model, over, layers, prefixes, source.onto)
        for model, over in ((source.model, source.adapter), (base, folder))
    )
    worst = float(np.max(np.abs(after_PV - before_PV)))
    missed = None if worst <= MERGED_TOLERANCE else f"beside its base it differs by {worst:.3g} nats"
    return [*checks, Check("twin", 2, missed, {"max_logprob_diff": worst})]


def loads_its_tokenizer(folder: Path) -> Check:
    """Whether transformers loads the tokenizer that the folder's tokenizer.json holds."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").exists():
        return Check("ids", 1, f"{folder.name} has no tokenizer.json")
    auto, plain = AutoTokenizer.from_pretrained(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    fault = next(filter(None, (_loaded_fault(plain, auto, text) for text in probe_texts(folder))), None)
    return Check("ids", 1, fault)


def _loaded_fault(plain: Any, auto: Any, text: str) -> str | None:
    """transformers may load another tokenizer class than the file's: then training and running use different ids."""
    stored = plain.encode(text, add_special_tokens=False).ids
    with quiet():  # of the probe's length
        loaded = auto(text, add_special_tokens=False)["input_ids"]
    if stored == loaded:
        return None
    return f"AutoTokenizer does not follow tokenizer.json: {text[:40]!r} gives {loaded[:8]}, not {stored[:8]}"


def relative_error(got: NDArray[np.float32], due: NDArray[np.float32]) -> float:
    """Root mean square of the difference over that of what is due; 0 for equal tensors, inf for one that overflowed."""
    flat, wanted = got.reshape(-1), due.reshape(-1)
    return _relative_error((flat[at : at + SLAB], wanted[at : at + SLAB]) for at in range(0, max(1, due.size), SLAB))


def stored_error(data: NDArray[np.uint8], kind: GGMLQuantizationType, due: NDArray[np.float32]) -> float:
    """As `relative_error`, of a tensor's bytes in a file; some rows at a time are decoded."""
    from distill.gguf import ggml

    columns = due.shape[-1]
    rows, width = due.reshape(-1, columns), ggml.byte_size((1, columns), kind)
    encoded, step = data.reshape(-1, width), max(1, SLAB // columns)
    return _relative_error(
        (ggml.dequantise(encoded[at : at + step], kind, part.shape), part)
        for at in range(0, len(rows), step)
        for part in (rows[at : at + step],)
    )


def _relative_error(parts: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> float:
    import numpy as np

    error = scale = 0.0
    with np.errstate(over="ignore", invalid="ignore"):  # a broken file may hold any bits
        for got, due in parts:
            wanted = due.astype(np.float64)
            error += float(np.square(got - wanted).sum())
            scale += float(np.square(wanted).sum())
    if error == 0.0:
        return 0.0
    return float(np.sqrt(error / scale)) if scale and np.isfinite(error) else float("inf")
