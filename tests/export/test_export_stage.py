"""The export stage end to end on the embedded teacher, which stands in for a trained student."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import ValidationError

from distill.core import files, tables
from distill.core.config import Settings
from distill.core.errors import ConfigError, DistillError
from distill.core.models import ModelConfig, resolve
from distill.core.records import Problem, Sample, Trace, Verdict
from distill.core.stage import Report, StageRun, Workspace
from distill.export import proof, stage
from distill.export.divergence import Text
from distill.export.merge import encode, write_folder
from distill.export.source import Bounds, licence_of
from distill.gguf import imatrix
from distill.gguf.convert import convert
from distill.sources import embedded
from distill.stages import verify
from tests.export.imatrix_reference import GOLDEN
from tests.gguf.test_adapter import make_adapter
from tests.tiny import make_tiny_model


def problems(n: int) -> list[Problem]:
    """Test problems of the embedded kind."""
    return embedded.build(embedded.Config(), {"train": 0, "dev": 0, "test": n})


def traces(n: int) -> list[Trace]:
    """Traces of embedded problems, as an import without ids brings them."""
    return [
        Trace(f"k{i}", problem.id, problem.messages, f"First step {i}.\nThen {i}*7={i * 7}.", f"It is {problem.gold}.")
        for i, problem in enumerate(problems(n))
    ]


def run_stage(
    folder: Path, student: Path, formats: list[Any], n: int = 24, **sections: Settings
) -> tuple[Report, Path]:
    """Run `export` in `folder` on a student that was evaluated on `n` problems."""
    for name in ("problems", "filter", "train", "evaluate", "out"):
        (folder / name).mkdir()
    tables.write(folder / "problems" / "problems.parquet", problems(n), Problem)
    tables.write(folder / "filter" / "traces.parquet", traces(12), Trace)
    shutil.copytree(student, folder / "train" / "student")
    task = {"name": "problems", "sampling": {"max_tokens": 120, "thinking": None}, "models": []}
    results = {"split": "test", "tasks": [task], "guard": None}
    files.write_json(folder / "evaluate" / "results.json", results)
    run = StageRun(
        name="export",
        out=folder / "out",
        inputs={name: folder / name for name in ("problems", "filter", "train", "evaluate")},
        sections={
            "export": stage.Config.model_validate(formats),
            "verify": verify.Config(),
            "student": ModelConfig(model="embedded-student"),
            **sections,
        },
        seed=0,
        workspace=Workspace(folder / "runs"),
    )
    return stage.run(run), folder / "out"


def test_every_file_is_proved_and_answers_as_the_student_does(tmp_path: Path):
    weighed = {"format": "gguf", "type": "q4_k_m", "imatrix": "traces"}
    formats = ["safetensors", {"gguf": "q8_0"}, {"format": "gguf", "type": "f16"}, weighed]

    report, out = run_stage(tmp_path, resolve("embedded-teacher"), formats)

    assert report.missed is None
    assert report.data["base_licence"] == "apache-2.0"  # of the base model's card, for whoever publishes the run
    said = {entry["name"]: entry for entry in files.read_json(out / "proof.json")["files"]}
    assert list(said) == ["safetensors", "gguf-q8_0", "gguf-f16", "gguf-q4_k_m-imatrix"]
    assert {name: entry["tiers"] for name, entry in said.items()} == {
        "safetensors": [1, 2], "gguf-q8_0": [1, 2, 3], "gguf-f16": [1, 2, 3], "gguf-q4_k_m-imatrix": [1, 2, 3],
    }  # fmt: skip
    for name, entry in said.items():
        assert entry["max_logprob_diff"] <= 1e-3
        assert (out / entry["file"]).exists()
        assert entry["run"] == f"distill chat {entry['file']}"
        if name != "safetensors":
            assert entry["rate"]["n"] == 24
            assert entry["top_1"] > 0.95
            assert "tokens_per_s" not in json.dumps(entry)  # the stage's content is the same on every run
            assert files.read_json(out / "timing.json")[name]["tokens_per_s"] > 0
    assert said["gguf-f16"]["kl"] < said["gguf-q8_0"]["kl"] < said["gguf-q4_k_m-imatrix"]["kl"] < 0.05
    matrix = imatrix.read(out / "gguf-q4_k_m-imatrix" / "imatrix.gguf")
    assert (matrix.dataset, len(matrix.entries)) == ("kept traces", 3 * 7)
    assert said["gguf-f16"]["greedy_equal"] >= 0.95
    assert 8 < said["gguf-q8_0"]["bits_per_weight"] < 9
    assert 4 < said["gguf-q4_k_m-imatrix"]["bits_per_weight"] < 5.2
    student = resolve("embedded-teacher")
    copied = out / "safetensors" / "student"
    assert (copied / "model.safetensors").read_bytes() == (student / "model.safetensors").read_bytes()
    assert (out / "logs" / "gguf-q8_0.log").exists()


def test_a_lora_student_is_merged_on_the_way(tmp_path: Path):
    base = make_tiny_model(tmp_path / "base", scale=0.1)
    adapter = make_adapter(base, tmp_path / "adapter")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copyfile(base / name, adapter / name)
    folder = tmp_path / "run"
    folder.mkdir()

    report, out = run_stage(folder, adapter, ["safetensors", {"gguf": "f32"}], n=4)

    assert report.missed is None
    said = {entry["name"]: entry for entry in files.read_json(out / "proof.json")["files"]}
    assert 0 < said["safetensors"]["max_logprob_diff"] <= 1e-4  # against the adapter's own graph in peft
    assert 0 < said["gguf-f32"]["max_logprob_diff"] <= 1e-3
    assert not (out / "safetensors" / "student" / "adapter_config.json").exists()


def test_a_merge_that_forgets_the_scale_is_caught(tmp_path: Path, monkeypatch):
    from distill.export.source import Source
    from distill.gguf.adapter import MergedWeights

    base = make_tiny_model(tmp_path / "base", scale=0.1)
    source = Source(base, "x", tmp_path, adapter=make_adapter(base, tmp_path / "adapter"))
    monkeypatch.setattr(MergedWeights, "_scale", lambda *_: 1.0)
    (tmp_path / "out").mkdir()
    write_folder(base, tmp_path / "out", adapter=source.adapter)

    missed = {check.name: check.missed for check in proof.same_folder(source, tmp_path / "out")}

    assert missed["twin"] is not None and "merging changed log-probabilities" in missed["twin"]
    assert source.twin.missed is not None


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_a_folder_in_another_type_loads_and_is_within_its_rounding(tmp_path: Path, dtype: Any):
    import torch
    from transformers import AutoModelForCausalLM

    base = make_tiny_model(tmp_path / "base")
    report = stage.export_folder(str(base), tmp_path / "out", [stage.format_choice("safetensors", dtype=dtype)])

    assert report.missed is None
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / f"safetensors-{dtype}" / "base")
    assert made.dtype == {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]


def test_16_bit_rounding_is_torchs():
    import numpy as np
    import torch

    values = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)

    for kind, torch_type in (("BF16", torch.bfloat16), ("F16", torch.float16)):
        expected = torch.tensor(values).to(torch_type).view(torch.int16).numpy().reshape(-1)
        assert np.array_equal(encode(values, kind).view(np.int16), expected)


def answers(texts: list[str], values: list[str]) -> stage.Greedy:
    samples = [
        Sample(f"k{i}", f"p{i}", 0, "m", "m", "e", 10, "stop", None, text, True, text=text)
        for i, text in enumerate(texts)
    ]
    verdicts: Any = [Verdict(f"v{i}", f"k{i}", value, "") for i, value in enumerate(values)]  # type: ignore[arg-type]  # any text as a verdict
    return stage.Greedy(samples, verdicts)


def test_bounds_on_answers_are_told_when_missed():
    asked: Any = [SimpleNamespace(id=f"p{i}", level="", domain="") for i in range(4)]
    own = answers(["a", "b", "c", "d"], ["correct"] * 4)
    file = answers(["a", "b", "c", "x"], ["correct", "correct", "correct", "wrong"])
    entry = {"name": "gguf-q8_0", "tiers": [1, 2], "missed": []}

    got = stage.with_answers(entry, own, file, asked, Bounds(points=2.0, equal_share=0.95))
    loose = stage.with_answers(entry, own, file, asked, Bounds())

    assert (got["greedy_equal"], got["rate"]["k"], got["tiers"]) == (0.75, 3, [1, 2, 3])
    assert got["missed"] == [
        "answers: 75.0% correct where the student has 100.0%; the bound is 2 points",
        "answers: 75.0% are word for word the student's; the bound is 95%",
    ]
    assert loose["missed"] == []


def test_distributions_are_compared_on_the_students_accepted_answers():
    own = answers(["a", "b"], ["wrong", "correct"])
    ids: Any = {"prompt_ids": (1, 2), "prefill_ids": (3,)}
    both = stage.Greedy([replace(s, **ids, completion_ids=(n,)) for n, s in enumerate(own.samples, 7)], own.verdicts)

    assert stage.held_out(both) == [Text((1, 2, 3, 8), 3)]
    assert stage.held_out(stage.Greedy(both.samples[:1], both.verdicts[:1])) == [Text((1, 2, 3, 7), 3)]  # none accepted
    assert stage.held_out(own) == []  # an engine without ids


def test_an_importance_matrix_that_is_not_there_is_refused_before_anything_runs(tmp_path: Path):
    section = stage.Config.model_validate([{"gguf": {"type": "q4_k_m", "imatrix": "missing.gguf"}}])

    assert stage.check({"export": section}) == (
        ("export",), "imatrix `missing.gguf`: no such file; it is `none`, `traces` or a file of llama-imatrix",
    )  # fmt: skip
    assert stage.check({"export": stage.Config.model_validate([{"gguf": {"imatrix": "traces"}}])}) is None
    student = str(resolve("embedded-student"))
    for given, words in (("missing.gguf", "no such file"), ("traces", "goes with an experiment")):
        with pytest.raises(ConfigError, match=words):
            stage.export_folder(student, tmp_path / "out", [stage.format_choice("gguf", type="q4_k_m", imatrix=given)])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="`imatrix` has no effect on q8_0"):
        stage.format_choice("gguf", type="q8_0", imatrix="traces")


def test_the_key_of_an_export_holds_the_matrixs_content(tmp_path: Path):
    (tmp_path / "m.gguf").write_bytes(b"1")
    section = stage.Config.model_validate([{"gguf": {"type": "q4_k_m", "imatrix": str(tmp_path / "m.gguf")}}])
    before = stage.externals({"export": section})

    (tmp_path / "m.gguf").write_bytes(b"2")

    assert before != stage.externals({"export": section})


def test_a_folder_takes_a_file_of_llama_imatrix(tmp_path: Path):
    choice = stage.format_choice("gguf", type="iq4_xs", imatrix=str(GOLDEN / "student.dat"))

    report = stage.export_folder("embedded-student", tmp_path, [choice])

    (entry,) = report.data["files"]
    assert report.missed is None
    assert entry["name"] == "gguf-iq4_xs-imatrix" and entry["tiers"] == [1, 2, 3]
    assert entry["kl"] < 0.05


def test_a_missed_bound_is_the_reports(tmp_path: Path, monkeypatch):
    folder = make_tiny_model(tmp_path / "m")
    monkeypatch.setattr(proof, "LOGPROB_TOLERANCE", 0.0)

    report = stage.export_folder(str(folder), tmp_path / "out", [stage.format_choice("gguf", type="q8_0")])

    assert report.missed is not None
    assert report.missed.startswith("gguf-q8_0: twin: log-probabilities differ by")
    assert report.rows[0]["proved"] == "NO"


def test_any_folder_can_be_exported_and_again_into_the_same_place(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "My-Model")
    (folder / "README.md").write_text("---\nlicense: mit\n---\nA model.\n", encoding="utf-8")

    for _ in range(2):
        report = stage.export_folder(str(folder), tmp_path / "out", [stage.format_choice("gguf", type="Q8_0")])

    assert report.missed is None
    assert report.data["files"][0]["file"] == "gguf-q8_0/My-Model-q8_0.gguf"
    assert (tmp_path / "out" / "gguf-q8_0" / "My-Model-q8_0.gguf").exists()


def test_what_cannot_be_exported_is_one_line(tmp_path: Path):
    with pytest.raises(DistillError, match="no such folder or file"):
        stage.export_folder(str(tmp_path / "none"), tmp_path / "out", [])
    convert(resolve("embedded-student"), tmp_path / "x.gguf", "q8_0")
    with pytest.raises(DistillError, match="export takes a model folder, not a file"):
        stage.export_folder(str(tmp_path / "x.gguf"), tmp_path / "out", [])
    with pytest.raises(ConfigError, match="no export format `ggu`. Did you mean `gguf`"):
        stage.format_choice("ggu")
    with pytest.raises(ConfigError, match="--type: Input should be 'f32'"):
        stage.format_choice("gguf", type="q9")


def test_the_section_is_a_list_or_says_more():
    short = stage.Config.model_validate([{"format": "gguf", "type": "q8_0"}, "safetensors"])
    long = stage.Config.model_validate({"formats": ["gguf"], "problems": 10})

    assert [choice.dump() for choice in short.formats] == [
        {"format": "gguf", "type": "q8_0", "imatrix": "none"},
        {"format": "safetensors", "dtype": "stored", "adapter": "merged", "shard_gb": 5.0},
    ]  # fmt: skip
    assert (long.problems, long.formats[0].name) == (10, "gguf")
    assert stage.Config.model_validate([]).asks_nothing
    with pytest.raises(ValidationError, match="two of them would be written into gguf-q4_k_m-imatrix"):
        stage.Config.model_validate([{"gguf": {"imatrix": "traces"}}, {"gguf": {"imatrix": "a.dat"}}])
    with pytest.raises(ValidationError, match="typ"):
        stage.Config.model_validate([{"format": "gguf", "typ": "q8_0"}])


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: apache-2.0\ntags: [a]\n---\n# x", "apache-2.0"),
        ("# no head", None),
        ("---\n: [\n---\n", None),
        (None, None),
    ],
)
def test_the_licence_is_the_cards(tmp_path: Path, card: str | None, licence: str | None):
    if card is not None:
        (tmp_path / "README.md").write_text(card, encoding="utf-8")

    assert licence_of(tmp_path) == licence


def test_a_missing_tokenizer_is_named(tmp_path: Path):
    folder = make_tiny_model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()

    with pytest.raises(DistillError, match=r"no tokenizer.json there; save the model's fast tokenizer"):
        convert(folder, tmp_path / "x.gguf", "f16")
    assert json.loads((folder / "config.json").read_text())["model_type"] == "qwen3"
