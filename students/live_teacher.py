"""A teacher in the same process: it reads every batch beside the student, so that whole distributions are matched.

Nothing of it is recorded and nothing larger than a chunk of its logits exists: it gives hidden states at the trained
positions, and `students.head_loss` makes logits of them, chunk by chunk. It stays in evaluation mode, without
gradients, in the precision of its placement.

Shapes: B sequences, T tokens, R trained tokens, G the teacher's hidden size, N trained tokens of one sequence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.core.device import Placement
from distill.core.errors import DistillError
from distill.core.models import base_of, is_embedded, looks_local, resolve
from distill.text import pairing
from students.divergence import Positions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from students.head_loss import LiveRows
    from students.rows import Row, StudentText


def refusal(sections: Mapping[str, Any]) -> str | None:
    """Why the teacher of an experiment cannot be a live one for its student, as far as its settings and files tell."""
    teacher, student = sections.get("teacher"), sections["student"]
    if teacher is None:
        return "`vocabulary: full` needs the section `teacher:`, a model folder that transformers loads"
    if teacher.served:
        return (
            f"`vocabulary: full` loads the teacher beside the student, but `{teacher.model}` is served elsewhere; "
            "name its model folder or Hub id with `engine: transformers`, or score it and set `vocabulary: recorded`"
        )
    if teacher.model.endswith(".gguf"):
        return f"`vocabulary: full` loads the teacher with transformers, and {teacher.model} is a .gguf file"
    if all(is_embedded(one.model) or looks_local(one.model) for one in (teacher, student)):
        return mismatch(resolve(teacher.model), resolve(student.model))
    return None  # a model of the Hub is not downloaded to check settings; `LiveTeacher` looks again


def mismatch(teacher: Path, student: Path) -> str | None:
    """Why two model folders cannot be matched over the full vocabulary; None if they can."""
    if base_of(teacher) is not None:
        return f"{teacher.name} is an adapter; export it as a whole model (`distill export`), then it can teach live"
    verdict = pairing.compare(teacher, student)
    return None if verdict.kl_possible else f"the teacher's logits cannot be matched: {verdict}; set `train.loss: none`"


class LiveTeacher:
    """A loaded teacher. For the collator it is a table of teacher rows that only says which tokens count."""

    def __init__(
        self, model: str, revision: str | None, *, text: StudentText, placement: Placement, longest: int,
        positions: Positions = "all",
    ) -> None:  # fmt: skip
        """Load it. `longest` is the most tokens of a row.

        Raises DistillError if it cannot be loaded, has another tokenizer than the student, a shorter context than the
        rows need, or a head that is not understood.
        """
        import torch
        from transformers import AutoModelForCausalLM

        from distill.text.chat import vocabulary_size
        from students.trainer import logit_finish, output_head, prove_head

        folder = resolve(model, revision)
        if (why := mismatch(folder, text.folder)) is not None:
            raise DistillError(f"`train.loss.vocabulary: full`: {why}")
        try:
            core: Any = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, placement.dtype), use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise DistillError(f"teacher `{model}` cannot be loaded: {str(error).partition(chr(10))[0]}") from error
        self.core = core.requires_grad_(False).eval().to(placement.device)
        config = self.core.config.get_text_config()
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and context < longest:
            raise DistillError(
                f"`train.loss.vocabulary: full`: a row has {longest:,} tokens, but the context of the teacher "
                f"`{model}` ends at {context:,}; set `train.max_length: {context}`"
            )
        entries, rows = vocabulary_size(text.tokenizer), self.core.get_input_embeddings().weight.shape[0]
        if entries > rows:
            raise DistillError(
                f"`train.loss.vocabulary: full`: the student's tokenizer has {entries:,} entries, but the teacher "
                f"`{model}` only {rows:,} rows, so it cannot read all of its tokens; score it and match what it records"
            )
        self.finish = logit_finish(self.core.config)
        prove_head(self.core, self.finish)
        self.head = output_head(self.core)
        self.vocab_size = min(text.vocab_size, entries, config.vocab_size)
        """What both heads have rows for and the tokenizer has ids for: what lies beyond is padding of one of them."""
        self.positions = positions

    def rows(self, batch: dict[str, Tensor], trained_BT: Tensor) -> LiveRows:
        """Its hidden states at the trained positions of a batch (`trained_BT` bool, over all tokens but the last)."""
        import torch

        from students.head_loss import LiveRows

        given = {name: batch[name] for name in ("input_ids", "position_ids") if name in batch}
        with torch.no_grad(), torch.autocast(batch["input_ids"].device.type, enabled=False):
            hidden_BTG = self.core.base_model(**given, use_cache=False).last_hidden_state
        present_R = batch["teacher_present"][batch["teacher_rows"]]
        return LiveRows(hidden_BTG[:, :-1][trained_BT], self.head, self.finish, present_R)

    def columns(self, rows: Sequence[Row]) -> dict[str, NDArray[np.bool_]]:
        """`teacher_present` bool [N] of one sequence: the trained tokens on which the divergence counts."""
        import numpy as np

        return {"teacher_present": np.concatenate([row.counts(self.positions) for row in rows])}

    def blank(self, n: int) -> dict[str, NDArray[np.bool_]]:
        """`columns` of n tokens that do not count."""
        import numpy as np

        return {"teacher_present": np.zeros(n, bool)}
