"""Publish, pull, and go on: a really trained run, through the command line in processes of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from distill.core import files, rundir
from tests.e2e import small
from tests.publish.process import HubProcess

pytestmark = pytest.mark.slow

EXPERIMENT = small.EXPERIMENT.replace("export: [", "export: [safetensors, ") + (
    "publish: {repo: you/small, dataset_repo: you/small-traces}\n"
)


@dataclass(frozen=True)
class Road:
    """A published run, where it was made, and an empty folder into which it was pulled."""

    hub: HubProcess
    made: Path
    pulled: Path

    @property
    def run(self) -> Path:
        """The pulled run folder."""
        return self.pulled / "runs" / "small"

    def distill(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A command where the run was pulled."""
        done = self.hub.run(self.pulled, *words)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module")
def road(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Road]:
    """Run, publish, pull."""
    made, pulled = tmp_path_factory.mktemp("made"), tmp_path_factory.mktemp("pulled")
    hub = HubProcess.start(tmp_path_factory.mktemp("hub"))
    small.prepare(made, EXPERIMENT)
    for words in (("run", "small.yaml"), ("publish", "small.yaml", "--yes")):
        done = hub.run(made, *words)
        assert done.returncode == 0, done.stderr
    road = Road(hub, made, pulled)
    road.distill("pull", "you/small")
    yield road
    hub.close()


@pytest.fixture
def again(road: Road, tmp_path: Path) -> Road:
    """The pulled run in a folder that a test may change."""
    shutil.copytree(road.pulled / "runs", tmp_path / "runs")
    return Road(road.hub, road.made, tmp_path)


def stage(run: Path, name: str) -> Path:
    return run / str(rundir.read_index(run)["arms"]["main"]["0"][name]["folder"])


def test_evaluated_anew_it_is_the_same_table(again: Road) -> None:
    ours = again.hub.run(again.made, "evaluate", "small.yaml")
    known = again.distill("evaluate", "runs/small/experiment.yaml")
    assert "already done" in known.stderr and known.stdout == ours.stdout
    shutil.rmtree(stage(again.run, "evaluate"))

    measured = again.distill("evaluate", "runs/small/experiment.yaml")

    assert "already done: base" not in measured.stderr and "answers bought" in measured.stderr
    assert measured.stdout == ours.stdout
    content = {files.read_json(stage(run, "evaluate") / "manifest.json")["content"] for run in (
        again.run, again.made / "runs" / "small"
    )}  # fmt: skip
    assert len(content) == 1


def test_run_finds_everything_done_and_reports(again: Road) -> None:
    done = again.distill("run", "runs/small/experiment.yaml")
    assert "nothing was run" in done.stderr
    assert (again.run / "report.html").exists()


def test_exported_anew_it_is_the_same_bytes(again: Road) -> None:
    folder = stage(again.run, "export")
    shutil.rmtree(folder)
    again.distill("export", "runs/small/experiment.yaml")
    made = again.made / "runs" / "small" / folder.name
    ours, theirs = (files.read_json(path / "manifest.json")["content"] for path in (folder, made))
    assert ours == theirs


def test_training_goes_on_from_its_traces(again: Road) -> None:
    done = again.distill("train", "runs/small/experiment.yaml", "--set", "train.loss=none", "--set", "train.epochs=1")
    assert "14 rows" in done.stdout or "rows, " in done.stdout
    assert len(list(again.run.glob("train-*"))) == 2


def test_what_was_not_published_is_one_clear_line(again: Road) -> None:
    words = ("filter", "runs/small/experiment.yaml", "--set", "filter.control=true")
    done = again.hub.run(again.pulled, *words)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "samples.parquet, which was not published with this run" in last and "Traceback" not in done.stderr


def test_published_from_there_only_the_card_is_another(again: Road) -> None:
    """Which states what can be read, and of what stayed at home nothing can."""
    done = again.distill("publish", "runs/small", "--json")
    assert "was pulled" in done.stderr
    changed = {row["file"] for row in json.loads(done.stdout)["rows"] if row["change"] != "unchanged"}
    assert changed == {"README.md", "distill/release.json"}


READ = """
import json, sys
import datasets
from transformers import AutoModelForCausalLM, AutoTokenizer
traces = datasets.load_dataset(sys.argv[1])["train"]
remote = datasets.load_dataset("you/small-traces")["train"]
model, tokenizer = (kind.from_pretrained(sys.argv[2]) for kind in (AutoModelForCausalLM, AutoTokenizer))
hub = AutoModelForCausalLM.from_pretrained("you/small")
same = all((a == b).all() for a, b in zip(model.state_dict().values(), hub.state_dict().values(), strict=True))
turns = [{"role": "user", "content": "What is 2+3?"}]
text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)
new = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1]:].tolist()
rows = [traces[0]["answer"], traces[0]["messages"][0]["content"]]
print(json.dumps([len(traces), len(remote), rows, same, ids["input_ids"][0].tolist(), new]))
"""


def test_others_read_it_with_their_own_tools(road: Road, tmp_path: Path) -> None:
    """datasets and transformers, from the Hub and from folders; llama.cpp runs the pulled GGUF and says the same."""
    from distill.export.runtime import Questions, ask

    state = road.hub.state("you/small-traces", "dataset")
    for path in state["files"]:
        (tmp_path / "traces" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "traces" / path).write_bytes(road.hub.content("you/small-traces", path, "dataset"))
    model = stage(road.run, "export") / "safetensors" / "student"
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "traces"), str(model)],
        env=small.environment(road.hub.environment(tmp_path / "hf-home", HF_HUB_DISABLE_PROGRESS_BARS="1")),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    n_here, n_hub, texts, same, prompt, new = json.loads(done.stdout.splitlines()[-1])
    kept = files.read_json(stage(road.run, "filter") / "manifest.json")["counts"]
    assert n_here == n_hub > 0 and str(n_here) in json.dumps(kept)
    assert all(texts) and same

    gguf = stage(road.run, "export") / "gguf-q8_0" / "student-q8_0.gguf"
    said = ask(gguf, Questions(prompts=[prompt], new_tokens=8), log=tmp_path / "log")
    assert len(said.continued[0]) == len(new) == 8
    assert said.continued[0][:1] == new[:1]  # 8 bits: the first token of a greedy answer is the same


def test_quickstart_comes_back_as_it_was(tmp_path: Path) -> None:
    """The example of the README: the arm that goes out has the same table where it is pulled, drawn anew."""
    hub = HubProcess.start(tmp_path / "hub")
    made, pulled = tmp_path / "made", tmp_path / "pulled"
    for folder in (made, pulled):
        folder.mkdir()
    shutil.copy(Path(__file__).parents[2] / "configs" / "quickstart.yaml", made)
    arm = 'arms={"reasoning": {}}'
    for place, *words in (
        (made, "run", "quickstart.yaml", "--set", arm),
        (made, "publish", "quickstart.yaml", "--set", arm, "--repo", "you/quickstart", "--yes"),
        (pulled, "pull", "you/quickstart"),
    ):
        done = hub.run(place, *words)
        assert done.returncode == 0, done.stderr
    run = pulled / "runs" / "quickstart"
    index = rundir.read_index(run)["arms"]["reasoning"]["0"]
    folder = str(index["evaluate"]["folder"])
    shutil.rmtree(run / folder)

    measured = hub.run(pulled, "evaluate", "runs/quickstart/experiment.yaml")

    assert measured.returncode == 0, measured.stderr
    results = [(place / "runs" / "quickstart" / folder / "results.json").read_bytes() for place in (made, pulled)]
    assert results[0] == results[1]
    hub.close()
