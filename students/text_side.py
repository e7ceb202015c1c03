"""The student's text side as the settings want it: whose chat template, and how it writes its think tags.

Where something changes, a folder with tokenizer, template and configuration is written before anything is tokenised.
Rows, training and the trained student all read that folder: one file decides the ids of all of them.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.errors import DistillError
from distill.core.fingerprint import chat_template, tokenizer_fingerprint
from distill.core.models import cached_text, resolve_text
from distill.core.records import Message
from distill.text import pairing
from distill.text.chat import TEMPLATE_DATE, apply_template, dated, load_tokenizer, template_arguments
from distill.text.think import CLOSE, OPEN
from distill.text.turn import StudentText, read_student
from students import settings

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""What a tokenizer may consist of: copied byte for byte where the settings change nothing of it."""

CONFIG_FILES = ("config.json", "generation_config.json")

SPARE = re.compile(r"reserved|unused|placeholder|dummy|extra_(id|token)|control_\d", re.IGNORECASE)
"""What model families call special tokens that stand for nothing yet (Llama 3, Gemma, Phi-3, Mistral)."""

TAGS = (OPEN, CLOSE)


@dataclass(frozen=True)
class TextSide:
    """What rows are made with, and what the model needs for it."""

    text: StudentText
    template: str
    """Whose template, for the report."""
    think_tokens: str
    """How the think tags are written, for the report."""
    new_tokens: Mapping[int, tuple[int, ...]]
    """Ids that mean something new, and the ids of the text that each stands for: where its row starts from."""

    @property
    def folder(self) -> Path:
        """Where its files are: the base's folder where nothing was changed."""
        return self.text.folder


def teacher_folder(teacher: Any, *, fetch: bool) -> Path | None:
    """The folder of a teacher's tokenizer, from its section; None if it is not known here (a server, a .gguf file).

    `fetch` gets it from the Hub; without it a teacher that never was on this machine is not known here.
    """
    if teacher is None:
        return None
    named, revision = teacher.model, teacher.revision
    if teacher.served:
        named, revision = getattr(teacher.engine.config, "tokenizer", None), None
    folder = None if named is None else (resolve_text if fetch else cached_text)(named, revision)
    return folder if folder is not None and (folder / "tokenizer.json").is_file() else None


def refusal(sections: Mapping[str, Any]) -> str | None:
    """Why the teacher's template, if the student is to take it, cannot be had from these sections."""
    student, teacher = sections.get("student"), sections.get("teacher")
    if student is None or student.template != "teacher":
        return None
    if teacher is None:
        return "`student.template: teacher` needs the section `teacher:`; name a file, or say `own`"
    if teacher.served and getattr(teacher.engine.config, "tokenizer", None) is None:
        return "`student.template: teacher`: a served teacher's is not known here; save it as a file and name that"
    return None


def template_of(student: settings.Config, teacher: Any) -> str | None:
    """The template that the settings name in place of the student's own. Raises DistillError if it cannot be had."""
    if student.template == "own":
        return None
    if student.template != "teacher":
        return settings.template_file(student.template).read_text(encoding="utf-8")
    folder = teacher_folder(teacher, fetch=True)
    template = None if folder is None else chat_template(folder)
    if template is None:
        raise DistillError(
            "`student.template: teacher`: the teacher's template is not known here; save it as a file and name that"
        )
    return template


def prepare(student: settings.Config, base: Path, teacher: Any, out: Path, *, thinks: bool) -> TextSide:
    """Read the student's text side, writing a changed one to `out`; no weights are read.

    `teacher` is its section, or None. `thinks`: the rows have reasoning, so a prompt without arguments must ask for it,
    as the trained ones do. Raises DistillError if the settings cannot be met.
    """
    template = template_of(student, teacher)
    taught = teacher_folder(teacher, fetch=student.think_tokens == "spare-ids")
    tokens, how = _think_tokens(student, base, taught)
    plain = load_tokenizer(base)
    source = template if template is not None else _own_template(plain, base)
    own, settled = _settled(plain, source, thinks)
    if not tokens and template is None and own == source:
        text = read_student(base)
    else:
        text = read_student(_write(base, out, own, tokens))
        text.tokenizer.name_or_path = str(base)  # what a message calls it
    new = {token: tuple(plain(name, add_special_tokens=False)["input_ids"]) for token, name in tokens.items()}
    named = {"own": "the student's own", "teacher": "the teacher's"}
    whose = ", ".join([named.get(student.template, Path(student.template).name), *settled])
    return TextSide(_with_kin(text, taught), whose, how, {token: ids for token, ids in new.items() if ids != (token,)})


def _own_template(tokenizer: Any, base: Path) -> str:
    try:
        template: str = tokenizer.get_chat_template()  # of several, the one named `default`
    except ValueError as error:
        raise DistillError(f"{base}: the tokenizer has no chat template; name one with `student.template`") from error
    return template


def externals(student: settings.Config, teacher: Any) -> dict[str, str]:
    """Hashes of what the text side takes from elsewhere: another template, the teacher's tokenizer."""
    template = template_of(student, teacher)
    found = {} if template is None else {"template": hashlib.sha256(template.encode()).hexdigest()}
    folder = teacher_folder(teacher, fetch=True) if student.think_tokens == "spare-ids" else None
    fingerprint = None if folder is None else tokenizer_fingerprint(folder)
    return found if fingerprint is None else {**found, "teacher_tokenizer": fingerprint}


def adopt_tokens(model: Any, side: TextSide) -> None:
    """Give a loaded model the rows that its tokenizer needs; a new token's row is the mean of its old text's.

    Deterministic, and close to what the model already knows of the tag; an unused row may be anything.
    """
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    if side.text.vocab_size > rows:
        model.resize_token_embeddings(side.text.vocab_size, mean_resizing=False)
    ends = {id(end.weight): end.weight for end in (model.get_input_embeddings(), model.get_output_embeddings())}
    with torch.no_grad():
        for weight_VH in ends.values():
            for token, pieces in side.new_tokens.items():
                weight_VH[token] = weight_VH[list(pieces)].float().mean(0).to(weight_VH.dtype)


def _with_kin(text: StudentText, teacher: Path | None) -> StudentText:
    """Add the teacher's fingerprint to the tokenizers that are the student's, if every id means the same to both."""
    if teacher is None:
        return text
    other = tokenizer_fingerprint(teacher)
    if other is None or other in text.same_tokenizers or not pairing.compare(teacher, text.folder).kl_possible:
        return text
    return replace(text, same_tokenizers=text.same_tokenizers | {other})


def _settled(tokenizer: Any, source: str, thinks: bool) -> tuple[str, list[str]]:
    """The template with what was left to the day and to the caller settled as in training; and what that was.

    So that a program which renders it without arguments gives the student the prompts that it knows. Most templates
    need nothing; some write today's date, some close the thinking unless they are told not to.
    """
    tokenizer.chat_template = source
    question, settled, notes = (Message("user", "?"),), dated(source), []
    if settled != source:
        notes.append(f"today always {TEMPLATE_DATE:%Y-%m-%d}")
    arguments = template_arguments(tokenizer, thinks)
    if apply_template(tokenizer, question) != apply_template(tokenizer, question, **arguments):
        notes.append(f"made to {'think' if thinks else 'answer without thinking'} by default")
        for name, value in arguments.items():  # in Llama 3.1's words, which every runtime reads
            default = f"{{%- if not {name} is defined %}}{{%- set {name} = {str(value).lower()} %}}{{%- endif %}}"
            settled = f"{default}{settled}"
    return settled, notes


def _think_tokens(student: settings.Config, base: Path, teacher: Path | None) -> tuple[dict[int, str], str]:
    """Tokens to name anew, by id, and how the think tags are then written."""
    content = files.read_json(base / "tokenizer.json")
    known = pairing.read(base)
    ids = {entry.text.decode(errors="replace"): token for token, entry in known.entries.items()}
    missing = [tag for tag in TAGS if tag not in ids]
    if not missing:
        return {}, f"tokens of its own ({ids[OPEN]} and {ids[CLOSE]})"
    if student.think_tokens == "text":
        return {}, "ordinary text, several tokens a tag"
    free = max(known.entries) + 1
    if student.think_tokens == "add":
        added = {free + place: tag for place, tag in enumerate(missing)}
        if student.adapter is not None and max(added) >= known.rows:
            raise DistillError(
                f"{base}: `student.think_tokens: add` needs rows beyond its {known.rows:,}, and no adapter can bring "
                "them along; use `spare-ids` or `text`, or `adapter: none`"
            )
        return added, f"added as {' and '.join(map(str, added))}"
    if teacher is not None:
        theirs = pairing.read(teacher).entries
        extra = {token: theirs[token].text.decode(errors="replace") for token in sorted(theirs) if token >= free}
        consecutive = list(extra) == list(range(free, free + len(extra)))
        if consecutive and set(missing) <= set(extra.values()) and free + len(extra) <= known.rows:
            return extra, f"the teacher's own ids, in spare rows ({', '.join(map(str, extra))})"
    used = chat_template(base) or ""
    spare = sorted(
        token["id"] for token in content["added_tokens"]
        if token.get("special") and SPARE.search(token["content"]) and token["content"] not in used
    )  # fmt: skip
    spare += range(free, known.rows)
    if len(spare) < len(missing):
        raise DistillError(
            f"{base}: `think_tokens: spare-ids` needs {len(missing)} spare ids and finds {len(spare)}; use `add`"
        )
    chosen = dict(zip(spare, missing, strict=False))
    return chosen, f"spare ids {' and '.join(map(str, chosen))}"


def _write(base: Path, out: Path, template: str, tokens: Mapping[int, str]) -> Path:
    """The base's text files in `out`, with this template and these tokens named."""
    if out.exists():
        shutil.rmtree(out)
    with files.atomic(out) as partial:
        partial.mkdir()
        for name in (*TOKENIZER_FILES, *CONFIG_FILES):
            if (base / name).exists():
                shutil.copyfile(base / name, partial / name)
        (partial / "chat_template.json").unlink(missing_ok=True)
        (partial / "chat_template.jinja").write_text(template, encoding="utf-8")
        about = _read(partial / "tokenizer_config.json")
        about.pop("chat_template", None)  # one template, in one place
        if tokens:
            content = files.read_json(partial / "tokenizer.json")
            replaced = _name_tokens(content, tokens)
            (partial / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
            _forget(about, replaced)
            if "added_tokens_decoder" in about:
                about["added_tokens_decoder"] |= {str(token): _added(name) for token, name in tokens.items()}
            if (partial / "special_tokens_map.json").exists():
                special = _read(partial / "special_tokens_map.json")
                _forget(special, replaced)
                files.write_json(partial / "special_tokens_map.json", special)
            (partial / "added_tokens.json").unlink(
                missing_ok=True
            )  # said again, and only for tokenizers without a file
            config = _read(partial / "config.json")
            inner = config.get("text_config", config)
            inner["vocab_size"] = max(int(inner.get("vocab_size") or 0), max(tokens) + 1)
            files.write_json(partial / "config.json", config)
        files.write_json(partial / "tokenizer_config.json", about)
    return out


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = files.read_json(path) if path.exists() else {}
    return content


def _added(content: str) -> dict[str, Any]:
    """An added token that is no special one: decoding keeps it, and no space around it is lost."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"content": content, **flags}


def _name_tokens(content: dict[str, Any], tokens: Mapping[int, str]) -> set[str]:
    """Rename or append added tokens in a `tokenizer.json`; what the renamed ones were called."""
    replaced = {token["content"] for token in content["added_tokens"] if token["id"] in tokens}
    kept = [token for token in content["added_tokens"] if token["id"] not in tokens]
    named = [{"id": token, **_added(name)} for token, name in tokens.items()]
    content["added_tokens"] = sorted([*kept, *named], key=lambda token: int(token["id"]))
    vocabulary = content["model"].get("vocab")
    if isinstance(vocabulary, dict):
        for old in replaced & set(vocabulary):
            token = vocabulary.pop(old)
            vocabulary[tokens[token]] = token
    return replaced


def _forget(about: dict[str, Any], names: set[str]) -> None:
    """Take renamed tokens out of lists of special tokens: transformers adds a listed one that it misses at the end."""
    for key in ("additional_special_tokens", "extra_special_tokens"):
        listed = about.get(key)
        if isinstance(listed, list):
            about[key] = [one for one in listed if (one["content"] if isinstance(one, dict) else one) not in names]
        elif isinstance(listed, dict):
            about[key] = {role: name for role, name in listed.items() if name not in names}
