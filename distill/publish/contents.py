"""What lies in one model repository, and under which names: what its card shows and its commands fetch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distill.evaluate.metrics import Rate
from distill.publish.release import student_of

if TYPE_CHECKING:
    from distill.publish.release import ExportFile, Release
    from distill.publish.settings import Config, What

ROOT = "."
"""Place of a folder whose files lie at the repository's root."""


@dataclass(frozen=True)
class Contents:
    """One repository of a release: `id`, the parts in it, and where each exported file lies."""

    id: str
    parts: tuple[What, ...]
    release: Release
    places: Mapping[str, str]
    """Path in the repository by the file's name in proof.json."""
    modelfiles: Mapping[str, str]
    """The same of the Modelfiles beside GGUF files."""

    @property
    def files(self) -> list[ExportFile]:
        """The exported files that lie here."""
        return [file for file in self.release.files if file.name in self.places]

    def ggufs(self) -> list[ExportFile]:
        """GGUF files, the one that is advised first."""
        found = [file for file in self.files if file.what == "gguf"]
        return sorted(found, key=lambda file: (not sound(file), int(file.entry["bytes"])))

    def drawn(self) -> dict[str, Any]:
        """How the student was drawn in the first task: sampling settings and, where there was one, the instruction."""
        if not self.release.tasks:
            return {}
        task = self.release.tasks[0]
        student = student_of(task) or {}
        instruction = student.get("instruction") or task.get("instruction")
        return {**(task.get("sampling") or {}), "instruction": instruction}


def contents(release: Release, config: Config, parts: Sequence[What], names: Mapping[str, Path]) -> Contents:
    """What lies in the repository that has these files, by path in it."""
    id_of = {"model": config.repo, "adapter": config.adapter_repo, "gguf": config.gguf_repo}
    places, modelfiles = {}, {}
    for file in release.files:
        local = release.folders["export"] / file.path
        place = _place(local, names)
        if place is not None:
            places[file.name] = place
            beside = _place(local.with_name("Modelfile"), names)
            if file.what == "gguf" and beside is not None:
                modelfiles[file.name] = beside
    first = next((id_of.get(part) for part in parts), None)
    return Contents(first or config.repo, tuple(parts), release, places, modelfiles)


def _place(local: Path, names: Mapping[str, Path]) -> str | None:
    """Where an exported file, or the files of an exported folder, lie in the repository; None: not there."""
    for name, path in names.items():
        if path == local:
            return name
        if local in path.parents:
            return name.removesuffix(path.relative_to(local).as_posix()).rstrip("/") or ROOT
    return None


def sound(file: ExportFile) -> bool:
    """Whether its answers were measured, no bound was missed, and no loss was seen beyond the measurement's noise.

    Where the student itself may be right on nothing, no loss could be seen, so no file is sound.
    """
    if file.entry["missed"] or not file.entry.get("rate") or not file.entry.get("student_rate"):
        return False
    rate, own = Rate(**file.entry["rate"]), Rate(**file.entry["student_rate"])
    return rate.value is not None and own.low is not None and rate.value >= own.low > 0
