"""The resolved experiment, and where arms differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distill.core.config import canonical
from distill.report.parts import Row, Section, Table
from distill.report.run_data import RunData


def section(data: RunData) -> Section | None:
    """Differences between arms as a table, all settings of the first as text."""
    import yaml

    arms = data.experiment.get("arms", {})
    if not arms:
        return None
    (first, sections), *others = arms.items()
    title = f"Arm “{first}”" if others else "All settings"
    rows: list[Row] = []
    base = flat(sections)
    for name, other in others:
        here = flat(other)
        for key in dict.fromkeys([*base, *here]):
            if base.get(key) != here.get(key):
                value, instead = (settings.get(key, "absent") for settings in (here, base))
                rows.append({"arm": name, "setting": key, "value": value, f"in {first}": instead})
    tables = [Table(rows, "Where the other arms differ")] if rows else []
    text = yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)
    return Section(
        "settings", "Settings", "The resolved experiment, defaults included.", tables=tables, texts=[(title, text)]
    )


def flat(value: Any, above: str = "") -> dict[str, str]:
    """Nested settings as `section.setting: text`."""
    if not isinstance(value, Mapping) or not value:
        return {above: value if isinstance(value, str) else canonical(value)}
    found: dict[str, str] = {}
    for name, item in value.items():
        found |= flat(item, f"{above}.{name}" if above else str(name))
    return found
