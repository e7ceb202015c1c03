"""Which exported files go to which place."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill.core.errors import DistillError
from distill.publish import files
from distill.publish.release import ExportFile
from distill.publish.settings import Config

ONE, APART = Config(repo="you/x"), Config(repo="you/x", adapter_repo="you/x-lora", gguf_repo="you/x-GGUF")


def exported(stage: Path, name: str, first: bool, config: Config = ONE) -> list[str]:
    """Paths in the repository of one exported format, which is made here with files that shall stay."""
    if name.startswith("gguf"):
        place = f"{name}/student-{name.removeprefix('gguf-')}.gguf"
        (stage / name).mkdir()
        (stage / place).write_bytes(b"GGUF")
        (stage / name / "Modelfile").write_text("FROM x")
        (stage / name / "imatrix.gguf").write_bytes(b"GGUF")
    else:
        place = f"{name}/student"
        (stage / place / "work").mkdir(parents=True)
        weights = "adapter_model" if name.endswith("-adapter") else "model"
        for file in (
            f"{weights}.safetensors", "config.json", "adapter_config.json", "tokenizer.json", "README.md",
            "pytorch_model.bin", "optimizer.pt", "training_args.bin", "modeling_x.py", ".env",
        ):  # fmt: skip
            (stage / place / file).write_text(file)
    found = files._exported(ExportFile({"name": name, "file": place}), stage, first, config)
    return sorted(path for path, _ in found)


BESIDE = ["adapter_config.json", "config.json", "tokenizer.json"]


@pytest.mark.parametrize(
    ("name", "first", "config", "folder", "weights"),
    [
        ("safetensors", True, ONE, "", "model.safetensors"),
        ("safetensors-nf4", False, ONE, "nf4/", "model.safetensors"),
        ("safetensors", False, ONE, "stored/", "model.safetensors"),
        ("safetensors-adapter", True, ONE, "adapter/", "adapter_model.safetensors"),
        ("safetensors-adapter", True, APART, "", "adapter_model.safetensors"),
    ],
)
def test_a_folder_gives_its_weights_and_what_stands_beside_them(
    tmp_path: Path, name: str, first: bool, config: Config, folder: str, weights: str
) -> None:
    assert exported(tmp_path, name, first, config) == sorted(f"{folder}{file}" for file in (*BESIDE, weights))


@pytest.mark.parametrize("config", [ONE, APART])
def test_a_gguf_file_lies_at_the_root_with_its_modelfile(tmp_path: Path, config: Config) -> None:
    assert exported(tmp_path, "gguf-q4_k_m", True, config) == ["Modelfile.q4_k_m", "student-q4_k_m.gguf"]


def test_what_was_exported_and_is_not_here_is_one_line(tmp_path: Path) -> None:
    gone = ExportFile({"name": "safetensors", "file": "safetensors/student"})
    with pytest.raises(DistillError, match="is not here, though it was exported"):
        list(files._exported(gone, tmp_path, True, ONE))
