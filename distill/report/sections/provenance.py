"""Which settings, inputs, models and versions the numbers come from."""

from __future__ import annotations

from typing import Any

from distill.report.parts import Row, Section, Table
from distill.report.run_data import RunData


def section(data: RunData) -> Section | None:
    """Keys and contents of all stages, identities of models, versions of packages."""
    if not data.stages:
        return None
    everyone = {user for stage in data.stages for user in stage.used_by}
    rows: list[Row] = []
    for stage in data.stages:
        row: dict[str, Any] = {"stage": stage.stage}
        if everyone:
            shared = len(stage.used_by) > 1 and set(stage.used_by) == everyone
            row["arm"] = "all" if shared else "; ".join(stage.used_by)
        row |= {
            "key": str(stage.manifest["key"])[:16],
            "content": str(stage.manifest.get("content", ""))[:16],
            "version": (stage.manifest.get("made_of") or {}).get("version"),
            "seed": stage.manifest.get("seed"),
            "started": str(stage.manifest.get("started", "")).replace("T", " ").replace("+00:00", " UTC"),
        }
        rows.append(row)
    environment = data.stages[-1].manifest.get("environment", {})
    machine = {name: str(environment[name]) for name in ("python", "system", "machine", "cpus") if name in environment}
    versions = {**machine, **environment.get("packages", {})}
    models: list[Row] = []
    if data.task is not None:
        models = [
            {"name": m.label, **{key: m.about.get(key) or "-" for key in ("model", "identity", "engine")}}
            for m in data.task.models
        ]
    sources: list[Row] = [
        {
            "task": task.name, "problems": task.problems, "answers each": task.samples,
            "verifier": _verifier(task.about.get("verifier")), "licence": task.about.get("licence") or "-",
        }
        for task in data.evaluated.tasks
    ]  # fmt: skip
    tables = [
        Table(rows, "Stages (the first 16 digits of each hash; manifests hold them whole)"),
        Table(models, "Models"),
        Table(sources, "Tasks"),
        Table([{"what": name, "version": version} for name, version in versions.items()], "Versions", folded=True),
    ]
    lead = "A stage’s key hashes its settings and inputs; its content hashes what it wrote. Equal keys are run once."
    return Section("provenance", "Provenance", lead, tables=[table for table in tables if table.rows])


def _verifier(told: Any) -> str:
    return str(told.get("verifier", "-")) if isinstance(told, dict) else str(told or "-")
