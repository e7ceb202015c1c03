"""The dataset card: README.md of the traces' repository, with the configurations that `load_dataset` reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from distill.core import tables
from distill.core.errors import DistillError
from distill.publish import dataset, licences, markdown, passages
from distill.publish.markdown import Markdown, block, bullets, code, table

if TYPE_CHECKING:
    from distill.publish.refusals import Refusal
    from distill.publish.release import Release, Traces
    from distill.publish.settings import Config

SIZES = (
    (1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"),
)  # fmt: skip
"""The Hub's categories of size (https://huggingface.co/docs/datasets/repository_structure, dataset card tags)."""


def render(release: Release, allowed: Sequence[Refusal], config: Config) -> str:
    """README.md of the dataset repository. `allowed` are the refusals that were found and overridden.

    Raises DistillError where the traces are not on this machine, or no dataset repository is named.
    """
    traces = release.traces
    if traces is None or config.dataset_repo is None:
        raise DistillError(f"{release.run}: no traces here, or no `publish.dataset_repo`, so there is no dataset")
    head = _metadata(release, traces, config).to_yaml()
    facts = _facts(release, traces, config, config.dataset_repo) | {
        "allowed": [(code(refusal.name), refusal.why) for refusal in allowed]
    }
    return f"---\n{head}\n---\n\n{markdown.render('dataset_card.md.jinja', facts)}"


def _configs(config: Config) -> Iterator[dict[str, Any]]:
    yield {
        "config_name": "traces",
        "default": True,
        "data_files": [{"split": "train", "path": "data/traces/*.parquet"}],
    }
    if config.rejected:
        yield {"config_name": "rejected", "data_files": [{"split": "train", "path": "data/rejected/*.parquet"}]}


def _metadata(release: Release, traces: Traces, config: Config) -> Any:
    from huggingface_hub import DatasetCardData

    named = release.licence(config, dataset=True)
    known = licences.known(named)
    return DatasetCardData(
        license=known.id if known else "other" if named else "unknown",
        license_name=None if known or not named else markdown.one_line(named),
        pretty_name=f"Traces of {markdown.one_line(release.name)}",
        task_categories=["text-generation"],
        size_categories=[next((name for limit, name in SIZES if traces.rows < limit), "n>100M")],
        tags=["distillation", "reasoning", "synthetic"],
        configs=list(_configs(config)),
    )


def _facts(release: Release, traces: Traces, config: Config, repo: str) -> dict[str, Any]:
    return {
        "title": repo.partition("/")[2],
        "summary": Markdown(
            f"{traces.rows:,} answers with their reasoning to {traces.problems:,} problems, on which "
            f"{code(config.repo)} was trained."
        ),
        "loading": block(
            f'from datasets import load_dataset\n\ntraces = load_dataset("{repo}", "traces", split="train")', "python"
        ),
        "configs": bullets(list(_told_configs(release, config))),
        "features": _features(dataset.FEATURES),
        "rejected_features": _features(dataset.REJECTED_FEATURES) if config.rejected else "",
        "making": list(_making(release, config)),
        "teachers": passages.teachers(release),
        "materials": passages.materials(release),
        "funnel": passages.funnel(release),
        "labels": _labels(traces),
        "verifiers": Markdown(f"Judged by: {markdown.inline(passages.verifiers(release))}."),
        "overlap": passages.overlap(release),
        "limitations": bullets(_limitations(release)),
        "provenance": passages.provenance(release),
        "stages": passages.stages(release),
        "versions": passages.versions(release),
    }


def _told_configs(release: Release, config: Config) -> Iterator[Markdown]:
    yield Markdown(f"{code('traces')}: what the student was trained on, one split {code('train')}.")
    if config.rejected:
        rejected = release.counts("filter").get("seen", 0) - release.counts("filter").get("kept", 0)
        yield Markdown(f"{code('rejected')}: {rejected:,} answers that a filter rejected, with filter and reason.")
    yield Markdown(
        "Answers to dev and test problems are not here; nor are prices and times. The folder `distill/` has the traces "
        "as the student read them, with token ids, for `distill pull`."
    )


def _features(features: dict[str, str]) -> Markdown:
    types = _types()
    rows = [(code(name), types[name], Markdown(meaning)) for name, meaning in features.items()]
    return table(["column", "type", "what it holds"], rows)


def _types() -> dict[str, str]:
    schema = tables.arrow_schema(dataset.RejectedRow)
    return {field.name: "list of turns" if field.name == "messages" else str(field.type) for field in schema}


def _making(release: Release, config: Config) -> Iterator[tuple[Any, Any]]:
    yield "licence of this dataset", passages.licence(release.licence(config, dataset=True))
    yield "student trained on it", code(config.repo)
    drawn = release.counts("sample")
    if drawn:
        yield "drawn", f"{drawn['samples']:,} answers to {drawn['problems']:,} problems, {drawn['tokens']:,} tokens"
    yield "cost", passages.cost(release)


def _labels(traces: Traces) -> Markdown:
    meaning = {
        "gold": "a reference answer of the problem's source",
        "majority": "a vote of the teacher's own answers",
        "rationalised": "a reference answer that the teacher had been shown",
        "none": "nothing",
    }
    rows = [
        (code(name), said, passages.share(traces.labels.get(name, 0), traces.rows)) for name, said in meaning.items()
    ]
    return Markdown(f"The answers were held against:\n\n{table(['label', 'held against', 'share'], rows, right=(2,))}")


def _limitations(release: Release) -> list[str]:
    return [
        *passages.limits_of_data(release),
        "Problems that the teacher could not solve are missing: the traces are easier than their source.",
        "Reasoning is the teacher's own text: a right answer does not make every step of it right.",
    ]
