"""Trackers that TRL and transformers know: which are offered, whether they are installed, where tensorboard writes.

Nothing is sent anywhere unless `train.report_to` names a tracker; where it goes then is the tracker's own configuration
(`WANDB_MODE=offline` and the like).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from distill.core.errors import DistillError

Tracker = Literal["trackio", "wandb", "tensorboard"]

FOLDER = "tensorboard"
"""Name of the folder, beside the runs, that `tensorboard --logdir` is given."""


def check(names: Sequence[Tracker]) -> None:
    """Raises DistillError, with the command that installs it, if a tracker is not there."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise DistillError(f"`train.report_to` names {name}, which is not installed: pip install {name}")


def place(callbacks: Iterable[Any], work: Path) -> None:
    """Let tensorboard write beside the runs, `tensorboard/RUN/STAGE`: `work` goes when the stage is done.

    TENSORBOARD_LOGGING_DIR, where set, goes before.
    """
    stage = work.parent
    for callback in callbacks:
        if type(callback).__name__ == "TensorBoardCallback" and callback.logging_dir is None:
            callback.logging_dir = str(stage.parent.parent / FOLDER / stage.parent.name / stage.name)
