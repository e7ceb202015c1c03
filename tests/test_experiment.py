"""Experiment files: bases, overrides, arms and seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from distill import experiment as experiments
from distill.core.errors import ConfigError
from tests.stub_stages import SECTIONS


def load(folder: Path, text: str, *overrides: str) -> experiments.Experiment:
    path = folder / "toy.yaml"
    path.write_text(text)
    return experiments.load(path, SECTIONS, overrides)


def test_an_experiment_is_named_after_its_file_unless_it_says_otherwise(tmp_path: Path) -> None:
    assert load(tmp_path, "source: {}\n").name == "toy"
    assert load(tmp_path, "name: other\nsource: {}\n").name == "other"


def test_a_section_without_settings_has_its_defaults(tmp_path: Path) -> None:
    (arm,) = load(tmp_path, "source:\n").arms
    assert arm.sections["source"].dump() == {"value": 1, "workers": 1}


def test_a_base_file_is_extended_and_its_arms_and_seeds_are_replaced(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("seed: 4\narms: {a: {}, b: {}}\nsource: {value: 1}\ndouble: {times: 3}\n")
    experiment = load(
        tmp_path, "extends: base.yaml\nseeds: [1, 2]\narms: {c: {double: {times: 5}}}\nsource: {value: 2}\n"
    )
    (arm,) = experiment.arms
    assert experiment.seeds == (1, 2)
    assert arm.name == "c"
    assert arm.sections["source"].dump()["value"] == 2
    assert arm.sections["double"].dump()["times"] == 5


def test_a_base_of_a_base(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("source: {value: 7}\n")
    (tmp_path / "base.yaml").write_text("extends: low.yaml\ndouble: {}\n")
    (arm,) = load(tmp_path, "extends: base.yaml\nnoisy: {}\n").arms
    assert set(arm.sections) == {"source", "double", "noisy"}
    assert arm.sections["source"].dump()["value"] == 7


def test_an_override_beats_the_file_and_an_arm_beats_the_rest(tmp_path: Path) -> None:
    text = "arms: {a: {}, b: {source: {value: 9}}}\nsource: {value: 1}\n"
    a, b = load(tmp_path, text, "source.value=5").arms
    assert (a.sections["source"].dump()["value"], b.sections["source"].dump()["value"]) == (5, 9)


def test_a_fault_in_a_base_names_the_base(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("source:\n  vlaue: 7\n")
    with pytest.raises(ConfigError, match=r"base\.yaml:2: `source` has no setting `vlaue`"):
        load(tmp_path, "extends: base.yaml\n")


@pytest.mark.parametrize("seeds", ["[]", "[1, 1]", "[-1]", "3", "[true]", "[1.5]"])
def test_odd_seeds_are_refused(tmp_path: Path, seeds: str) -> None:
    with pytest.raises(ConfigError, match="whole numbers"):
        load(tmp_path, f"seeds: {seeds}\nsource: {{}}\n")


def test_seed_zero_and_no_seed_are_both_zero(tmp_path: Path) -> None:
    assert load(tmp_path, "source: {}\n").seeds == load(tmp_path, "seed: 0\nsource: {}\n").seeds == (0,)


REAL = {"train": "students.train:Config", "sample": "teachers.sample:Config", "verify": "distill.stages.verify:Config"}


def loaded(folder: Path, text: str, *overrides: str) -> list[dict[str, object]]:
    path = folder / "real.yaml"
    path.write_text(text)
    experiment = experiments.load(path, REAL, overrides)
    return [arm.sections["train"].dump()["loss"] for arm in experiment.arms]


def test_another_plugin_in_an_arm_takes_the_place_of_the_one_above(tmp_path: Path) -> None:
    base = "train: {loss: {forward_kl: {weight: 0.25, top_k: 8}}}\n"
    (tmp_path / "base.yaml").write_text(base)
    arms = (
        "arms:\n"
        "  other: {train: {loss: {jsd: {beta: 0.1}}}}\n"
        "  long: {train: {loss: {name: reverse_kl}}}\n"
        "  same: {train: {loss: {forward_kl: {top_k: 4}}}}\n"
        "  none: {train: {loss: none}}\n"
    )

    other, long, same, none = loaded(tmp_path, "extends: base.yaml\n" + arms)

    assert other == {**other, "name": "jsd", "beta": 0.1, "weight": 0.5, "top_k": 16}  # nothing of forward_kl's is left
    assert long == {**long, "name": "reverse_kl", "weight": 0.5}
    assert same == {**same, "name": "forward_kl", "top_k": 4, "weight": 0.25}
    assert none is None
    assert loaded(tmp_path, base, "train.loss.forward_kl.weight=0.75") == [{**same, "top_k": 8, "weight": 0.75}]
    assert loaded(tmp_path, base.replace("forward_kl: {", "name: forward_kl, ").replace("}}}", "}}"),
                  "train.loss.weight=0.75") == [{**same, "top_k": 8, "weight": 0.75}]  # fmt: skip
