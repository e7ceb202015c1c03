"""One suite for every export format: a new file in `distill/export/formats` is tested the moment it is there."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from distill.core import plugins
from distill.core.config import Settings
from distill.export.source import Source
from tests.tiny import make_tiny_model

PACKAGE = "distill.export.formats"
NAMES = plugins.names(PACKAGE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("formats") / "model")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is_and_its_settings_have_defaults(name: str):
    module = plugins.load(PACKAGE, name)

    assert plugins.help_line(PACKAGE, name).endswith(".")
    assert issubclass(module.Config, Settings)
    assert module.Config().keyed() == module.Config().dump()  # every setting of a format changes its file
    assert all(field.description for field in module.Config.model_fields.values())


@pytest.mark.parametrize("name", NAMES)
def test_its_settings_import_no_torch(name: str):
    code = f"import sys, {PACKAGE}.{name}; sys.exit(any(m in sys.modules for m in ('torch', 'transformers', 'gguf')))"

    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_it_is_documented(name: str):
    source = Path(str(importlib.import_module(f"{PACKAGE}.{name}").__file__)).read_text(encoding="utf-8")

    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    assert all(ast.get_docstring(node) for node in functions if not node.name.startswith("_"))


@pytest.mark.parametrize("name", NAMES)
def test_it_writes_the_same_bytes_twice_and_proves_them(name: str, model: Path, tmp_path: Path):
    module = plugins.load(PACKAGE, name)
    made = module.build(module.Config())
    source = Source(model, "tiny", tmp_path / "logs", metadata={"name": "tiny"})
    contents = []
    for again in ("one", "two"):
        folder = tmp_path / again / made.name
        folder.mkdir(parents=True)
        written = made.write(source, folder)
        assert written.path.exists() and written.path.parent == folder
        assert written.n_bytes > 0 and 0 < written.bits_per_weight <= 40
        assert written.run.startswith("distill chat ") and (folder.parent / written.run.split()[-1]).exists()
        assert not list(folder.glob(".*")), "a temporary file was left"
        paths = [written.path] if written.path.is_file() else sorted(written.path.iterdir())
        contents.append([(path.name, path.read_bytes()) for path in paths])

    checks = made.prove(source, written)

    assert contents[0] == contents[1]
    assert {check.tier for check in checks} == {1, 2}
    assert [check for check in checks if check.missed] == []
    made.bounds()
