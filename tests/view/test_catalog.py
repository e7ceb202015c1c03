"""Search, filters, counts, order and paging against the plain way of doing it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import DistillError
from distill.view import catalog as catalogs
from distill.view.catalog import SORTS, Asked, Catalog
from distill.view.entries import Entry, Question
from tests.view.made import entry, opened, source

WORDS = ("circle", "triangle", "square")
VERDICTS = ("correct", "wrong", "")


def facts(number: int) -> dict[str, Any]:
    return {
        "words": [word for place, word in enumerate(WORDS) if number >> place & 1],
        "verdict": VERDICTS[number % 3],
        "level": str(number % 4), "tokens": None if number % 11 == 0 else (number * 37) % 50,
        "problem": number % 6,
    }  # fmt: skip


def drawn() -> list[Entry]:
    made = []
    for number in range(60):
        told = facts(number)
        asked = Question(f"p{told['problem']}", f"Problem {told['problem']}", level=str(told["problem"]))
        made.append(
            entry(number, question=asked, thinking=" ".join(told["words"]), tokens=told["tokens"],
                  facets={"verdict": told["verdict"], "level": told["level"]})
        )  # fmt: skip
    return made


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with opened(source(drawn()), tmp_path_factory.mktemp("catalog")) as made:
        yield made


def of(catalog: Catalog, asked: Asked) -> list[int]:
    """The numbers of the entries of a page."""
    return [int(catalog.raw(row["name"])["parts"].rpartition(" ")[2]) for row in catalog.search(asked)["entries"]]


def plainly(words: tuple[str, ...], verdicts: tuple[str, ...], least: int | None, sort: str) -> list[int]:
    kept = [
        number for number in range(60)
        if all(word in facts(number)["words"] for word in words)
        and (not verdicts or facts(number)["verdict"] in verdicts)
        and (least is None or (facts(number)["tokens"] is not None and facts(number)["tokens"] >= least))
    ]  # fmt: skip
    if sort in ("shortest", "longest"):
        sign = 1 if sort == "shortest" else -1
        kept.sort(key=lambda n: (facts(n)["tokens"] is None, sign * (facts(n)["tokens"] or 0)))
    if sort == "problem":
        kept.sort(key=lambda n: facts(n)["problem"])
    return kept


@pytest.mark.parametrize(
    ("words", "verdicts", "least", "sort"),
    list(product([(), ("circle",), ("circle", "square")], [(), ("wrong",), ("wrong", "")], [None, 20], SORTS)),
)
def test_a_search_is_what_a_loop_over_all_would_find(
    catalog: Catalog, words: tuple[str, ...], verdicts: tuple[str, ...], least: int | None, sort: Any
) -> None:
    asked = Asked(" ".join(words), {"verdict": verdicts} if verdicts else {}, least, None, sort, limit=200)

    assert of(catalog, asked) == plainly(words, verdicts, least, sort)


@pytest.mark.parametrize("sort", SORTS)
def test_pages_hold_every_entry_once(catalog: Catalog, sort: Any) -> None:
    pages: list[str] = []
    for _ in range(5):  # the last one is half full
        page = catalog.search(Asked("circle", sort=sort, after=pages[-1] if pages else "", limit=7))["entries"]
        pages += [row["name"] for row in page]

    assert pages == [row["name"] for row in catalog.search(Asked("circle", sort=sort, limit=200))["entries"]]
    assert len(pages) == 30


def test_counts_say_what_choosing_would_give(catalog: Catalog) -> None:
    asked = Asked("triangle", {"verdict": ["wrong"], "level": ["0", "1"]})

    counts = catalog.search(asked)["facets"]

    for name in ("verdict", "level"):
        told = dict(counts[name]["values"])
        for value in catalog.facets[name]["values"]:
            narrowed = Asked("triangle", {**asked.chosen, name: [value]})
            assert catalog.search(narrowed)["total"] == told.get(value, 0), (name, value)


def test_a_facet_of_many_values_tells_the_frequent_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogs, "COUNTED", 2)
    made = [entry(n, facets={"why": f"reason {min(n, 4)}", "model": "one"}) for n in range(7)]

    with opened(source(made), tmp_path) as catalog:
        found = catalog.search(Asked())["facets"]["why"]
        told = [facet["name"] for facet in catalog.about()["facets"]]

    assert found == {"values": [("reason 4", 3), ("reason 0", 1)], "rarer": 3}
    assert told == ["why"]  # `model` has one value


def test_words_that_are_not_wanted(catalog: Catalog) -> None:
    assert of(catalog, Asked("circle -square", limit=200)) == [n for n in range(60) if n & 1 and not n & 4]
    assert catalog.search(Asked("-circle"))["total"] == 30


def test_a_search_that_takes_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(source([entry(n, thinking=f"{'word ' * 400}") for n in range(400)]), tmp_path) as catalog:
        monkeypatch.setattr(catalogs, "SEARCH_S", -1.0)
        stopped = catalog.search(Asked('"word word" "word word word"'))
        monkeypatch.undo()
        whole = catalog.search(Asked('"word word" "word word word"'))

    assert not stopped["complete"] and stopped["total"] < 400
    assert whole["complete"] and whole["total"] == 400


def test_snippets_show_the_match_and_where_it_is(tmp_path: Path) -> None:
    long = entry(1, thinking=f"{'before ' * 60}needle {'after ' * 60}")
    with opened(source([long, entry(2, answer="The needle.")]), tmp_path) as catalog:
        one, two = catalog.search(Asked("NEEDLE"))["entries"]

    assert one["snippet"]["where"] == "thinking"
    assert one["snippet"]["text"].startswith("…") and "before needle after" in one["snippet"]["text"]
    assert two["snippet"] == {"where": "answer", "text": "The needle."}


def test_an_entry_in_full(tmp_path: Path) -> None:
    asked = Question("p", "What is $x$?", gold="\\frac{1}{7}")
    made = [
        entry(
            1,
            question=asked,
            thinking="a\n\nb",
            answer="So $7$",
            raw="<think>a\n\nb</think>So $7$",
            notes=(("key", "k1"),),
        ),
        entry(2, question=asked, thinking=None),
    ]
    with opened(source(made), tmp_path) as catalog:
        first, second = [row["name"] for row in catalog.search(Asked())["entries"]]
        found = catalog.entry(first)

        assert found["problem"]["gold"]["tree"][0] == "math"
        assert found["answer"][0]["parts"][1]["tree"][0] == "math"
        assert found["notes"] == [["key", "k1"]]
        assert [answer["name"] for answer in found["answers"]] == [first, second]
        assert (found["thinking"], catalog.entry(second)["thinking"]) == (4, None)
        assert [block["parts"][0]["text"] for block in catalog.thinking(first)["blocks"]] == ["a", "b"]
        assert catalog.raw(first)["text"] == "<think>a\n\nb</think>So $7$"


def test_what_is_not_there(catalog: Catalog) -> None:
    with pytest.raises(DistillError, match="no entry `nothing`"):
        catalog.entry("nothing")
    with pytest.raises(DistillError, match="no facet `colour`"):
        catalog.search(Asked(chosen={"colour": ["red"]}))
    assert catalog.search(Asked(chosen={"verdict": ["unheard of"]}))["total"] == 0


def test_an_empty_file(tmp_path: Path) -> None:
    with opened(source([]), tmp_path) as catalog:
        assert catalog.search(Asked("word", sort="longest"))["total"] == 0
        assert catalog.about()["longest"] == 0
