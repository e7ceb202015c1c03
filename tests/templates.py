"""Chat templates of real models, and model folders (without weights) that speak them."""

from __future__ import annotations

import json
import re
from importlib.util import find_spec
from pathlib import Path

from tests.tiny import tiny_tokenizer

CONTROL = re.compile(
    r"<\|[^<>|]{1,40}\|?>|<[^<>|]{1,40}\|>|<\uff5c[^<>\uff5c]{1,40}\uff5c>|</?[a-z_]+_of_[a-z]+>|\[/?[A-Z_]+\]"
)
"""What control tokens look like in a template's source."""


def trl_templates() -> dict[str, str]:
    """TRL's own chat templates by name."""
    spec = find_spec("trl")
    assert spec is not None and spec.origin is not None
    folder = Path(spec.origin).parent / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def shared_templates(shared_data: Path) -> dict[str, str]:
    """The templates of the shared data by name."""
    folder = shared_data / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def speaker(folder: Path, template: str, *, context: int = 4096) -> Path:
    """A model folder without weights whose tokenizer has the template's control tokens as special tokens."""
    tokenizer = tiny_tokenizer(folder, template=template)
    known = set(tokenizer.get_vocab())
    found = dict.fromkeys(name for name in CONTROL.findall(template) if "think" not in name.lower())
    tokenizer.add_tokens([name for name in found if name not in known], special_tokens=True)
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(
        json.dumps({"vocab_size": len(tokenizer) + 12, "max_position_embeddings": context, "model_type": "qwen3"})
    )
    return folder
