"""What the documents name is there: links, files, commands, settings; every YAML in them loads; no machine's path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill import experiment as experiments
from distill import pipeline
from distill.cli import COMMANDS

ROOT = Path(__file__).parents[1]
GUIDES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*GUIDES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`([^`]+)`|^ {4}(.+)$", re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"\bdistill ([a-z][\w-]*)")
SETTING = re.compile(rf"\b({'|'.join(pipeline.SECTIONS)})\.([a-z]\w*)\b")
OURS = re.compile(r"(?<![\w./-])(?:benchmarks|configs|distill|docs|students|teachers|tests)/[\w./-]*\.(?:md|py|yaml)\b")
FILE_ENDINGS = {"gz", "html", "json", "jsonl", "md", "parquet", "py", "yaml"}
ABSOLUTE = re.compile(r"(?:^|(?<=[\s\"'`(=:]))(?:/|~/|[A-Z]:\\)[\w.-]+[/\\][\w./\\-]*", re.MULTILINE)


def snippets() -> Iterator[tuple[str, str]]:
    """Every fenced YAML block, by the name and line of its document."""
    for page in GUIDES:
        text = page.read_text(encoding="utf-8")
        for block in FENCE.finditer(text):
            if block[1] == "yaml":
                yield f"{page.name}-{text.count(chr(10), 0, block.start()) + 1}", block[2]


def code(page: Path) -> list[str]:
    """Everything that a page shows as code: fenced blocks, indented lines, and code within a sentence."""
    text = page.read_text(encoding="utf-8")
    inline = [a or b for a, b in CODE.findall(FENCE.sub("", text))]
    return [*(block[2] for block in FENCE.finditer(text)), *inline]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    links = [link.partition("#")[0] for link in LINK.findall(page.read_text(encoding="utf-8"))]
    named = [link for link in links if link and not re.match(r"\w+:", link)]
    assert [link for link in named if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_of_this_repository_exist(page: Path) -> None:
    assert [name for name in OURS.findall(page.read_text(encoding="utf-8")) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("text", [pytest.param(text, id=name) for name, text in snippets()])
def test_yaml_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "snippet.yaml"
    path.write_text(text, encoding="utf-8")

    loaded = experiments.load(path, pipeline.SECTIONS)

    if re.search(r"^name:", text, re.MULTILINE):  # a whole experiment: its stages fit together, too
        for arm in loaded.arms:
            assert pipeline.stages_of(arm, str(path))
        experiments.check(loaded, ("students.train", "distill.evaluate.stage"), path)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    assert {name for text in code(page) for name in COMMAND.findall(text)} <= set(COMMANDS)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.name)
def test_settings_exist(page: Path) -> None:
    named = {pair for text in code(page) for pair in SETTING.findall(text) if pair[1] not in FILE_ENDINGS}
    fields = {section: experiments.settings_class(where).model_fields for section, where in pipeline.SECTIONS.items()}
    assert {f"{section}.{setting}" for section, setting in named if setting not in fields[section]} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_a_place_on_a_machine(page: Path) -> None:
    assert ABSOLUTE.findall(page.read_text(encoding="utf-8")) == []


def test_the_documents_hold_what_is_looked_for() -> None:
    """The patterns above find something: a guard that looks at nothing passes for ever."""
    everything = [text for page in GUIDES for text in code(page)]
    assert len(list(snippets())) >= 5
    for pattern in (COMMAND, SETTING):
        assert sum(len(pattern.findall(text)) for text in everything) >= 5
