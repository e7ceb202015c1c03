"""`distill plan` on whole experiments: what is told, what is advised, and how it ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click.testing
import pytest

from distill import experiment as experiments
from distill import pipeline
from distill.cli import app
from distill.core.errors import ConfigError, ThresholdMissed
from distill.plan import cost, experiment, gpus, memory
from distill.plan.experiment import Answer, Question
from distill.plan.gpus import GIB

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))

FILE = """
name: planned
problems: {source: {jsonl: {path: problems.jsonl, question: question, gold: answer}}, train: 1000}
import: {layout: reference}
verify: {verifier: math}
filter: [verdict, {at_most: 1}]
student: {model: Qwen/Qwen3-4B-Base, dtype: bf16}
train: {epochs: 2, batch_size: 64, micro_batch_size: 4, max_length: 8192, loss: none}
"""


def planned(tmp_path: Path, *overrides: str, gpu: str = "h100", **asked: Any) -> Answer:
    """The plan of FILE with some settings changed."""
    path = tmp_path / "planned.yaml"
    path.write_text(FILE)
    (arm,) = experiments.load(path, pipeline.SECTIONS, overrides).arms
    return experiment.answer(arm, Question(*gpus.parse(gpu), **asked))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_can_be_planned(path: Path) -> None:
    report, _ = experiment.run(experiments.load(path, pipeline.SECTIONS), Question(*gpus.parse("h200:8")))
    assert report.missed is None
    assert report.rows


def test_what_does_not_fit_is_told_with_the_changes_that_make_it_fit(tmp_path: Path) -> None:
    found = planned(tmp_path)

    (phase,) = found.phases
    assert not phase.fits
    assert [change.setting for change in found.changes] == [
        "train.gradient_checkpointing=true", "train.micro_batch_size=1",
    ]  # fmt: skip
    assert [change.fits for change in found.changes] == [False, True]
    assert found.changes[0].saves == pytest.approx(phase.total - found.changes[0].total)


def test_the_advised_settings_are_settings_and_keep_their_promise(tmp_path: Path) -> None:
    found = planned(tmp_path, gpu="24GB")
    assert found.changes[-1].fits
    overrides: list[str] = []
    for change in found.changes:
        overrides.append(change.setting)
        (phase,) = planned(tmp_path, *overrides, gpu="24GB").phases
        assert phase.total == pytest.approx(change.total)


def test_two_gpus_are_advised_to_share_the_weights(tmp_path: Path) -> None:
    found = planned(tmp_path, "train.gradient_checkpointing=true", "train.micro_batch_size=1", gpu="a100-40gb:4")
    assert [change.setting for change in found.changes] == ["sharding over the GPUs (FSDP2)"]
    (phase,) = planned(
        tmp_path, "train.gradient_checkpointing=true", "train.micro_batch_size=1", gpu="a100-40gb:4", sharding="fsdp2"
    ).phases
    assert phase.fits and phase.total == pytest.approx(found.changes[0].total)


def test_nothing_helps_on_a_gpu_that_is_too_small(tmp_path: Path) -> None:
    found = planned(tmp_path, gpu="2GB")
    assert found.changes and not found.changes[-1].fits
    assert found.changes[-1].setting == "train.max_length=1024"


def test_an_adapter_needs_less_and_a_base_in_4_bits_less_still(tmp_path: Path) -> None:
    totals = [planned(tmp_path, f"student.adapter={kind}").phases[0].total for kind in ("none", "lora", "qlora")]
    assert totals == sorted(totals, reverse=True)


def test_a_row_longer_than_the_context_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`train.max_length` is 40000, but the context .* ends at 32768"):
        planned(tmp_path, "train.max_length=40000")


def test_what_train_refuses_is_not_planned(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ZeRO-3 `train` refuses a trained output head"):
        planned(tmp_path, gpu="h100:8", sharding="zero3")


def test_time_follows_the_tokens_and_the_price_the_time(tmp_path: Path) -> None:
    found = planned(tmp_path, rows=500, row_tokens=1000)
    assert found.plan is not None
    plan, (gpu, _) = found.plan, gpus.parse("h100")
    assert plan.work == cost.Work(500, 1000, 2)
    low, high = cost.seconds(plan.training, plan.work, gpu, 1) or (0, 0)
    # 6 operations a weight and token, attention's apart: a bound that needs no formula of ours.
    ideal = 6 * plan.training.shape.parameters * plan.work.tokens / 989e12
    assert ideal / cost.USED[1] < low < 1.2 * ideal / cost.USED[1]
    assert high / low == pytest.approx(cost.USED[1] / cost.USED[0])
    assert cost.seconds(plan.training, plan.work, gpu, 2) == pytest.approx((low / 2, high / 2))


def test_rows_are_bounded_by_problems_answers_and_filter(tmp_path: Path) -> None:
    plan = planned(tmp_path).plan
    assert plan is not None and plan.work.bound
    assert (plan.work.rows, plan.work.row_tokens) == (1000, 8192)


def test_checkpointing_costs_time_and_a_frozen_base_saves_it(tmp_path: Path) -> None:
    def operations(*overrides: str) -> float:
        plan = planned(tmp_path, *overrides).plan
        assert plan is not None
        return cost.operations(plan.training, 1000)

    full, lora = operations(), operations("student.adapter=lora")
    again = operations("train.gradient_checkpointing=true")
    assert 1.2 < again / full < 4 / 3
    assert 0.65 < lora / full < 0.75


def test_packing_says_what_its_mask_costs(tmp_path: Path) -> None:
    packed = ("train.micro_batch_size=null", "train.packing=true", "train.micro_batch_tokens=8192")
    alone = planned(tmp_path, "train.micro_batch_size=1").plan
    found = planned(tmp_path, *packed)
    assert alone is not None and found.plan is not None
    mask = 2 * 8192**2 * 36
    assert memory.saved(found.plan.training) - memory.saved(alone.training) > mask
    assert any("square" in remark for remark in found.phases[0].remarks)


def test_the_command_ends_with_3_where_something_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "planned.yaml"
    path.write_text(FILE)
    run = click.testing.CliRunner().invoke
    tight = run(app, ["plan", str(path), "--gpus", "24GB"])
    assert isinstance(tight.exception, ThresholdMissed) and tight.exception.exit_code == 3
    assert "train.gradient_checkpointing=true" in tight.output
    changed = ["--set", "train.gradient_checkpointing=true"]
    roomy = run(app, ["plan", str(path), *changed, "--gpus", "h200:2", "--sharding", "fsdp2", "--price", "2", "--json"])
    assert roomy.exit_code == 0
    data = json.loads(roomy.stdout)["counts"]["arms"]["main"]
    assert data["stages"][0]["fits"] and data["tokens"] == 1000 * 8192 * 2
    assert data["money"][0] == pytest.approx(data["seconds"][0] / 3600 * 4)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [("h1000", "Did you mean h100"), ("h100:0", "a number of GPUs"), ("0GB", "without memory"), ("cpu:2", "once")],
)
def test_gpus_that_are_none_are_refused(text: str, wrong: str) -> None:
    with pytest.raises(ConfigError, match=wrong):
        gpus.parse(text)


def test_gpus_are_read_in_every_form() -> None:
    assert gpus.parse("H100:8")[1] == 8
    assert gpus.parse("24GB:2")[0].memory == 24 * GIB
    assert gpus.parse("cpu")[0].is_cpu


def test_planning_reads_no_model_library() -> None:
    import subprocess
    import sys

    path = CONFIGS[0].parent / "served-teacher-7b.yaml"
    code = (
        "import sys; from distill.cli import app; app(['plan', sys.argv[1], '--gpus', 'h100'], standalone_mode=False);"
        "print([name for name in ('torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")
