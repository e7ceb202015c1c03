"""The trained student as a folder that stands alone: weights or adapter, the base's text side, and all stop ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from distill.core import files
from distill.core.device import Placement
from students import settings
from students.rows import StudentText

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
"""What is copied from the base, byte for byte: training changes nothing of it."""


def write_student(
    out: Path, model: Any, student: settings.Config, base: Path, text: StudentText, placement: Placement
) -> None:
    """Write `student/`: weights or adapter, the base's tokenizer files as they are, and all stop ids."""
    import torch

    files.crash_point("train.before-final")
    target = out / "student"
    if target.exists():
        shutil.rmtree(target)
    with files.atomic(target) as partial:
        partial.mkdir()
        if student.adapter is None:
            # In the precision it was trained for: float32 master weights of a bf16 run are written as bf16.
            model.to(getattr(torch, placement.dtype)).save_pretrained(partial)
        else:
            adapter = model.peft_config["default"]
            adapter.base_model_name_or_path, adapter.revision = student.model, student.revision
            model.save_pretrained(partial, save_embedding_layers=False)
            about = files.read_json(partial / "adapter_config.json")
            about["target_modules"] = sorted(about["target_modules"])  # a set's order differs between processes
            files.write_json(partial / "adapter_config.json", about)
            (partial / "README.md").unlink(missing_ok=True)  # peft's card is a form to fill in; `publish` writes one
        for name in TOKENIZER_FILES:
            if (base / name).exists():
                shutil.copyfile(base / name, partial / name)
        stops = sorted(text.stop_ids)
        generation = {**text.generation_config, "eos_token_id": stops[0] if len(stops) == 1 else stops}
        (partial / "generation_config.json").unlink(missing_ok=True)
        files.write_json(partial / "generation_config.json", generation)
