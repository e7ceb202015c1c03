"""The train stage: what it leaves, what it refuses before a model loads, and that a killed run goes on bit for bit."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from safetensors.numpy import load_file

from distill.core import files, plugins
from distill.core.config import Settings
from distill.core.errors import DistillError
from distill.core.fingerprint import identify
from distill.core.models import resolve
from distill.core.stage import StageRun
from students import checkpoints, settings, train
from students.rows import read_student
from tests.students.made import a_trace, stage_of
from tests.tiny import make_tiny_model

SHORT: dict[str, Any] = {
    "epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "checkpoint_every_s": 0.0,
    "loss": {"name": "forward_kl", "weight": 0.5, "top_k": 4},
}  # fmt: skip
LORA: dict[str, Any] = {"adapter": {"rank": 8, "alpha": 16, "dropout": 0.1}}


class Killed(BaseException):
    """Stands for SIGKILL: nothing that catches errors may catch it."""


@pytest.fixture(autouse=True)
def _crash_points(monkeypatch: pytest.MonkeyPatch) -> None:
    def kill(*_: Any) -> None:
        raise Killed

    files._passed.clear()
    monkeypatch.setattr(os, "kill", kill)


def twelve(folder: Path) -> list[Any]:
    student = read_student(folder)
    return [a_trace(student, n) for n in range(12)]


def trained(stage: StageRun) -> dict[str, bytes]:
    """Everything a stage leaves for others, by name; clock figures apart."""
    out = stage.out
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != "timing.json" and "work" not in path.relative_to(out).parts
    }


@pytest.mark.parametrize("student", [{}, LORA], ids=["full", "lora"])
def test_the_same_seed_gives_the_same_bytes_and_another_does_not(
    tmp_path: Path, tiny_model: Path, student: dict[str, Any]
) -> None:
    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        stage = stage_of(
            tmp_path / name,
            tiny_model,
            train_settings=SHORT,
            student_settings=student,
            seed=seed,
            traces=twelve(tiny_model),
        )
        train.run(stage)
        runs.append(trained(stage))
    weights = "student/adapter_model.safetensors" if student else "student/model.safetensors"
    assert runs[0] == runs[1]
    assert runs[0][weights] != runs[2][weights]
    set_ = stage_of(
        tmp_path / "d",
        tiny_model,
        train_settings={**SHORT, "seed": 0},
        student_settings=student,
        seed=5,
        traces=twelve(tiny_model),
    )
    train.run(set_)
    assert trained(set_)[weights] == runs[0][weights]  # the section's seed, 0 included, goes before the experiment's


CRASHES = [
    "checkpoint.half-written:3", "checkpoint.before-rename:3", "checkpoint.after-rename:3", "checkpoint.after-rename:5",
    "train.before-final", "train.final-written",
]  # fmt: skip


PACKED: dict[str, Any] = {"packing": True, "micro_batch_tokens": 130}


@pytest.mark.parametrize(
    ("layout", "student"), [({}, {}), ({}, LORA), (PACKED, LORA)], ids=["full", "lora", "packed-lora"]
)
def test_a_killed_run_goes_on_bit_for_bit(
    tmp_path: Path, tiny_model: Path, layout: dict[str, Any], student: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six steps straight, against a kill at every write point (in the middle of an epoch too) and another start."""
    from students.trainer import DistillTrainer

    calls: list[int] = []
    inner = DistillTrainer.compute_loss
    monkeypatch.setattr(
        DistillTrainer,
        "compute_loss",
        lambda self, *a, **k: (calls.append(self.state.global_step), inner(self, *a, **k))[1],
    )

    def stage(name: str) -> StageRun:
        return stage_of(
            tmp_path / name, tiny_model, train_settings={**SHORT, **layout}, student_settings=student,
            traces=twelve(tiny_model),
        )  # fmt: skip

    train.run(stage("straight"))
    assert sorted(set(calls)) == [0, 1, 2, 3, 4, 5]
    assert (len(calls) > 6) == bool(layout)  # packed steps make several passes
    expected = trained(stage("straight"))
    for crash in CRASHES if not student else CRASHES[1:4]:
        name = re.sub(r"\W", "-", crash)
        monkeypatch.setenv("DISTILL_CRASH_AT", crash)
        files._passed.clear()
        with pytest.raises(Killed):
            train.run(stage(name))
        monkeypatch.delenv("DISTILL_CRASH_AT")
        calls.clear()
        train.run(stage(name))
        first = {"checkpoint.half-written:3": 2, "checkpoint.before-rename:3": 2, "checkpoint.after-rename:3": 3}.get(
            crash, 5
        )
        assert sorted(set(calls)) == list(range(first, 6)), crash
        assert trained(stage(name)) == expected, crash


def test_a_checkpoint_that_lost_or_changed_a_file_is_not_resumed(tmp_path: Path, tiny_model: Path) -> None:
    """A missing optimizer file would go on with a fresh Adam in silence."""
    stage = stage_of(tmp_path, tiny_model, train_settings=SHORT, traces=twelve(tiny_model))
    train.run(stage)
    work = stage.work
    folder = next(iter(work.glob("checkpoint-*")))
    plan = files.read_json(folder / "checkpoint.json")["plan"]
    assert checkpoints.latest(work, plan) == folder
    assert checkpoints.latest(work, "another plan") is None
    optimizer = (folder / "optimizer.pt").read_bytes()
    (folder / "optimizer.pt").write_bytes(optimizer[:-1] + b"x")
    assert checkpoints.latest(work, plan) is None
    (folder / "optimizer.pt").unlink()
    assert checkpoints.latest(work, plan) is None
    (folder / "optimizer.pt").write_bytes(optimizer)
    assert checkpoints.latest(work, plan) == folder


def test_full_weights_leave_a_complete_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tiny_model = make_tiny_model(tmp_path / "base")
    config = json.loads((tiny_model / "config.json").read_text())  # one that disagrees with its tokenizer, as many do
    (tiny_model / "config.json").write_text(json.dumps({**config, "pad_token_id": None, "bos_token_id": 7}))
    traces = twelve(tiny_model)
    traces[5] = a_trace(read_student(tiny_model), 5, completion_ids=None)
    stage = stage_of(tmp_path, tiny_model, train_settings=SHORT, traces=traces)
    report = train.run(stage)
    out = stage.out / "student"

    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (out / name).read_bytes() == (tiny_model / name).read_bytes()
    assert json.loads((out / "generation_config.json").read_text())["eos_token_id"] == read_student(tiny_model).end_id
    base, config = (json.loads((folder / "config.json").read_text()) for folder in (tiny_model, out))
    assert config == base
    assert identify(out).tokenizer == identify(tiny_model).tokenizer
    assert identify(out).id != identify(tiny_model).id
    assert AutoModelForCausalLM.from_pretrained(out).config.tie_word_embeddings
    assert AutoTokenizer.from_pretrained(out).chat_template
    assert not any(str(tiny_model.parent).encode() in content for content in trained(stage).values())

    data = json.loads((stage.out / "report.json").read_text())
    history = json.loads((stage.out / "history.json").read_text())
    assert (data["rows"], data["rendered"], data["steps"], len(history)) == (12, {"no ids": 1}, 6, 6)
    assert 0 < data["kd_tokens"] < data["trained_tokens"] == sum(record["tokens"] for record in history) / 2
    assert 0.2 < data["covered_mass"] < 1
    assert set(json.loads((stage.out / "timing.json").read_text())) == {"seconds", "peak_rss_mib", "processes"}
    assert not {"seconds", "peak_rss_mib"} & set(data)
    assert [record["step"] for record in history] == [1, 2, 3, 4, 5, 6]
    assert history[-1]["epoch"] == 2
    assert [record["lr"] for record in history][-1] < max(record["lr"] for record in history) <= 1e-3
    assert "12 rows, 6 steps" in report.summary
    assert sorted(path.name for path in stage.out.iterdir()) == [
        "contract.json",
        "history.json",
        "report.json",
        "student",
        "timing.json",
        "work",
    ]


def test_an_adapter_names_its_base_and_brings_the_rest(tmp_path: Path) -> None:
    """On the embedded student: its declared name, not where it was found, is what the adapter says."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = resolve("embedded-student")
    stage = stage_of(
        tmp_path, folder, traces=twelve(folder), train_settings={**SHORT, "epochs": 1, "learning_rate": 1e-2},
        student_settings={**LORA, "model": "embedded"},
    )  # fmt: skip
    train.run(stage)
    out = stage.out / "student"
    config = json.loads((out / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == ("embedded-student", 8)
    assert sorted(path.name for path in out.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "chat_template.jinja", "generation_config.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert not any(str(folder.parent).encode() in content for content in trained(stage).values())
    assert not any("lm_head" in name or "embed" in name for name in load_file(out / "adapter_model.safetensors"))
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.arange(1, 9)[None]
    before = base(ids).logits
    after = PeftModel.from_pretrained(base, out)(ids).logits
    assert (after - before).abs().max() > 1e-3


def test_an_overfitted_student_reasons_and_stops_by_itself(tmp_path: Path) -> None:
    """The end token is trained, and the written generation config knows it."""
    from transformers import AutoModelForCausalLM

    folder = make_tiny_model(tmp_path / "m", scale=0.05)
    student = read_student(folder)
    traces = [a_trace(student, 4), a_trace(student, 9)]
    stage = stage_of(
        tmp_path / "run",
        folder,
        traces=traces,
        shard=False,
        train_settings={"epochs": 60, "batch_size": 2, "learning_rate": 1e-2},
    )
    train.run(stage)
    import torch

    model = AutoModelForCausalLM.from_pretrained(stage.out / "student")
    for trace in traces:
        prompt = torch.tensor([[*(trace.prompt_ids or ()), *(trace.prefill_ids or ())]])
        got = model.generate(prompt, max_new_tokens=200, do_sample=False)[0, prompt.shape[1] :].tolist()
        assert tuple(got) == trace.completion_ids


def test_long_rows_are_dropped_and_the_context_is_the_limit(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m", context=60, layers=1)
    traces = twelve(folder)
    stage = stage_of(
        tmp_path / "run", folder, traces=traces, shard=False, train_settings={"epochs": 1, "batch_size": 4}
    )
    data = train.run(stage).data
    assert data["dropped"]["over 60 tokens"] == 12 - data["rows"] > 0
    beyond = stage_of(tmp_path / "more", folder, traces=traces, shard=False, train_settings={"max_length": 61})
    with pytest.raises(DistillError, match="context ends at 60"):
        train.run(beyond)


def test_answers_alone_train_without_reasoning_or_matching(tmp_path: Path, tiny_model: Path) -> None:
    stage = stage_of(
        tmp_path,
        tiny_model,
        traces=twelve(tiny_model),
        train_settings={"epochs": 1, "batch_size": 4, "target": "answer"},
    )
    data = train.run(stage).data
    assert data["rendered"] == {"answer only": 12}
    assert (data["kd_tokens"], data["kd_last"], data["covered_mass"]) == (0, None, None)


def test_matching_without_logits_or_with_other_tokens_is_refused_before_a_model_is_built(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(*_: Any) -> None:
        raise AssertionError("a model was built")

    monkeypatch.setattr(train, "_train", build)
    none = stage_of(tmp_path / "a", tiny_model, train_settings=SHORT, shard=False)
    with pytest.raises(DistillError, match="none were recorded"):
        train.run(none)
    traces = [a_trace(read_student(tiny_model), n, tokenizer="other") for n in range(4)]
    with pytest.raises(DistillError, match="no row has any"):
        train.run(stage_of(tmp_path / "b", tiny_model, train_settings=SHORT, traces=traces))
    with pytest.raises(DistillError, match="holds 8 log-probabilities"):
        train.run(stage_of(tmp_path / "c", tiny_model, train_settings={**SHORT, "loss": {"name": "jsd", "top_k": 9}}))


def test_a_scoring_stage_goes_before_the_sampling_stage(tmp_path: Path, tiny_model: Path) -> None:
    traces = twelve(tiny_model)
    stage = stage_of(tmp_path / "run", tiny_model, train_settings={**SHORT, "epochs": 1}, traces=traces)
    scored = stage_of(tmp_path / "scored", tiny_model, train_settings=SHORT, traces=traces[:3])
    stage = StageRun(
        stage.name, stage.out, {**stage.inputs, "score": scored.inputs["sample"]}, stage.sections, 0, stage.workspace
    )
    data = train.run(stage).data
    assert data["kd_tokens"] == sum(len(trace.completion_ids or ()) for trace in traces[:3])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"micro_batch_size": 3, "batch_size": 8}, "does not divide"),
        ({"micro_batch_size": 2, "packing": True}, "give one of them"),
        ({"micro_batch_size": 2, "micro_batch_tokens": 100}, "give one of them"),
        ({"report_to": ["mlflow"]}, "'trackio', 'wandb' or 'tensorboard'"),
        ({"target": "answer", "loss": "forward_kl"}, "no teacher logits to match"),
        ({"loss": "foward_kl"}, "Did you mean `forward_kl`"),
        ({"loss": {"name": "jsd", "beta": 1.0}}, "less than 1"),
        ({"loss": {"name": "forward_kl", "weight": 0.0}}, "greater than 0"),
        ({"loss": {"name": "forward_kl", "beta": 0.5}}, "beta"),
        ({"warmup_ratio": 1.0}, "less than 1"),
        ({"epochs": 0}, "greater than 0"),
        ({"learning_rat": 1e-5}, "learning_rat"),
    ],
)
def test_impossible_settings_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        train.Config.model_validate(given)


@pytest.mark.parametrize("name", plugins.names("students.losses"))
def test_every_loss_is_a_plugin_with_help_and_settings(name: str) -> None:
    assert plugins.help_line("students.losses", name)
    config = train.Config.model_validate({"loss": name})
    assert config.matching is not None
    assert (config.matching.weight, config.matching.top_k, config.matching.loss_temperature) == (0.5, 16, 1.0)
    assert callable(plugins.load("students.losses", name).build(config.matching))


def test_no_loss_has_two_spellings_and_only_results_are_keyed() -> None:
    assert (
        train.Config.model_validate({"loss": "none"}) == train.Config.model_validate({"loss": None}) == train.Config()
    )
    keyed = train.Config().keyed()
    assert not {"checkpoint_every_s", "logging_every", "gradient_checkpointing", "report_to"} & set(keyed)
    assert {"micro_batch_size", "micro_batch_tokens", "packing", "seed", "loss", "target"} <= set(keyed)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("none", None),
        ("lora", settings.Lora()),
        ({"lora": {"rank": 4}}, settings.Lora(rank=4)),
        ({"rank": 4}, settings.Lora(rank=4)),
        (None, None),
    ],
)
def test_the_adapter_has_short_and_long_forms(tiny_model: Path, given: Any, expected: Any) -> None:
    assert settings.Config.model_validate({"model": str(tiny_model), "adapter": given}).adapter == expected


def test_the_adapter_refuses_what_it_cannot_do(tiny_model: Path) -> None:
    for given, message in (
        ("prefix_tuning", "not 'prefix_tuning'"),
        ({"rank": 4, "bits": 4}, "bits"),
        ({"targets": []}, "names no layer"),
        ({"dropout": 1.0}, "less than 1"),
    ):
        with pytest.raises(ValidationError, match=message):
            settings.Config.model_validate({"model": str(tiny_model), "adapter": given})


class Other(Settings):
    """Stands for the sections of other stages."""

    top_logprobs: int = 0
    top_k: int = 16


@pytest.mark.parametrize(
    ("loss", "others", "message"),
    [
        ("none", {}, None),
        ({"name": "jsd", "top_k": 8}, {"sample": Other(top_logprobs=8)}, None),
        ({"name": "jsd", "top_k": 9}, {"sample": Other(top_logprobs=8)}, "`sample.top_logprobs` is 8"),
        ({"name": "jsd", "top_k": 9}, {"sample": Other(), "score": Other(top_k=16)}, None),
        (
            {"name": "jsd", "top_k": 17},
            {"sample": Other(top_logprobs=64), "score": Other(top_k=16)},
            "`score.top_k` is 16",
        ),
        ("jsd", {}, "nothing records them"),
    ],
)
def test_a_loss_whose_logits_nobody_records_is_refused(
    loss: Any, others: dict[str, Settings], message: str | None
) -> None:
    got = train.check({"train": train.Config.model_validate({"loss": loss}), **others})
    if message is None:
        assert got is None
    else:
        assert got is not None
        assert got[0] == ("train", "loss")
        assert message in got[1]


def test_another_base_is_another_key(tmp_path: Path, tiny_model: Path) -> None:
    other = make_tiny_model(tmp_path / "m", seed=1)
    ids = [
        train.externals({"student": settings.Config(model=str(folder)), "train": train.Config()})["student"]
        for folder in (tiny_model, other, tiny_model)
    ]
    assert ids[0] == ids[2] != ids[1]


def test_settings_import_no_heavy_library() -> None:
    """A wrong experiment file is refused within a second."""
    names = [
        "students.train",
        "students.settings",
        *(f"students.losses.{name}" for name in plugins.names("students.losses")),
    ]
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "matplotlib", "numpy"}
    code = f"import sys, importlib\nfor n in {names}: importlib.import_module(n)\nprint({heavy} & sys.modules.keys())"
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.strip() == "set()"


@pytest.mark.slow
@pytest.mark.parametrize("layout", [{}, PACKED], ids=["padded", "packed"])
@pytest.mark.parametrize("crash", CRASHES)
def test_a_real_kill_goes_on_bit_for_bit(tmp_path: Path, tiny_model: Path, crash: str, layout: dict[str, Any]) -> None:
    """As above with SIGKILL in a process of its own, LoRA with dropout."""
    how = {**SHORT, **layout}
    code = (
        "from pathlib import Path; from students import train; from tests.students.test_train import *\n"
        f"train.run(stage_of(Path({str(tmp_path / 'killed')!r}), Path({str(tiny_model)!r}), train_settings={how}, "
        f"student_settings=LORA, traces=twelve(Path({str(tiny_model)!r}))))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for env, expected in (({"DISTILL_CRASH_AT": crash}, -signal.SIGKILL), ({}, 0)):
        got = subprocess.run([sys.executable, "-c", code], env={**environment, **env}, capture_output=True, text=True)
        assert got.returncode == expected, got.stderr
    straight = stage_of(
        tmp_path / "straight", tiny_model, train_settings=how, student_settings=LORA, traces=twelve(tiny_model)
    )
    train.run(straight)
    assert trained(straight) == trained(
        stage_of(tmp_path / "killed", tiny_model, train_settings=how, student_settings=LORA, traces=twelve(tiny_model))
    )
