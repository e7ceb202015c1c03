"""Every preset loads, fits together with the rest of an experiment, and fits the GPUs that it names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from distill import experiment as experiments
from distill import init, pipeline
from distill.core.errors import ConfigError
from distill.experiment import Experiment
from distill.plan import experiment as planning
from distill.plan import gpus, shapes
from distill.plan.experiment import Question
from distill.text.turn import check_template
from students import settings
from tests.tiny import tiny_tokenizer

FOLDER = Path(settings.__file__).parent / "presets"
R1_PAIRS = {
    "r1-distill-qwen-1.5b", "r1-distill-qwen-7b", "r1-distill-qwen-14b", "r1-distill-qwen-32b", "r1-distill-llama-8b",
    "r1-distill-llama-70b",
}  # fmt: skip


@pytest.fixture(autouse=True)
def beside_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of problems that is the reader's to bring."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("problems.jsonl").write_text('{"question": "2+2?", "answer": "4"}\n')


def started(folder: Path, preset: str) -> Experiment:
    """What `distill init --preset` writes, loaded and checked."""
    init.write(folder, pipeline.SECTIONS, preset)
    path = folder / "experiment.yaml"
    loaded = experiments.load(path, pipeline.SECTIONS)
    experiments.check(loaded, pipeline.CHECKS, path)
    return loaded


def test_the_six_pairs_and_small_bases_are_there() -> None:
    assert set(init.presets()) > R1_PAIRS
    assert len(init.presets()) == len(R1_PAIRS) + 7


@pytest.mark.parametrize("preset", init.presets())
def test_a_preset_starts_an_experiment_that_fits_together(preset: str, tmp_path: Path) -> None:
    (arm,) = started(tmp_path, preset).arms
    assert pipeline.stages_of(arm, preset)
    assert getattr(arm.sections["student"], "model") in shapes.table()  # noqa: B009  # a Settings of some kind


@pytest.mark.parametrize("preset", init.presets())
def test_a_preset_says_what_it_chose_and_why(preset: str) -> None:
    text = (FOLDER / f"{preset}.yaml").read_text()
    for choice in ("# Rate:", "# Template:", "# Think tokens:", "# KL:", "# Adapter:"):
        assert choice in text, choice
    for setting in ("  template:", "  think_tokens:", "  adapter:", "  learning_rate:", "  epochs:", "  batch_size:"):
        assert setting in text, setting


@pytest.mark.parametrize("preset", init.presets())
def test_a_preset_fits_the_gpus_that_it_names(preset: str, tmp_path: Path) -> None:
    text = (FOLDER / f"{preset}.yaml").read_text()
    named = re.search(r"(one|two|four|eight) (\d+) GB GPUs?( \(FSDP2\))?", text)
    assert named is not None
    count = {"one": 1, "two": 2, "four": 4, "eight": 8}[named[1]]
    gpu = {"24": "rtx4090", "40": "a100-40gb", "80": "h100"}[named[2]]
    assert (count > 1) == bool(named[3])
    asked = Question(*gpus.parse(f"{gpu}:{count}"), sharding="fsdp2" if count > 1 else "ddp")
    report, changes = planning.run(started(tmp_path, preset), asked)
    assert report.missed is None and not changes


def test_the_packaged_template_thinks_and_can_be_told_not_to(tmp_path: Path) -> None:
    template = settings.template_file("think").read_text()
    tokenizer = tiny_tokenizer(tmp_path, template=template)
    for thinks in (True, False):
        check_template(tokenizer, ("system", "user"), thinks=thinks)
    question = [{"role": "user", "content": "2+2?"}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert asked.endswith("User: 2+2?\n\nAssistant: <think>\n")
    whole = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": "4"}], tokenize=False)
    assert whole.rstrip().endswith(f"Assistant: 4{tokenizer.eos_token}")


def test_an_unknown_preset_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="Did you mean `qwen3-4b`"):
        init.write(tmp_path / "new", pipeline.SECTIONS, "qwen3-4")
    assert not (tmp_path / "new").exists()
