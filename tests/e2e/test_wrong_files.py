"""Whatever is wrong with an experiment file: one line with file and line, exit code 2, before any model loads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from distill import cli

GOOD = """\
name: toy
problems: {source: embedded, train: 10, dev: 2, test: 5}
teacher: {model: embedded}
sample: {policy: {fixed: 2}, max_tokens: 160, top_logprobs: 8}
verify: {verifier: math}
filter: [verdict, {at_most: 2}]
student: {model: embedded}
train:
  epochs: 1
  learning_rate: 1.0e-3
  loss: {forward_kl: {weight: 0.5, top_k: 8}}
evaluate: {models: [base], max_tokens: 160}
"""

WRONG = {
    "typo in a setting": ("  epochs: 1", "  epoch: 1", 9, "Did you mean `epochs`"),
    "typo in a section": ("teacher:", "techer:", 3, "no section `techer`. Did you mean `teacher`"),
    "typo in a plug-in": ("{verifier: math}", "{verifier: maths}", 5, "Did you mean `math`"),
    "typo in a plug-in's setting": ("weight: 0.5", "wieght: 0.5", 11, "Did you mean `weight`"),
    "unknown engine": ("teacher: {model: embedded}", "teacher: {model: embedded, engine: warp}", 3, "no engine `warp`"),
    "unknown filter": ("[verdict,", "[verdicts,", 6, "Did you mean `verdict`"),
    "unknown source": ("source: embedded", "source: embeded", 2, "Did you mean `embedded`"),
    "unknown policy": ("{fixed: 2}", "{fixd: 2}", 4, "Did you mean `fixed`"),
    "text for a number": ("  epochs: 1", "  epochs: many", 9, "the text 'many'"),
    "1e-5 as text": ("1.0e-3", "1e-5", 10, "1.0e-5"),
    "quoted number": ("max_tokens: 160, top", "max_tokens: '160', top", 4, "without quotes"),
    "fraction for a count": ("train: 10", "train: 10.5", 2, "10.5"),
    "truth for a number": ("  epochs: 1", "  epochs: true", 9, "True"),
    "negative count": ("train: 10", "train: -10", 2, "greater than"),
    "probability over one": ("top_logprobs: 8", "top_logprobs: 8, top_p: 1.5", 4, "less than or equal to 1"),
    "list for a mapping": ("teacher: {model: embedded}", "teacher: [embedded]", 3, "teacher"),
    "mapping for a list": ("models: [base]", "models: {base: 1}", 12, "list"),
    "needed setting missing": ("teacher: {model: embedded}", "teacher: {}", 3, "needs `model`"),
    "duplicate key": ("  epochs: 1", "  epochs: 1\n  epochs: 2", 10, "given twice"),
    "duplicate section": ("teacher:", "verify: {}\nteacher:", 6, "given twice"),
    "not YAML": ("filter: [verdict,", "filter: [verdict", 6, "not YAML"),
    "tab for indentation": ("  epochs: 1", "\tepochs: 1", 9, "not YAML"),
    "a tag": ("epochs: 1", "epochs: !!python/name:os.system x", 9, "tag"),
    "bad name": ("name: toy", "name: ../toy", 1, "`name` is a folder's name"),
    "bad seed": ("name: toy", "name: toy\nseed: zero", 2, "whole number"),
    "seed and seeds": ("name: toy", "name: toy\nseed: 1\nseeds: [1]", 3, "not both"),
    "missing base file": ("name: toy", "name: toy\nextends: nowhere.yaml", 2, "no such file"),
    "arm with an unknown section": ("name: toy", "name: toy\narms: {a: {trian: {}}}", 2, "Did you mean `train`"),
    "arm with a wrong setting": ("name: toy", "name: toy\narms:\n  a: {train: {epoch: 2}}", 3, "Did you mean `epochs`"),
    "stage without its input": ("verify: {verifier: math}\n", "", None, "needs the section `verify:`"),
    "more entries in the loss than were recorded": ("top_k: 8", "top_k: 32", 11, "top_logprobs"),
    "missing problem file": ("source: embedded", "source: {jsonl: {path: nowhere.jsonl}}", 2, "no such file"),
    "missing model folder": ("student: {model: embedded}", "student: {model: ./nowhere}", 7, "no such folder"),
    "a model twice": ("models: [base]", "models: [base, base]", 12, "twice"),
    "nothing to sample": ("{fixed: 2}", "{fixed: 0}", 4, "greater than 0"),
}


def fault_of(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """Run `distill run path` in a folder of its own; check the exit code and that one line was printed."""
    monkeypatch.chdir(path.parent)
    monkeypatch.setattr(sys, "argv", ["distill", "run", path.name, *more])
    with pytest.raises(SystemExit) as left:
        cli.main()
    out, err = capsys.readouterr()
    assert left.value.code == 2, err
    assert out == ""
    assert err.startswith("distill: ")
    assert err.count("\n") == 1, err
    assert not (path.parent / "runs").exists(), "nothing may be run or written"
    return err


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_file_is_one_line_with_its_place(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new, line, text = WRONG[case]
    assert old in GOOD
    path = tmp_path / "toy.yaml"
    path.write_text(GOOD.replace(old, new, 1))

    fault = fault_of(path, monkeypatch, capsys)

    assert text in fault
    place = re.match(r"distill: toy\.yaml(?::(\d+))?: ", fault)
    assert place is not None, fault
    assert line is None or place[1] == str(line), fault


def test_an_empty_file_a_missing_file_and_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = tmp_path / "empty.yaml"
    empty.write_text("# nothing but a remark\n")
    assert "empty.yaml:1: the file is empty" in fault_of(empty, monkeypatch, capsys)
    assert "no such file" in fault_of(tmp_path / "none.yaml", monkeypatch, capsys)
    (tmp_path / "folder.yaml").mkdir()
    assert "is a folder" in fault_of(tmp_path / "folder.yaml", monkeypatch, capsys)


def test_a_wrong_setting_on_the_command_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "toy.yaml"
    path.write_text(GOOD)
    fault = fault_of(path, monkeypatch, capsys, "--set", "train.epoch=3")
    assert "--set train.epoch=3: `train` has no setting `epoch`. Did you mean `epochs`" in fault


def test_files_that_extend_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    assert "leads back" in fault_of(tmp_path / "a.yaml", monkeypatch, capsys)


def test_no_heavy_package_is_imported_on_the_way_to_the_message(tmp_path: Path) -> None:
    """What makes the answer come within a second: measured by benchmarks/startup.py, held here by its cause."""
    path = tmp_path / "toy.yaml"
    path.write_text(GOOD.replace("epochs", "epoch"))
    script = (
        "import sys\nfrom distill import cli\nsys.argv = ['distill', 'run', 'toy.yaml']\n"
        "try:\n    cli.main()\nexcept SystemExit as left:\n    code = left.code\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'datasets', 'matplotlib', 'xllamacpp', 'pyarrow', 'sympy'}\n"
        "print(sorted(heavy & set(sys.modules)), code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[] 2"


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\nfrom distill import cli\nsys.argv = ['distill', '--help']\n"
        "try:\n    cli.main()\nexcept SystemExit as left:\n    code = left.code\n"
        "print(sorted({'torch', 'pydantic', 'yaml', 'numpy', 'rich'} & set(sys.modules)), code)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Usage: distill" in done.stdout
    assert done.stdout.strip().endswith("[] 0")
