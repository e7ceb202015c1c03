"""The table of licences: what fits, what does not, and that what is not known is never fine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.publish import licences
from distill.publish.licences import TABLE, Use, known, meets

USES: tuple[Use, ...] = ("weights", "data", "training")
LICENCES = st.sampled_from(sorted(TABLE))


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("Apache-2.0", "apache-2.0"), ("Apache License 2.0", "apache-2.0"), ("apache 2", "apache-2.0"),
        ("The Apache License, Version 2.0", "apache-2.0"), ("MIT", "mit"), ("MIT License", "mit"),
        ("CC BY 4.0", "cc-by-4.0"), ("CC-BY-NC-SA-4.0", "cc-by-nc-sa-4.0"), ("cc_by_sa_3.0", "cc-by-sa-3.0"),
        ("CC0", "cc0-1.0"), ("ODC-BY", "odc-by"), ("GPL-3.0-or-later", "gpl-3.0"), ("llama3.1", "llama3.1"),
    ],
)  # fmt: skip
def test_licences_are_known_by_their_usual_names(text: str, id: str) -> None:
    found = known(text)
    assert found is not None and found.id == id


@pytest.mark.parametrize(
    "text",
    [None, "", "-", "unknown", "other", "CC BY", "CC-BY-NC", "MIT and CC BY 4.0", "MIT, on Qwen2.5 (Apache-2.0)",
     "service", "that of the model", "apache-1.1", "mitt", "proprietary", "see README"],
)  # fmt: skip
def test_what_is_not_one_licence_of_the_table_is_unknown(text: str | None) -> None:
    assert known(text) is None


@given(st.text(max_size=30))
def test_any_text_gets_an_answer(text: str) -> None:
    found = known(text)
    assert found is None or found is TABLE[found.id]


@pytest.mark.parametrize(
    ("source", "chosen", "use", "answer"),
    [
        ("mit", "apache-2.0", "weights", "fits"), ("cc-by-4.0", "apache-2.0", "data", "fits"),
        ("cc-by-nc-4.0", "apache-2.0", "data", "unfit"), ("cc-by-nc-4.0", "apache-2.0", "training", "unfit"),
        ("cc-by-nc-4.0", "cc-by-nc-4.0", "data", "fits"), ("cc-by-nc-4.0", "cc-by-nc-sa-4.0", "data", "fits"),
        ("cc-by-nc-sa-4.0", "cc-by-nc-4.0", "data", "unfit"),
        ("cc-by-sa-4.0", "apache-2.0", "data", "unfit"), ("cc-by-sa-4.0", "apache-2.0", "training", "unknown"),
        ("cc-by-sa-4.0", "cc-by-sa-4.0", "data", "fits"), ("cc-by-sa-3.0", "cc-by-sa-4.0", "data", "fits"),
        ("cc-by-sa-4.0", "cc-by-sa-3.0", "data", "unfit"),
        ("cc-by-nd-4.0", "cc-by-nd-4.0", "data", "unfit"), ("cc-by-nd-4.0", "mit", "training", "unknown"),
        ("llama3.1", "apache-2.0", "weights", "unfit"), ("llama3.1", "llama3.1", "weights", "fits"),
        ("llama3.1", "llama3.3", "weights", "unfit"), ("llama3.1", "mit", "training", "unknown"),
        ("gpl-3.0", "mit", "weights", "unfit"), ("gemma", "gemma", "weights", "fits"),
    ],
)  # fmt: skip
def test_the_table(source: str, chosen: str, use: Use, answer: str) -> None:
    said, why = meets(TABLE[source], TABLE[chosen], use)
    assert said == answer
    assert (why == "") == (answer == "fits")


@given(LICENCES, LICENCES)
def test_no_use_is_freer_than_training(source: str, chosen: str) -> None:
    """Whatever is plainly wrong for training is plainly wrong for passing the text or the weights on."""
    if meets(TABLE[source], TABLE[chosen], "training")[0] == "unfit":
        assert all(meets(TABLE[source], TABLE[chosen], use)[0] == "unfit" for use in USES)


@given(LICENCES, LICENCES, st.sampled_from(USES))
def test_nothing_for_free_use_alone_is_sold(source: str, chosen: str, use: Use) -> None:
    if not TABLE[source].commercial and TABLE[chosen].commercial:
        assert meets(TABLE[source], TABLE[chosen], use)[0] == "unfit"


@given(st.lists(st.tuples(LICENCES, st.sampled_from(USES)), max_size=4))
def test_a_licence_that_is_proposed_fits_all(sources: list[tuple[str, Use]]) -> None:
    found = licences.fitting(sources)
    if found is not None:
        assert all(meets(TABLE[name], found, use)[0] == "fits" for name, use in sources)


def test_a_licence_is_proposed() -> None:
    base = ("apache-2.0", "weights")
    assert licences.fitting([base, ("MIT", "training")]) is TABLE["apache-2.0"]
    assert licences.fitting([("mit", "data"), ("cc-by-sa-4.0", "data")]) is TABLE["cc-by-sa-4.0"]
    assert licences.fitting([("mit", "data"), ("", "data")]) is None
    assert licences.fitting([("gpl-3.0", "data"), ("cc-by-nc-4.0", "data")]) is None
    assert licences.fitting([]) is None


@pytest.mark.parametrize(
    ("model", "forbidden"),
    [
        ("gpt-4o", True), ("openai/o1-mini", True), ("claude-sonnet-4", True),
        ("gemini-2.0-flash-thinking-exp-1219", True),
        ("gpt-oss-120b", False), ("DeepSeek-R1", False), ("Qwen/QwQ-32B", False), ("olmo", False), ("", False),
    ],
)  # fmt: skip
def test_services_that_forbid_learning_from_them(model: str, forbidden: bool) -> None:
    assert licences.forbids_learning(model) is forbidden


def test_every_licence_says_where_it_was_read() -> None:
    assert all(licence.source.startswith("https://") for licence in TABLE.values())
    assert all(name in TABLE for name in licences.OTHER_NAMES.values())
    assert all(name in TABLE for licence in TABLE.values() for name in licence.also)
