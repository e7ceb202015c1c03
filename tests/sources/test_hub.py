"""The `hub` source: the loading code itself on local data sets, and what it does where the Hub says no."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core.errors import DistillError
from distill.core.models import transport_faults
from distill.core.records import Problem
from distill.sources import hub

EVERYTHING = {"train": None, "dev": None, "test": None}
ROWS = [{"problem": f"What is {n}+1?", "meta": {"gold": None if n == 0 else n + 1}, "extra": n} for n in range(8)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config

    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setattr(datasets.config, "HF_MODULES_CACHE", str(cache))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data set in the layout of the Hub: a folder with one file a split."""
    for split, rows in (("train", ROWS[:5]), ("test", ROWS[5:])):
        path = tmp_path / "set" / "data" / f"{split}-00000-of-00001.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "set"


def read(**settings: Any) -> list[Problem]:
    return list(hub.build(hub.Config(**settings), EVERYTHING))


@pytest.mark.parametrize("streaming", [False, True])
def test_reads_one_split_by_the_names_of_its_columns(folder: Path, streaming: bool):
    problems = read(path=str(folder), from_split="test", question="problem", gold="meta.gold", streaming=streaming)

    assert [(p.messages[0].content, p.gold) for p in problems] == [
        (row["problem"], str(row["meta"]["gold"])) for row in ROWS[5:]  # type: ignore[index]  # rows as above
    ]  # fmt: skip
    assert {p.source for p in problems} == {"set"}


@pytest.mark.parametrize("streaming", [False, True])
def test_a_limit_takes_the_first_rows_and_a_null_gold_stays_in_its_row(folder: Path, streaming: bool):
    problems = read(path=str(folder), question="problem", gold="meta.gold", streaming=streaming, rows=3)

    assert [p.gold for p in problems] == [None, "2", "3"]


def test_splits_may_be_sliced_and_added(folder: Path):
    assert len(read(path=str(folder), question="problem", gold=None, from_split="train[:2]+test")) == 5


def test_a_layout_reads_rows_as_its_source_does(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text('{"question": "1+1?", "answer": "1+1=<<1+1=2>>2\\n#### 2"}\n')

    (problem,) = read(path=str(tmp_path), layout="gsm8k", split="test")

    assert (problem.gold, problem.reference_reasoning, problem.split) == ("2", "1+1=2", "test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"question": "problem", "from_split": "dev"}, "data set .*, split dev: cannot be read .*dev"),
        ({"question": "probelm"}, "no column `probelm`; it has problem, meta, extra"),
        ({"question": "problem", "gold": "meta.answer"}, r"train:1: no field `meta.answer`"),
    ],
)
def test_faults_are_one_line(folder: Path, settings: dict[str, Any], message: str):
    with pytest.raises(DistillError, match=message) as caught:
        read(path=str(folder), **({"gold": None} | settings))
    assert "\n" not in str(caught.value)


def test_a_data_set_with_code_is_never_run(tmp_path: Path):
    planted = tmp_path / "planted"
    script = tmp_path / "evil" / "evil.py"
    script.parent.mkdir()
    script.write_text(f"open({str(planted)!r}, 'w')\n")

    with pytest.raises(DistillError, match="cannot be read"):
        read(path=str(script.parent), gold=None)
    with pytest.raises(DistillError, match="cannot be read"):
        read(path=str(script), gold=None)
    assert not planted.exists()


def test_what_is_asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    import datasets
    import huggingface_hub

    asked: list[Any] = []

    def load(*args: Any, **kwargs: Any) -> Any:
        asked.append((args, kwargs))
        return datasets.Dataset.from_list([{"question": "1+1?", "answer": "2"}])

    class Api:
        def dataset_info(self, path: str, **_: Any) -> Any:
            assert path == "owner/name"
            return SimpleNamespace(sha="c0ffee")

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    (problem,) = read(path="owner/name", name="main", from_split="test", streaming=True)
    read(path="owner/name", revision="e53f048")

    assert asked == [
        (("owner/name", "main"), {"split": "test", "revision": "c0ffee", "streaming": True}),
        (("owner/name", None), {"split": "train", "revision": "e53f048", "streaming": False}),
    ]
    assert problem.source == "owner:name"
    assert capsys.readouterr().err.count("set `revision: c0ffee` to keep to that") == 1


@pytest.mark.parametrize("error", ["DatasetNotFoundError", "GatedRepoError", "ConnectionError"])
def test_the_hub_s_errors_are_one_line(monkeypatch: pytest.MonkeyPatch, error: str):
    import datasets
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import GatedRepoError

    gated: Any = SimpleNamespace(headers={}, request=None, status_code=403)
    raised = {
        "DatasetNotFoundError": DatasetNotFoundError("Dataset 'owner/name' doesn't exist\non the Hub."),
        "GatedRepoError": GatedRepoError("Access is restricted\n\nask for it", response=gated),
        "ConnectionError": ConnectionError("Couldn't reach 'owner/name' on the Hub (OfflineModeIsEnabled)"),
    }[error]

    def load(*_: Any, **__: Any) -> Any:
        raise raised

    monkeypatch.setattr(datasets, "load_dataset", load)

    with pytest.raises(DistillError, match="data set owner/name, split train: cannot be read .* access and a net") as e:
        read(path="owner/name", revision="e53f048")
    assert "\n" not in str(e.value)


def test_a_local_folder_counts_by_content_and_a_hub_id_by_its_settings(folder: Path):
    local = hub.Config(path=str(folder))
    before = hub.externals(local)
    moved = folder.rename(folder.parent / "moved")

    assert hub.externals(hub.Config(path=str(moved))) == before
    assert "path" not in hub.Config(path=str(moved)).keyed()
    (moved / "data" / "train-00000-of-00001.jsonl").write_text("{}\n")
    assert hub.externals(hub.Config(path=str(moved))) != before
    assert hub.externals(hub.Config(path="owner/name", revision="e53f048")) == {}
    assert hub.Config(path="owner/name", revision="e53f048").keyed()["revision"] == "e53f048"


def test_a_hub_that_does_not_answer_leaves_it_to_the_copy_that_is_stored(monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    class Api:
        def dataset_info(self, path: str, **_: Any) -> Any:
            raise transport_faults()("[Errno 111] Connection refused")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)

    assert hub.current("owner/name") is None
