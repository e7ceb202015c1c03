"""A live teacher through settings, stage and trainer: what is refused, what a batch gets of it, that it is exact."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core import files
from distill.core.device import Placement
from distill.core.errors import ConfigError, DistillError
from distill.pipeline import CHECKS, SECTIONS
from students import live_teacher, train
from students.collate import Collator
from students.head_loss import LiveRows, Matching
from students.live_teacher import LiveTeacher
from students.packing import Layout
from students.rows import read_student
from tests.students.made import stage_of
from tests.students.naive import DIVERGENCES, build
from tests.students.test_trainer import load, rows_of, trainer_of
from tests.tiny import make_tiny_model

CPU = Placement("cpu", "float32", "as set")
FULL: dict[str, Any] = {"name": "forward_kl", "vocabulary": "full"}


def live(folder: Path, student: Path | None = None, **about: Any) -> LiveTeacher:
    settings: dict[str, Any] = {"longest": 100, "placement": CPU, **about}
    return LiveTeacher(str(folder), None, text=read_student(student or folder), **settings)


@pytest.fixture(scope="module")
def teacher_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wider, biased by other weights, soft-capped, with more padding rows: none of that is the student's business."""
    return make_tiny_model(
        tmp_path_factory.mktemp("teacher") / "m", architecture="gemma2", hidden=96, layers=1, seed=5,
        padded_vocab=400, final_logit_softcapping=20.0,
    )  # fmt: skip


@pytest.mark.parametrize("name", DIVERGENCES)
@pytest.mark.parametrize("packed", [False, True])
def test_a_student_that_is_its_own_teacher_has_a_divergence_of_zero(
    tmp_path: Path, tiny_model: Path, name: str, packed: bool
) -> None:
    rows, layout = rows_of(tiny_model, 6), Layout(tokens=400, packed=True) if packed else Layout()
    match = Matching(build(name), 0.5, 2.0, 320)
    trainer = trainer_of(tmp_path, tiny_model, rows, live(tiny_model), match=match, micro=6, layout=layout)
    collator = Collator(rows, live(tiny_model), layout)
    for batch in collator([{"row": n} for n in range(6)])["passes"] if packed else [collator([{"row": 0}, {"row": 4}])]:
        sums = trainer._forward(batch)
        tokens = int(batch["teacher_present"].sum())
        assert tokens == int(batch["teacher_rows"].sum()) > 0
        assert abs(sums.kd) / tokens < 1e-6
        assert sums.covered == tokens


@pytest.mark.parametrize("positions", ["all", "reasoning", "answer"])
def test_another_teacher_gives_what_plain_logits_give(
    tmp_path: Path, tiny_model: Path, teacher_model: Path, positions: Any
) -> None:
    """Worked out with full logits of both models, row by row, for every choice of positions."""
    rows, divergence = rows_of(tiny_model, 6), build("jsd")
    match = Matching(divergence, 0.3, 2.0, 320)
    teaching = live(teacher_model, tiny_model, positions=positions)
    assert teaching.vocab_size == 320
    trainer = trainer_of(tmp_path, tiny_model, rows, teaching, match=match, micro=6)
    sums = trainer._forward(trainer.data_collator([{"row": n} for n in range(6)]))

    student, teacher = load(tiny_model), load(teacher_model).eval()
    loss, kd = 0.0, 0.0
    for row in rows:
        ids = torch.from_numpy(row.ids).long()[None]
        with torch.no_grad():
            own_RV, theirs_RV = (model(ids).logits[0, row.start - 1 : -1].double() for model in (student, teacher))
        labels_R = torch.from_numpy(row.completion_ids).long()
        ce_R = torch.nn.functional.cross_entropy(own_RV, labels_R, reduction="none")
        kd_R, _ = divergence((theirs_RV[:, :320] / 2).log_softmax(1), (own_RV / 2).log_softmax(1))
        w_R = 0.3 * torch.from_numpy(row.counts(positions))
        loss, kd = loss + float(((1 - w_R) * ce_R + w_R * 4 * kd_R).sum()), kd + float((kd_R * (w_R > 0)).sum())
    assert float(sums.loss) == pytest.approx(loss, rel=1e-5)
    assert float(sums.kd) == pytest.approx(kd, rel=1e-4)


def test_positions_share_the_trained_tokens_between_them(tiny_model: Path) -> None:
    teaching = live(tiny_model)
    for row in rows_of(tiny_model, 4):
        parts = {}
        for positions in ("all", "reasoning", "answer"):
            teaching.positions = positions
            parts[positions] = teaching.columns([row])["teacher_present"]
        assert parts["all"].all() and len(parts["all"]) == len(row.completion_ids)
        assert (parts["reasoning"] ^ parts["answer"]).all()
        assert parts["reasoning"].any() and parts["answer"].any()
        assert not teaching.blank(3)["teacher_present"].any()


def test_the_teacher_stays_as_it_was(tmp_path: Path, tiny_model: Path, teacher_model: Path) -> None:
    teaching = live(teacher_model, tiny_model)
    before = {name: value.clone() for name, value in teaching.core.state_dict().items()}
    match = Matching(build("forward_kl"), 1.0, 1.0, teaching.vocab_size)
    trainer = trainer_of(tmp_path, tiny_model, rows_of(tiny_model, 8), teaching, match=match)
    history = trainer.run()
    assert not teaching.core.training
    assert all(parameter.grad is None for parameter in teaching.core.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teaching.core.state_dict().items())
    assert history[-1]["kd"] < history[0]["kd"]
    batch = trainer.data_collator([{"row": 0}])
    rows = teaching.rows(batch, batch["labels"][:, 1:] != -100)
    assert isinstance(rows, LiveRows) and not rows.hidden_RG.requires_grad


def test_a_whole_stage_with_a_live_teacher(tmp_path: Path, tiny_model: Path, teacher_model: Path) -> None:
    """Without one recorded logit, and for answers alone too, which no shard could teach."""
    from teachers import settings as teaching

    for target in ("trace", "answer"):
        settings = {"epochs": 1, "batch_size": 4, "loss": FULL, "target": target}
        stage = stage_of(tmp_path / target, tiny_model, train_settings=settings, shard=False)
        teacher = teaching.Config.model_validate({"model": str(teacher_model)})
        stage.sections["teacher"] = teacher
        data = train.run(stage).data
        assert data["kd_tokens"] == data["trained_tokens"] > 0
        assert data["covered_mass"] == 1
        assert files.read_json(stage.out / "history.json")[0]["kd"] > 0


def test_another_live_teacher_is_another_student(tiny_model: Path, teacher_model: Path) -> None:
    from students import settings as learning
    from teachers import settings as teaching

    student = learning.Config.model_validate({"model": str(tiny_model)})

    def identity(folder: Path, loss: Any) -> tuple[dict[str, Any], dict[str, str]]:
        sections = {
            "train": train.Config.model_validate({"loss": loss}), "student": student,
            "teacher": teaching.Config.model_validate({"model": str(folder)}),
        }  # fmt: skip
        return train.keyed(sections), train.externals(sections)

    assert identity(tiny_model, FULL) != identity(teacher_model, FULL)
    recorded = {"name": "forward_kl"}
    assert identity(tiny_model, recorded) == identity(teacher_model, recorded)  # its shards are what counts then


@pytest.fixture
def other_tokenizer(tmp_path: Path, tiny_model: Path) -> Path:
    """The same model folder with two ids that have changed places."""
    folder = shutil.copytree(tiny_model, tmp_path / "other")
    tokenizer = files.read_json(folder / "tokenizer.json")
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    files.write_json(folder / "tokenizer.json", tokenizer)
    return folder


def test_teachers_that_cannot_be_live_are_refused_in_one_line(
    tmp_path: Path, tiny_model: Path, other_tokenizer: Path
) -> None:
    small = make_tiny_model(tmp_path / "small", vocab=310)
    short = make_tiny_model(tmp_path / "short", context=50)
    with pytest.raises(DistillError, match="cannot be matched: SFT only, because"):
        live(other_tokenizer, tiny_model)
    with pytest.raises(DistillError, match="has 320 entries, but the teacher .* only 310 rows"):
        live(small, tiny_model)
    with pytest.raises(DistillError, match="a row has 100 tokens, but the context of the teacher .* ends at 50"):
        live(short, tiny_model)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    files.write_json(adapter / "adapter_config.json", {"base_model_name_or_path": str(tiny_model)})
    with pytest.raises(DistillError, match="is an adapter"):
        live(adapter, tiny_model)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ("", r"x.yaml:\d+: `vocabulary: full` needs the section `teacher:`"),
        ("teacher: {model: some/model, engine: {openai: {url: http://localhost:1}}}\n", "is served elsewhere"),
        ("teacher: {model: OTHER}\n", "SFT only, because"),
    ],
)
def test_a_file_that_asks_for_the_impossible_is_refused_with_its_line(
    tmp_path: Path, tiny_model: Path, other_tokenizer: Path, teacher: str, message: str
) -> None:
    from distill import experiment

    path = tmp_path / "x.yaml"
    path.write_text(
        f"name: x\n{teacher.replace('OTHER', str(other_tokenizer))}student: {{model: {tiny_model}}}\n"
        "train:\n  loss: {name: jsd, vocabulary: full}\n"
    )
    with pytest.raises(ConfigError, match=message) as refused:
        experiment.check(experiment.load(path, SECTIONS), CHECKS, path)
    assert "\n" not in str(refused.value)


def test_divergences_that_cannot_take_draws_are_refused_with_their_line(tmp_path: Path, tiny_model: Path) -> None:
    from distill import experiment

    path = tmp_path / "x.yaml"
    for name in DIVERGENCES:
        path.write_text(
            f"name: x\nteacher: {{model: {tiny_model}}}\nstudent: {{model: {tiny_model}}}\n"
            f"score: {{mode: sampled}}\ntrain:\n  loss: {{name: {name}}}\n"
        )
        if name == "forward_kl":
            experiment.check(experiment.load(path, SECTIONS), CHECKS, path)
        else:
            with pytest.raises(ConfigError, match=rf"x.yaml:6: `{name}` cannot be matched to draws"):
                experiment.check(experiment.load(path, SECTIONS), CHECKS, path)


def test_a_teacher_of_the_hub_is_not_fetched_to_read_a_file(tiny_model: Path) -> None:
    from students import settings as learning
    from teachers import settings as teaching

    sections = {
        "student": learning.Config.model_validate({"model": str(tiny_model)}),
        "teacher": teaching.Config.model_validate({"model": "nobody/nothing"}),
    }
    assert live_teacher.refusal(sections) is None
