"""Plug-ins by file name: listed without importing, refused with the nearest name, missing extras named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import ValidationError

from distill.core import plugins
from distill.core.config import Settings
from distill.core.errors import ConfigError, MissingExtra
from distill.core.plugins import Choice, ChoiceOf

SOURCE = '''"""Counts to {name}.

More.
"""
from distill.core.config import Settings
class Config(Settings):
    limit: int = 3
    note: str = ""
def build(config): return config.limit
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    folder = tmp_path / "made_up_filters"
    folder.mkdir()
    (folder / "__init__.py").write_text('"""Made up."""')
    for name in ("at_most", "at_least"):
        (folder / f"{name}.py").write_text(SOURCE.replace("{name}", name))
    (folder / "_shared.py").write_text("raise RuntimeError('not a plug-in')")
    (folder / "broken.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "made_up_filters"
    for name in [name for name in sys.modules if name.startswith("made_up_filters")]:
        del sys.modules[name]


def test_names_and_help_are_read_without_importing(package: str) -> None:
    assert plugins.names(package) == ["at_least", "at_most", "broken"]
    assert plugins.help_line(package, "at_most") == "Counts to at_most."
    assert "made_up_filters.at_most" not in sys.modules


def test_an_unknown_name_says_the_nearest(package: str) -> None:
    with pytest.raises(ConfigError, match="Did you mean `at_most`"):
        plugins.load(package, "at_mots")


def test_an_import_error_of_a_plug_in_surfaces_untouched(package: str) -> None:
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        plugins.load(package, "broken")


def test_a_dotted_path_names_the_users_own_module(package: str) -> None:
    assert (
        plugins.load("distill.filters", "made_up_filters.at_most").build(
            plugins.load(package, "at_most").Config(limit=7)
        )
        == 7
    )
    with pytest.raises(ConfigError, match="no module"):
        plugins.load("distill.filters", "nowhere.at_all")


def test_a_missing_extra_names_the_install_line() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'reasoning-distill\[vllm\]'"):
        plugins.require("engine `vllm`", "a_package_that_is_not_there", "vllm")


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ("at_most", 3),
        ({"at_most": 2}, 2),
        ({"at_most": {"limit": 5}}, 5),
        ({"at_most": None}, 3),
        ({"filter": "at_most", "limit": 6}, 6),
    ],
)
def test_every_way_to_write_a_choice(package: str, written: object, limit: int) -> None:
    class Section(Settings):
        rule: Annotated[Choice, ChoiceOf("made_up_filters", "filter")]

    section = Section.model_validate({"rule": written})

    assert section.rule.config.limit == limit  # type: ignore[attr-defined]  # the plug-in's own settings class
    assert section.dump() == {"rule": {"filter": "at_most", "limit": limit, "note": ""}}
    assert Section.model_validate(section.dump()) == section


@pytest.mark.parametrize(
    ("written", "loc", "text"),
    [
        ({"at_most": {"limt": 5}}, ("rule", "limt"), "Did you mean `limit`"),
        ({"at_most": "many"}, ("rule", "limit"), "valid integer"),
        ("at_mots", ("rule",), "Did you mean `at_most`"),
        (7, ("rule",), "names no made_up_filter"),
        ({"a": 1, "b": 2}, ("rule",), "names no made_up_filter"),
    ],
)
def test_a_wrong_choice_says_where(package: str, written: object, loc: tuple[str, ...], text: str) -> None:
    class Section(Settings):
        rule: Annotated[Choice, ChoiceOf("made_up_filters", "filter")]

    with pytest.raises(ValidationError) as error:
        Section.model_validate({"rule": written})

    (fault,) = error.value.errors()
    assert fault["loc"] == loc
    assert text in fault["msg"]
