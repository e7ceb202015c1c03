"""Tasks from a Hub: a server that speaks its protocol, asked through the libraries' own clients in a fresh process."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.evaluate import task
from tests.e2e import small
from tests.evaluate.tasks.made import MADE, choose_made
from tests.publish.process import ROOT, HubProcess

ASK = """
import json, sys
from distill.core.errors import DistillError
from distill.evaluate import task
from tests.evaluate.tasks.made import choose

for name, settings in json.loads(sys.argv[1]):
    try:
        print(json.dumps(task.fingerprint(task.load(choose(name, **settings)))))
    except DistillError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubProcess]:
    server = HubProcess.start(tmp_path_factory.mktemp("hub"))
    yield server
    server.close()


def ask(hub: HubProcess, home: Path, *asked: tuple[str, Mapping[str, Any]], **more: str) -> tuple[list[str], str]:
    """What each task loads to, or the error's line, and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(asked)],
        cwd=ROOT, env={**small.environment(hub.environment(home, token=None, **more)), "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def lines(name: str, start: int = 0, stop: int | None = None) -> bytes:
    return "".join(json.dumps(made.row) + "\n" for made in MADE[name][start:stop]).encode()


def table(name: str) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(MADE[name][0].row))
    writer.writeheader()
    writer.writerows(made.row for made in MADE[name])
    return text.getvalue().encode()


def parquet(name: str) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([made.row for made in MADE[name]]), out)
    return out.getvalue()


def card(config: str, split: str, path: str) -> bytes:
    return (
        f"---\nconfigs:\n- config_name: {config}\n  data_files:\n  - split: {split}\n    path: {path}\n---\n".encode()
    )


def test_benchmarks_are_read_from_the_hub_in_every_form_they_have_there(hub: HubProcess, tmp_path: Path):
    kept = {
        "math500": hub.make("HuggingFaceH4/MATH-500", {"test.jsonl": lines("math500")}, "dataset", private=False),
        "gpqa": hub.make(
            "Idavidrein/gpqa",
            {"README.md": card("gpqa_diamond", "train", "gpqa_diamond.csv"), "gpqa_diamond.csv": table("gpqa"),
             "gpqa_main.csv": b"Question,Correct Answer\n"},
            "dataset", private=False,
        ),
        "arc": hub.make(
            "allenai/ai2_arc",
            {"README.md": card("ARC-Challenge", "test", "ARC-Challenge/test-*"),
             "ARC-Challenge/test-00000-of-00001.parquet": parquet("arc"),
             "ARC-Easy/test-00000-of-00001.parquet": parquet("gsm8k")},
            "dataset", private=False,
        ),
        "ifeval": hub.make("google/IFEval", {"ifeval_input_data.jsonl": lines("ifeval")}, "dataset", private=False),
        "livecodebench": hub.make(
            "livecodebench/code_generation_lite",
            {"code_generation_lite.py": b"raise SystemExit('a script was run')\n",
             "test3.jsonl": lines("livecodebench", 0, 2), "test4.jsonl": lines("livecodebench", 2, 5),
             "test5.jsonl": lines("livecodebench", 5)},
            "dataset", private=False,
        ),
    }  # fmt: skip

    found, said = ask(hub, tmp_path / "home", *((name, {}) for name in kept))
    again, quiet = ask(hub, tmp_path / "home", *((name, {"revision": sha}) for name, sha in kept.items()))

    offline, _ = ask(hub, tmp_path / "home", ("math500", {}), HF_HUB_OFFLINE="1")

    assert offline == found[:1], "the copy that is stored here is read"
    assert found == again == [task.fingerprint(task.load(choose_made(name, tmp_path / name))) for name in kept]
    for sha in kept.values():
        assert f"set `revision: {sha}` to keep to that" in said
    assert "revision" not in quiet


def test_what_cannot_be_had_or_read_is_one_line_each(hub: HubProcess, tmp_path: Path):
    hub.make("you/hidden", {"test.jsonl": lines("math500")}, "dataset", private=True)
    changed = {"README.md": card("main", "test", "main.jsonl"), "main.jsonl": b'{"prompt": "Hm?"}\n'}
    hub.make("openai/gsm8k", changed, "dataset", private=False)

    found, _ = ask(
        hub, tmp_path / "home", ("math500", {"path": "you/hidden"}), ("mmlu_pro", {}), ("gsm8k", {}),
        ("math500", {"revision": "0" * 40, "path": "openai/gsm8k"}),
    )  # fmt: skip
    refusal = {"times": 99, "status": 403, "headers": {"X-Error-Code": "GatedRepo"}}
    hub.fail({"on": "GET /", **refusal}, {"on": "HEAD /", **refusal})
    gated, _ = ask(hub, tmp_path / "home", ("gpqa", {}), ("livecodebench", {}))
    hub.fail()
    offline, _ = ask(hub, tmp_path / "home", ("gpqa", {}), ("livecodebench", {}), HF_HUB_OFFLINE="1")

    unreadable = [found[0], found[1], found[3], *gated, *offline]
    assert found[2].endswith("task `gsm8k`: openai/gsm8k main test:1: no field `question`; there are `prompt`")
    for line, start in zip(
        unreadable,
        [
            "math500`: data set you/hidden, split test: cannot be read (Dataset 'you/hidden' doesn't exist",
            "mmlu_pro`: data set TIGER-Lab/MMLU-Pro, split test: cannot be read (Dataset 'TIGER-Lab/MMLU-Pro' doesn't",
            "math500`: data set openai/gsm8k, split test: cannot be read (Revision '000",
            "gpqa`: data set Idavidrein/gpqa gpqa_diamond, split train: cannot be read (Dataset 'Idavidrein/gpqa' is",
            "livecodebench`: data set livecodebench/code_generation_lite, file test3.jsonl: cannot be read (403",
            "gpqa`: data set Idavidrein/gpqa gpqa_diamond, split train: cannot be read (",
            "livecodebench`: data set livecodebench/code_generation_lite, file test3.jsonl: cannot be read (",
        ],
        strict=True,
    ):
        assert line.startswith(f"evaluate: task `{start}")
        assert "whether you have access and a network" in line
        assert "\n" not in line
