"""Importance matrices that llama.cpp's own llama-imatrix made of two really trained models.

    python -m tests.export.imatrix_reference LLAMA_IMATRIX STORIES260K_FOLDER      # records golden/imatrix anew

LLAMA_IMATRIX is built as llama-quantize is (tests/gguf/reference.py), and run with its defaults but for the length of
a chunk. Record them again when the embedded student is trained anew.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from distill.core.models import resolve
from distill.gguf.convert import convert
from distill.sources import embedded

GOLDEN = Path(__file__).parents[1] / "golden" / "imatrix"
CHUNK = 256


def texts() -> dict[str, str]:
    """What each model reads: word problems for the student, a story for stories260k."""
    problems = embedded.build(embedded.Config(), {"train": 0, "dev": 0, "test": 60})
    return {
        "student": "\n\n".join(f"{problem.messages[-1].content} {problem.gold}" for problem in problems),
        "stories260k": "Once upon a time there was a little girl who liked to play with her red ball. " * 60,
    }


def chunks(ids: list[int], bos: int | None) -> list[list[int]]:
    """As llama-imatrix cuts a text's ids: whole chunks only, BOS in place of each one's first id where it adds one."""
    cut = [ids[at : at + CHUNK] for at in range(0, len(ids) - CHUNK + 1, CHUNK)]
    return cut if bos is None else [[bos, *piece[1:]] for piece in cut]


def _record(llama_imatrix: Path, stories260k: Path) -> None:
    GOLDEN.mkdir(exist_ok=True)
    for name, folder in {"student": resolve("embedded-student"), "stories260k": stories260k}.items():
        with tempfile.TemporaryDirectory() as scratch:
            convert(folder, Path(scratch) / "f32.gguf", "f32")
            Path(scratch, f"{name}.txt").write_text(texts()[name], encoding="utf-8")
            for form in ("gguf", "dat"):
                command = [
                    str(llama_imatrix.resolve()), "-m", "f32.gguf", "-f", f"{name}.txt", "-c", str(CHUNK), "--no-ppl",
                    "--output-format", form, "-o", str(GOLDEN / f"{name}.{form}"),
                ]  # fmt: skip
                subprocess.run(command, check=True, capture_output=True, cwd=scratch)
    (GOLDEN / "stories260k.dat").unlink()  # one file in the older format is enough


if __name__ == "__main__":
    _record(Path(sys.argv[1]), Path(sys.argv[2]))
