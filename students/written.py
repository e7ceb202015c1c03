"""The trained student as a folder that stands alone: weights or adapter, the base's text side, and all stop ids."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from distill import nf4
from distill.core import files
from distill.core.device import Placement
from students import settings
from students.rows import StudentText
from students.text_side import TOKENIZER_FILES


def write_student(
    target: Path,
    model: Any,
    student: settings.Config,
    text: StudentText,
    placement: Placement,
    weights: dict[str, Any] | None = None,
) -> None:
    """Write the folder: weights or adapter, the very tokenizer files that rows were made with, and all stop ids.

    `weights` are an adapter's where its model has but parts of them. Full weights are left in the precision that they
    are written in: of a model that goes on learning give `apart`.
    """
    import torch

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
            model.save_pretrained(partial, save_embedding_layers=False, state_dict=weights)
            about = files.read_json(partial / "adapter_config.json")
            about["target_modules"] = sorted(about["target_modules"])  # a set's order differs between processes
            files.write_json(partial / "adapter_config.json", about)
            if student.adapter.nf4:
                files.write_json(partial / nf4.RECORD, nf4.record(model.get_base_model()))
            (partial / "README.md").unlink(missing_ok=True)  # peft's card is a form to fill in; `publish` writes one
        for name in TOKENIZER_FILES:
            if (text.folder / name).exists():
                shutil.copyfile(text.folder / name, partial / name)
        stops = sorted(text.stop_ids)
        generation = {**text.generation_config, "eos_token_id": stops[0] if len(stops) == 1 else stops}
        (partial / "generation_config.json").unlink(missing_ok=True)
        files.write_json(partial / "generation_config.json", generation)


def apart(model: Any, placement: Placement, *, use_cache: bool) -> Any:
    """The model as it is now, in the precision that it is written in, apart from the one that goes on learning.

    On the CPU; a weight that is there in that precision already is shared.
    """
    import copy

    import torch

    dtype = getattr(torch, placement.dtype)
    config = copy.deepcopy(model.config)
    config.use_cache = use_cache
    with torch.device("meta"):
        shell = type(model)(config)
    now = {
        name: value.detach().to("cpu", dtype if value.is_floating_point() else None)
        for name, value in model.state_dict().items()
    }
    shell.load_state_dict(now, assign=True)
    shell.tie_weights()
    return shell
