"""Each refusal is raised by a planted fault, and by nothing else; none is raised by a run that is in order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from distill.core.records import Decision, Message
from distill.publish import refusals, release
from distill.publish.refusals import Refusal
from distill.publish.settings import Config
from tests.publish.card_run import CONFIG, FAMILY, CardRun, add_task, card_run, problem, proof, sample, verdict

Change = Callable[[CardRun], None]


def found(tmp_path: Path, change: Change | None = None, config: Config = CONFIG) -> list[Refusal]:
    made = card_run()
    if change is not None:
        change(made)
    return refusals.find(release.gather(made.write(tmp_path / "run"), None, None), config)


def names(refused: list[Refusal]) -> list[str]:
    return [refusal.name for refusal in refused]


def told(refused: list[Refusal], name: str) -> str:
    """The one line of the one refusal of this name."""
    (refusal,) = [refusal for refusal in refused if refusal.name == name]
    assert "\n" not in refusal.why and refusal.name in refusals.NAMES
    return refusal.why


def test_a_run_in_order_is_not_refused(tmp_path: Path) -> None:
    assert found(tmp_path) == []


# -- proof, measurement, completeness -----------------------------------------------------------------------------


def test_a_missing_tier_is_unproved(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        made.proof[1] = proof("gguf-q8_0", "gguf-q8_0/student-q8_0.gguf", 10, 8.5, tiers=(1,))

    assert told(found(tmp_path, change), "unproved") == "gguf-q8_0: tier 2 of its proof did not run"


def test_a_failed_tier_is_unproved_and_a_missed_bound_of_tier_3_is_not(tmp_path: Path) -> None:
    def fail(made: CardRun) -> None:
        made.proof[0]["checks"][1]["missed"] = "log-probabilities are off by 0.2"

    def lose(made: CardRun) -> None:
        made.proof[2]["missed"] = ["answers: 20.0% correct where the student has 75.0%"]

    assert told(found(tmp_path / "1", fail), "unproved") == "safetensors: check 2: log-probabilities are off by 0.2"
    assert found(tmp_path / "2", lose) == []


def test_what_is_not_sent_needs_no_proof(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        made.proof[1]["tiers"] = [1]

    config = CONFIG.model_copy(update={"what": ["model", "dataset"]})
    assert found(tmp_path, change, config) == []


def test_a_run_without_export_is_unproved_and_unfinished(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        made.stages = [stage for stage in made.stages if stage != "export"]

    refused = found(tmp_path, change)
    assert "nothing was exported" in told(refused, "unproved")
    assert told(refused, "unfinished").startswith("`export` not done")


def test_a_stage_that_lost_a_file_is_unfinished(tmp_path: Path) -> None:
    run = card_run().write(tmp_path / "run")
    next(run.glob("evaluate-*/scores.parquet")).unlink()

    assert told(refusals.find(release.gather(run, None, None), CONFIG), "unfinished").startswith("`evaluate`")


def test_a_student_that_nobody_measured(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        assert made.results is not None
        made.results["tasks"][0]["models"] = made.results["tasks"][0]["models"][:1]

    assert names(found(tmp_path / "1", change)) == ["nothing-measured"]
    assert found(tmp_path / "2", change, CONFIG.model_copy(update={"what": ["dataset"]})) == []


# -- contamination -----------------------------------------------------------------------------------------------


def bench(made: CardRun, *texts: str, kept: bool = True) -> None:
    """Measure a benchmark with these questions; `kept`: the run holds them."""
    items = [problem(text, "6", "test", source="bench") for text in texts]
    made.evaluated = items if kept else []
    add_task(made, "gsm8k", items, {"base": 0, "student": 1})


def test_a_benchmark_that_was_trained_on(tmp_path: Path) -> None:
    why = told(found(tmp_path, lambda made: bench(made, "What is 3 plus 3?", "Why is grass green?")), "contaminated")
    assert why.startswith("1 of 2 problems of task `gsm8k` are in the training questions, first ")


def test_a_benchmark_that_was_looked_for_and_not_found(tmp_path: Path) -> None:
    assert found(tmp_path, lambda made: bench(made, "How many legs have 5 spiders and 2 cats in all?")) == []


@pytest.mark.parametrize(
    ("signature", "refused"), [(None, True), ("/data/gsm8k-test.sig", False), ("/data/math-500.sig", True)]
)
def test_a_benchmark_whose_questions_are_not_here(tmp_path: Path, signature: str | None, refused: bool) -> None:
    def change(made: CardRun) -> None:
        bench(made, "How many legs have 5 spiders?", kept=False)
        if signature is not None:
            looked = {"filter": "contamination", "signatures": [signature]}
            made.settings["filter"]["filter"]["filters"].append(looked)

    assert names(found(tmp_path, change)) == (["contaminated"] if refused else [])


def test_without_the_training_traces_nobody_can_look(tmp_path: Path) -> None:
    here = release.gather(card_run().write(tmp_path / "run"), None, None)
    (here.folders["filter"] / "traces.parquet").unlink()
    (here.folders["filter"] / "absent.json").write_text('["traces.parquet"]')

    refused = refusals.find(release.gather(here.run, None, None), CONFIG)

    assert "the training traces are not here" in told(refused, "contaminated")


def test_even_the_ids_of_a_benchmark_without_questions_are_looked_for(tmp_path: Path) -> None:
    refused = found(tmp_path, lambda made: bench(made, "What is 3 plus 3?", kept=False))
    assert "are in the training questions" in told(refused, "contaminated")


# -- licences ----------------------------------------------------------------------------------------------------


def of_source(licence: str) -> Change:
    def change(made: CardRun) -> None:
        made.problems = [replace(one, licence=licence) for one in made.problems]

    return change


def test_a_source_that_states_no_licence(tmp_path: Path) -> None:
    refused = found(tmp_path, of_source(""))
    assert names(refused) == ["licence-unknown", "licence-unknown"]
    assert [refusal.why.partition(":")[0] for refusal in refused] == ["model", "dataset"]
    assert "problems of openai/gsm8k states no licence" in refused[0].why


def test_a_source_that_is_not_for_commercial_use(tmp_path: Path) -> None:
    refused = found(tmp_path, of_source("CC BY-NC 4.0"))
    assert names(refused) == ["licence-incompatible", "licence-incompatible"]
    assert "not for commercial use" in refused[0].why
    free = CONFIG.model_copy(update={"licence": "cc-by-nc-4.0"})
    assert names(found(tmp_path / "2", of_source("CC BY-NC 4.0"), free)) == []


def test_share_alike_binds_the_dataset_and_leaves_the_model_open(tmp_path: Path) -> None:
    refused = found(tmp_path, of_source("CC BY-SA 4.0"))
    assert sorted(names(refused)) == ["licence-incompatible", "licence-unknown"]
    assert told(refused, "licence-incompatible").startswith("dataset under apache-2.0")
    assert "not settled" in told(refused, "licence-unknown")


def test_weights_of_one_publishers_licence_go_on_under_it(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        made.counts["export"]["base_licence"] = "llama3.1"

    assert "goes on under it" in told(found(tmp_path / "1", change), "licence-incompatible")
    both = CONFIG.model_copy(update={"licence": "llama3.1", "dataset_repo": None})
    assert found(tmp_path / "2", change, both) == []


def test_a_licence_that_nobody_knows(tmp_path: Path) -> None:
    refused = found(tmp_path, config=CONFIG.model_copy(update={"licence": "my-own-1.0"}))
    assert names(refused) == ["licence-unknown", "licence-unknown"]
    assert "`publish.licence: my-own-1.0`" in refused[0].why


def test_without_a_chosen_licence_one_that_fits_is_taken_or_asked_for(tmp_path: Path) -> None:
    unsaid = CONFIG.model_copy(update={"licence": None})
    run = card_run().write(tmp_path / "run")
    here = release.gather(run, None, None)
    assert (here.licence(unsaid), here.licence(unsaid, dataset=True)) == ("apache-2.0", "mit")
    assert refusals.find(here, unsaid) == []

    def several(made: CardRun) -> None:
        licences = ("CC BY-SA 4.0", "CC BY-NC 4.0", "MIT")
        made.problems = [replace(one, licence=licences[n % 3]) for n, one in enumerate(made.problems)]

    refused = found(tmp_path / "2", several, unsaid)
    assert names(refused) == ["licence-unknown", "licence-unknown"]
    assert all("no licence fits all sources" in one.why and "set `publish.licence`" in one.why for one in refused)


@pytest.mark.parametrize(
    ("distillation", "name"), [("allowed", None), ("forbidden", "licence-incompatible"), ("unknown", "licence-unknown")]
)
def test_terms_of_the_teacher(tmp_path: Path, distillation: str, name: str | None) -> None:
    def change(made: CardRun) -> None:
        made.counts["sample"]["family"] = {**FAMILY, "distillation": distillation, "notice": "As its terms say."}

    refused = found(tmp_path, change)
    assert names(refused) == ([] if name is None else [name])
    assert all(one.why == "teacher deepseek-ai/DeepSeek-R1: As its terms say." for one in refused)


def test_a_manifest_from_before_families_were_kept(tmp_path: Path) -> None:
    def forget(made: CardRun) -> None:
        del made.counts["sample"]["family"]

    def embedded(made: CardRun) -> None:
        forget(made)
        made.settings["sample"]["teacher"]["model"] = "embedded-teacher"

    assert names(found(tmp_path / "1", forget)) == ["licence-unknown"]
    assert found(tmp_path / "2", embedded) == []


def imported(made: CardRun, model: str, licence: str = "apache-2.0") -> None:
    made.stages = [stage if stage != "sample" else "import" for stage in made.stages]
    made.settings["import"] = {"import": {}}
    origin = {"dataset": "owner/traces", "licence": licence, "revision": "abc", "row": 3, "file": "a.parquet"}
    made.samples = [replace(one, model_name=model, origin=origin) for one in made.samples]


def test_imported_traces_of_a_service_that_forbids_it(tmp_path: Path) -> None:
    refused = found(tmp_path / "1", lambda made: imported(made, "gpt-4o"))
    assert "3 traces were written by gpt-4o" in told(refused, "licence-incompatible")
    assert names(found(tmp_path / "2", lambda made: imported(made, "DeepSeek-R1"))) == ["unfinished"]


def test_the_licence_of_an_imported_set_counts(tmp_path: Path) -> None:
    refused = found(tmp_path, lambda made: imported(made, "DeepSeek-R1", licence="cc-by-nc-4.0"))
    assert {one.name for one in refused} == {"unfinished", "licence-incompatible"}
    assert any("traces of owner/traces" in one.why for one in refused)


# -- secrets -----------------------------------------------------------------------------------------------------

TOKEN = "hf_" + "AbCdEfGhIj" * 4


def test_a_token_in_a_trace_is_named_by_kind_and_row_alone(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        made.samples[1] = replace(made.samples[1], reasoning=f"I log in with {TOKEN}.")

    why = told(found(tmp_path, change), "secrets")
    assert why.startswith("Hugging Face token in 1 traces, first ") and TOKEN not in why
    assert card_run().samples[1].key[:12] in why


@pytest.mark.parametrize(
    ("text", "kind"),
    [("mail ann@uni-bonn.de", "e-mail address"), ("card 4111 1111 1111 1111", "payment card number"),
     ("call +49 228 123456", "telephone number"), ("from 8.8.8.8", "network address")],
)  # fmt: skip
def test_personal_data_in_a_question_or_an_answer(tmp_path: Path, text: str, kind: str) -> None:
    def change(made: CardRun) -> None:
        made.problems[0] = replace(made.problems[0], messages=(Message("user", f"Who is it? {text}"),))
        made.samples[1] = replace(made.samples[1], answer=f"It is {text}")

    assert told(found(tmp_path, change), "personal-data").startswith(f"{kind} in 2 traces")


def test_a_rejected_answer_counts_where_it_goes_out(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        made.samples[3] = replace(made.samples[3], answer=f"Use {TOKEN}")

    assert found(tmp_path / "1", change) == []
    with_rejected = CONFIG.model_copy(update={"rejected": True})
    assert names(found(tmp_path / "2", change, with_rejected)) == ["secrets"]


def test_other_splits_stay_at_home(tmp_path: Path) -> None:
    def change(made: CardRun) -> None:
        of = made.problems[-1]
        assert of.split == "test"
        made.samples.append(sample(of, f"Use {TOKEN}"))
        made.verdicts.append(verdict(made.samples[-1]))
        made.decisions.append(Decision(made.samples[-1].key, False, "split", "answers a test problem"))

    assert found(tmp_path, change, CONFIG.model_copy(update={"rejected": True})) == []


def test_text_files_on_their_way_are_looked_through(tmp_path: Path) -> None:
    planted = {
        "README.md": "fine\nhttp://gpu-box:8000/v1\n", "distill/x/manifest.json": '{"a": "/home/ann/x"}',
        "Modelfile.q8_0": f"FROM {TOKEN}", "config.json": '{"vocab_size": 7}', "tokenizer.json": '{"/home/": 1}',
        "model.safetensors": "/home/ann/x",
    }  # fmt: skip
    outgoing = {}
    for number, (name, text) in enumerate(planted.items()):
        path = tmp_path / str(number) / Path(name).name
        path.parent.mkdir()
        path.write_text(text)
        outgoing[name] = path

    refused = refusals.find_in(outgoing)

    assert [str(refusal) for refusal in refused] == [
        "secrets: Modelfile.q8_0, line 1: Hugging Face token",
        "secrets: README.md, line 2: address of a private server",
        "secrets: distill/x/manifest.json, line 1: path of a machine",
    ]


def test_every_name_has_its_help() -> None:
    assert all(text and "\n" not in text for text in refusals.NAMES.values())
