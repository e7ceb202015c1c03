"""Content hashes of local models: never a path, so that a moved or copied model is the same model."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from distill.core.config import digest
from distill.core.errors import DistillError
from distill.core.files import sha256_file
from distill.core.records import ModelIdentity

WEIGHT_SUFFIXES = (".safetensors",)
SMALL_FILES = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "adapter_base.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def identify(folder: Path, name: str | None = None) -> ModelIdentity:
    """Identity of a local model folder: weights, adapter, tokenizer, template and generation config all count.

    A `.gguf` file is hashed whole. Raises DistillError if nothing there looks like a model.
    """
    if folder.is_file():
        return ModelIdentity(id=sha256_file(folder)[:32], name=name or folder.name)
    if not folder.is_dir():
        raise DistillError(f"{folder}: no such model folder or .gguf file")
    weights = sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES)
    if not weights:
        raise DistillError(f"{folder}: no .safetensors weights there (pickled weights are not read)")
    parts: dict[str, Any] = {path.name: sha256_file(path) for path in weights}
    for small in SMALL_FILES:
        if (folder / small).exists():
            parts[small] = _stable_json(folder / small)
    template = chat_template(folder)
    parts["chat_template"] = template
    config = (
        json.loads((folder / "config.json").read_text(encoding="utf-8")) if (folder / "config.json").exists() else {}
    )
    return ModelIdentity(
        id=digest(parts)[:32],
        name=name or folder.name,
        tokenizer=tokenizer_fingerprint(folder),
        template=hashlib.sha256(template.encode()).hexdigest()[:16] if template is not None else None,
        vocab_size=config.get("vocab_size"),
    )


def tokenizer_fingerprint(folder: Path) -> str | None:
    """Hash of what turns text into ids: vocabulary, merges, added tokens, normaliser, pre-tokenizer. None without one.

    Padding, truncation and other run-time state in `tokenizer.json` do not count, nor whether merges are written as
    pairs or, as once, as strings.
    """
    path = folder / "tokenizer.json"
    if not path.exists():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    if merges := (content.get("model") or {}).get("merges"):
        content["model"]["merges"] = [one.split(" ") if isinstance(one, str) else one for one in merges]
    parts = {part: content.get(part) for part in ("model", "added_tokens", "normalizer", "pre_tokenizer")}
    return digest(parts)[:16]


def chat_template(folder: Path) -> str | None:
    """The chat template of a model folder: its own file (transformers 5) or the entry in tokenizer_config.json."""
    own = folder / "chat_template.jinja"
    if own.exists():
        return own.read_text(encoding="utf-8")
    config = folder / "tokenizer_config.json"
    if config.exists():
        template = json.loads(config.read_text(encoding="utf-8")).get("chat_template")
        return template if isinstance(template, str) else None
    return None


def _stable_json(path: Path) -> Any:
    """A small JSON file's content without what a library writes about itself on every save."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for noise in ("transformers_version", "_name_or_path", "padding", "truncation"):
        content.pop(noise, None)
    return content
