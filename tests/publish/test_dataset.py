"""The dataset folder is what `datasets` reads: offline, with the card's configurations, without what stays at home."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset

from distill.core.errors import DistillError
from distill.core.records import Decision
from distill.publish import dataset, dataset_card, release
from tests.publish.card_run import CONFIG, CardRun, card_run, sample, verdict

WITH_REJECTED = CONFIG.model_copy(update={"rejected": True})


def published(tmp_path: Path, made: CardRun | None = None, *, rejected: bool = True) -> Path:
    here = release.gather((made or card_run()).write(tmp_path / "run"), None, None)
    folder = tmp_path / "dataset"
    dataset.write(here, folder, rejected=rejected)
    card = dataset_card.render(here, (), WITH_REJECTED if rejected else CONFIG)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def loaded(folder: Path, config: str, cache: Path) -> Dataset:
    found = load_dataset(str(folder), config, split="train", cache_dir=str(cache))
    assert isinstance(found, Dataset)
    return found


def test_datasets_loads_both_configurations(tmp_path: Path) -> None:
    folder = published(tmp_path)

    traces, rejected = (loaded(folder, name, tmp_path / "cache") for name in ("traces", "rejected"))

    assert (len(traces), len(rejected)) == (3, 1)
    row = traces[0]
    assert row["messages"] == [{"role": "user", "content": "What is 2 plus 2?"}]
    assert (row["reasoning"], row["answer"], row["gold"]) == ("Let me add. It is 4.", "\\boxed{4}", "4")
    assert (row["verdict"], row["label_source"], row["licence"]) == ("correct", "gold", "MIT")
    assert (row["model"], row["reasoning_tokens"]) == ("deepseek-ai/DeepSeek-R1", 7)
    assert (rejected[0]["filter"], rejected[0]["why"]) == ("verdict", "wrong: another number")
    default = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert isinstance(default, Dataset) and default.column_names == list(dataset.FEATURES)


def test_the_card_describes_exactly_the_columns_that_there_are(tmp_path: Path) -> None:
    folder = published(tmp_path)

    assert pq.read_schema(folder / "data/traces/part-00000.parquet").names == list(dataset.FEATURES)
    assert pq.read_schema(folder / "data/rejected/part-00000.parquet").names == [
        *dataset.FEATURES, *dataset.REJECTED_FEATURES,
    ]  # fmt: skip
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in card for name in (*dataset.FEATURES, *dataset.REJECTED_FEATURES))


def test_what_was_not_asked_for_is_not_there(tmp_path: Path) -> None:
    folder = published(tmp_path, rejected=False)

    assert [path.name for path in (folder / "data").iterdir()] == ["traces"]
    assert "rejected" not in (folder / "README.md").read_text(encoding="utf-8").partition("---\n\n")[0]


def test_prices_addresses_and_test_problems_stay_at_home(tmp_path: Path) -> None:
    made = card_run()
    of = made.problems[-1]
    assert of.split == "test"
    made.samples.append(sample(of, "a test answer"))
    made.verdicts.append(verdict(made.samples[-1], "wrong"))
    made.decisions.append(Decision(made.samples[-1].key, False, "split", "answers a test problem"))
    made.problems = [replace(one, source="/home/ann/own.jsonl") for one in made.problems]
    folder = published(tmp_path, made)

    for path in folder.rglob("*.parquet"):
        text = str(pq.read_table(path).to_pylist()) + str(pq.ParquetFile(path).metadata.metadata)
        for word in ("10.0.0.7", "0.25", "1.5", "ann", "a test answer", str(tmp_path)):
            assert word not in text


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    here = release.gather(card_run().write(tmp_path / "run"), None, None)

    def digests(name: str) -> dict[str, str]:
        dataset.write(here, tmp_path / name, rejected=True)
        found = (path for path in (tmp_path / name).rglob("*") if path.is_file())
        return {str(p.relative_to(tmp_path / name)): hashlib.sha256(p.read_bytes()).hexdigest() for p in found}

    assert digests("a") == digests("b")


def test_much_text_goes_into_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset, "PART_SIZE", 60)
    folder = published(tmp_path, rejected=False)

    files = sorted(path.name for path in (folder / "data/traces").iterdir())
    assert files == ["part-00000.parquet", "part-00001.parquet"]
    assert len(loaded(folder, "traces", tmp_path / "cache")) == 3


def test_an_imported_set_is_named_with_its_revision(tmp_path: Path) -> None:
    made = card_run()
    origin = {"dataset": "owner/traces", "licence": "mit", "revision": "abc", "file": "x.parquet", "row": 7}
    made.samples = [replace(one, origin=origin) for one in made.samples]
    row = loaded(published(tmp_path, made), "traces", tmp_path / "cache")[0]

    assert (row["origin_dataset"], row["origin_revision"], row["origin_row"]) == ("owner/traces", "abc", 7)


def test_without_traces_or_answers_it_is_refused_in_one_line(tmp_path: Path) -> None:
    here = release.gather(card_run().write(tmp_path / "run"), None, None)
    (here.folders["sample"] / "samples.parquet").unlink()
    with pytest.raises(DistillError, match=r"samples\.parquet is not here, so what was rejected"):
        dataset.write(here, tmp_path / "a", rejected=True)
    with pytest.raises(DistillError, match="the traces are not here"):
        dataset.write(replace(here, traces=None), tmp_path / "b")
