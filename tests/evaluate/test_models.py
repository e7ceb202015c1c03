"""Entries of `evaluate.models`: how they are written, what they mean, and how their models are asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distill import rollout
from distill.core import files
from distill.core.errors import DistillError
from distill.core.models import ModelConfig
from distill.core.plugins import Choice
from distill.evaluate import models
from distill.evaluate.models import Candidate, Entry
from distill.evaluate.settings import Config
from distill.rollout import Prices
from teachers.rounds import as_asked
from teachers.sample import Config as SampleConfig
from teachers.settings import Config as TeacherConfig
from tests.evaluate import scripted
from tests.evaluate.bench import ENGINE, Bench, measured, problem

SERVED = {"engine": "openai", "url": "http://127.0.0.1:9/v1"}


def means(written: Any, *, train: Path | None = None, **sections: Any) -> Candidate:
    """What an entry of a file means beside these sections."""
    config = Config.model_validate({"models": [written]})
    return models.candidate(config.models[0], config.engine, config.thinking, sections, train)


def test_a_file_reads_its_own_dump():
    written = [
        "base",
        "student@300",
        {"cot": {"model": "base", "instruction": "Think step by step.", "thinking": False}},
        {"api": {"model": "any-name", "engine": SERVED, "price": {"input": 1, "output": 2.5}}},
    ]
    config = Config.model_validate({"models": written})

    dumped = config.dump()["models"]

    assert dumped[:3] == written[:3]
    assert dumped[3]["api"]["price"] == {"input": 1.0, "output": 2.5}
    assert Config.model_validate({"models": dumped}) == config


def test_a_path_is_called_by_its_last_part_and_no_part_of_the_key(tmp_path: Path):
    keys = []
    for place in ("one", "two"):
        for name in ("tiny", "student"):
            (tmp_path / place / "run" / name).mkdir(parents=True)
        folders = [str(tmp_path / place / "run" / name) for name in ("tiny", "student")]
        config = Config.model_validate({"models": folders})
        assert [entry.name for entry in config.models] == ["tiny", "run/student"]  # `student` means another one
        assert config.dump()["models"] == folders
        keys.append(config.keyed())

    assert keys[0] == keys[1]


def test_how_a_model_is_asked_is_part_of_the_key():
    def key(**settings: Any) -> Any:
        return Config.model_validate({"models": [{"one": {"model": "base", **settings}}]}).keyed()["models"]

    plain = key()
    for settings in ({"instruction": "Think."}, {"system_prompt": "Be brief."}, {"thinking": True}, {"price": "free"}):
        assert key(**settings) != plain


@pytest.mark.parametrize(
    ("written", "why"),
    [
        ({"student": {"model": "base"}}, "`student` means what the experiment calls so; give `base` another name"),
        ({"student@5": {"model": "base"}}, "`student@5` means what the experiment calls so"),
        ({"a": {"model": "nowhere"}}, "'nowhere' is no such folder or file"),
        ({"a": {"model": "embedded"}}, "`embedded` is one of embedded-teacher, embedded-student"),
        ({"a": {"modle": "base"}}, "no setting `modle`. Did you mean `model`?"),
        ({"model": "base"}, "name"),
    ],
)
def test_entries_that_mean_nothing_are_refused(written: Any, why: str):
    with pytest.raises(ValueError, match=why):
        Config.model_validate({"models": [written]})


def test_a_server_has_its_own_name_for_a_model():
    found = means({"api": {"model": "gpt-something", "engine": SERVED, "price": "free"}})

    assert (found.model, found.engine.name, found.prices) == ("gpt-something", "openai", Prices(0.0, 0.0))


def test_a_gguf_file_runs_in_llamacpp(tmp_path: Path):
    (tmp_path / "student-q8_0.gguf").touch()

    found = means(str(tmp_path / "student-q8_0.gguf"))

    assert found.engine.name == "llamacpp"


def test_base_takes_the_revision_of_its_section_unless_it_has_its_own():
    student = ModelConfig(model="owner/model", revision="abc")

    assert means("base", student=student).revision == "abc"
    assert means({"old": {"model": "base", "revision": "v1"}}, student=student).revision == "v1"


def test_a_kept_snapshot_is_measured_in_the_form_it_was_trained_in(tmp_path: Path):
    for step in (100, 200):
        (tmp_path / f"student@{step}").mkdir()
    files.write_json(tmp_path / "written.student.json", {"snapshots": [100, 200]})
    files.write_json(tmp_path / "report.json", {"target": "answer"})

    found = means("student@200", train=tmp_path)

    assert (Path(found.model), found.thinking) == (tmp_path / "student@200", False)
    with pytest.raises(DistillError, match=r"student@300|step 300") as error:
        means("student@300", train=tmp_path)
    assert "100" in str(error.value) and "200" in str(error.value)


def test_sections_that_a_model_needs():
    def lacks(model: str, **sections: Any) -> str | None:
        return Entry.model_validate(model).lacks(sections)

    class Train(ModelConfig):
        model: str = "embedded"
        keep_every: int | None = None

    assert lacks("base") == "`base` needs the section `student:`"
    assert lacks("teacher") == "`teacher` needs the section `teacher:`"
    assert lacks("student") == lacks("student", student=None) == "`student` needs the section `train:`"
    assert lacks("student@5") == "`student@5` needs the section `train:`"
    assert lacks("student@5", train=Train()) == "`student@5` is kept only where `train.keep_every` says so"
    assert lacks("student@5", train=Train(keep_every=5)) is None
    assert lacks("embedded-teacher") is None


def test_instruction_and_system_prompt_are_put_as_sampling_puts_them(bench: Bench):
    bench.script("base", {})
    scripted.ASKED.clear()
    cot = {"model": "base", "instruction": "Think step by step.", "system_prompt": "You are careful."}

    _, folder = bench.run(models=["base", {"base-cot": cot}])

    plain = problem(0)
    put = as_asked(plain, system="You are careful.", instruction="Think step by step.")
    assert plain.messages in scripted.ASKED and put.messages in scripted.ASKED
    assert (
        put.messages == rollout.as_asked(plain, system="You are careful.", after=["", "Think step by step."]).messages
    )
    base, asked = measured(folder)["models"]
    assert (base["instruction"], base["system_prompt"]) == (None, None)
    assert (asked["instruction"], asked["system_prompt"]) == ("Think step by step.", "You are careful.")
    assert base["identity"] == asked["identity"]
    assert len(scripted.ASKED) == 20  # another prompt is another answer


def test_two_manners_of_asking_one_model_load_it_once(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    built: list[str] = []
    build = scripted.build
    monkeypatch.setattr(scripted, "build", lambda config, model: (built.append(model), build(config, model))[1])
    bench.script("base", {})

    bench.run(
        models=["base", {"cot": {"model": "base", "instruction": "Think."}}], tasks=["problems", "tests.evaluate.side"]
    )

    assert len(built) == 1


def test_an_engine_of_its_own_goes_before_that_of_all():
    own: Choice | None = (
        Config.model_validate({"models": [{"a": {"model": "base", "engine": ENGINE}}]}).models[0].engine
    )

    assert own is not None
    assert means({"a": {"model": "base", "engine": ENGINE}}, student=ModelConfig(model="embedded")).engine == own


@pytest.mark.parametrize(
    ("entry", "sample", "told", "said"),
    [
        ("teacher", None, False, "Box it."),
        ("teacher", {}, False, "Box it."),
        ("teacher", {"instruction": "In a word."}, False, "In a word."),
        ("teacher", {"instruction": ""}, False, None),
        ("teacher", None, True, None),  # a benchmark's own instruction is the only one
        ({"mine": {"model": "teacher", "instruction": "Guess."}}, None, True, "Guess."),
        ({"bare": {"model": "teacher", "instruction": ""}}, None, False, None),
    ],
)
def test_the_teacher_is_asked_as_it_was_sampled(
    tmp_path: Path, entry: Any, sample: dict[str, Any] | None, told: bool, said: str | None
):
    family = tmp_path / "mine.yaml"
    family.write_text(
        "title: Mine\nmatch: [mine]\ndialect: {thinker: true}\nsystem: Be brief.\ninstruction: Box it.\n"
        "licence: MIT\nterms: None.\nsources: [{about: all, url: '', read: unverified}]\n"
    )
    sections: dict[str, Any] = {"teacher": TeacherConfig.model_validate({"model": "embedded", "family": str(family)})}
    if sample is not None:
        sections["sample"] = SampleConfig.model_validate(sample)

    found = means(entry, **sections)

    assert found.asked(problem(0), told) == as_asked(problem(0), system="Be brief.", instruction=said)
    assert (found.heard(told) or None) == said
