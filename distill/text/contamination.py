"""Whether a question is one of a benchmark's, by hashed signatures that can be kept where the benchmark cannot.

A signature holds, for every item, 64-bit hashes of its runs of `RUN` words (the whole item where it is shorter), once
as they are and once with all numbers alike; of its numbers; and of its content words. It gives no text back. Kept as
safetensors.

Runs of words find copies, however wrapped, and no rewrite at all. A rewrite keeps the numbers and some of the content
words, and two unrelated problems seldom share both: that finds more than half of a language model's rewrites of GSM8K
(docs/verify.md has the figures), and no translation.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill.core.errors import DistillError
from distill.core.files import atomic
from distill.text.ngrams import hashes, runs, without_numbers, words

SETS = ("runs", "alike", "letters", "stems")
"""Columns of hashes in a file, beside one that says how many each item has."""

FORMAT = "distill-signature-1"
RUN = 8
"""Words of a run. Longer runs miss rewrites, shorter ones meet in unrelated problems."""
FEWEST = 4
"""Items of fewer words are only found as the whole question: three words stand in many others."""
SHORT = 2 * RUN
"""Items below this many words have few runs or none; they are also compared by their characters."""
GRAM = 5
"""Characters of such a comparison."""

SIBLING = 0.9
"""Share of an item's runs, numbers aside, that makes a question with other numbers its sibling."""

SHARED_STEMS = 4
"""Content words that a rewrite must share, whatever their share: few-word questions about the same numbers differ."""

How = Literal["exact", "runs", "fuzzy", "rewritten", "numbers"]

_COMMON = frozenset(
    words(
        "a an the of in on at to for and or is are was were be been has have had he she it they his her their its if "
        "how many much what does do did with from by per each that this which then will as all there who when not than "
        "more less total after would can find compute calculate determine question answer"
    )
)
_SPELLED = {
    word: str(n) for n, word in enumerate(words("two three four five six seven eight nine ten eleven twelve"), 2)
}
"""Numbers as words. Not `one`, which is more often no number."""


@dataclass(frozen=True)
class Match:
    """The item that a question is most like.

    `exact`: it stands in the question, word for word. `runs`: a good part of it does. `fuzzy`: a short item, nearly.
    `rewritten`: the same numbers in other words. `numbers`: the same words with other numbers, which is a sibling, not
    a copy.
    """

    benchmark: str
    item: int
    how: How
    share: float
    """Of the item's runs (or characters, for `fuzzy`) that the question has."""


@dataclass(frozen=True)
class Item:
    """Hashes of one benchmark item."""

    length: int
    """Words."""
    runs: frozenset[int]
    alike: frozenset[int]
    """Runs with all numbers alike."""
    letters: frozenset[int]
    """Runs of characters, for short items only."""
    stems: frozenset[int]
    """Beginnings of the content words."""
    figures: int
    """All its numbers, in order of size; 0 where there are fewer than two."""


@dataclass(frozen=True)
class Signature:
    """A benchmark's items as hashes. `skipped` had no word at all."""

    name: str
    items: tuple[Item, ...]
    skipped: int


def build(name: str, texts: Iterable[str]) -> Signature:
    """The signature of a benchmark's questions. Raises DistillError if none can be used."""
    items = []
    skipped = 0
    for text in texts:
        tokens = words(text)
        if not tokens:
            skipped += 1
            continue
        tiny = len(tokens) < FEWEST
        items.append(
            Item(
                length=len(tokens),
                runs=frozenset(hashes({_whole(tokens)} if tiny else runs(tokens, RUN))),
                alike=frozenset() if tiny else frozenset(hashes(runs(without_numbers(tokens), RUN))),
                letters=frozenset(_letters(tokens)) if FEWEST <= len(tokens) < SHORT else frozenset(),
                stems=frozenset(_stems(tokens)),
                figures=_figures(tokens),
            )
        )
    if not items:
        raise DistillError(f"signature `{name}`: no question with a word in it")
    return Signature(name, tuple(items), skipped)


def write(path: Path, signature: Signature) -> None:
    """Write a signature file, atomically."""
    import numpy as np
    from safetensors.numpy import save

    columns = {
        "length": np.array([item.length for item in signature.items], np.int64),
        "figures": np.array([item.figures for item in signature.items], np.uint64),
    }
    for name in SETS:
        sets = [sorted(getattr(item, name)) for item in signature.items]
        columns[name] = np.array([value for values in sets for value in values], np.uint64)
        columns[f"{name}_of"] = np.array([len(values) for values in sets], np.int64)
    about = {"format": FORMAT, "name": signature.name, "skipped": signature.skipped, "run": RUN}
    with atomic(path) as partial:  # one entry: safetensors writes several in any order
        partial.write_bytes(save(columns, metadata={"about": json.dumps(about)}))


def read(path: Path) -> Signature:
    """Read a signature file. Raises DistillError if it is none or not there: a missing benchmark stops a run."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise DistillError(
            f"{path}: no such signature file; build it from your copy of the benchmark with `distill signature`"
        )
    try:
        with safe_open(path, "numpy") as file:
            about = json.loads((file.metadata() or {}).get("about", "{}"))
            columns = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - the file is no mapping
    except SafetensorError as error:
        raise DistillError(f"{path}: cannot be read as a signature ({error})") from error
    if about.get("format") != FORMAT or about.get("run") != RUN:
        raise DistillError(f"{path}: is no {FORMAT} file with runs of {RUN} words; build it again")
    sets = {name: list(_parted(columns[name], columns[f"{name}_of"])) for name in SETS}
    items = [
        Item(length=int(length), figures=int(figures), **{name: sets[name][at] for name in SETS})
        for at, (length, figures) in enumerate(zip(columns["length"], columns["figures"], strict=True))
    ]
    return Signature(about["name"], tuple(items), int(about["skipped"]))


class Index:
    """Several signatures, ready to be asked."""

    def __init__(
        self, signatures: Sequence[Signature], *, share: float = 0.5, fuzzy: float = 0.8, rewritten: float = 0.25
    ) -> None:
        self.share, self.fuzzy, self.rewritten = share, fuzzy, rewritten
        self.items = [(signature.name, at, item) for signature in signatures for at, item in enumerate(signature.items)]
        self._having = {name: _inverted(self.items, name) for name in ("runs", "alike", "letters")}
        self._short = sorted({item.length for *_, item in self.items if FEWEST <= item.length < RUN})
        self._figures: dict[int, list[int]] = {}
        for at, (*_, item) in enumerate(self.items):
            if item.figures:
                self._figures.setdefault(item.figures, []).append(at)

    def match(self, text: str) -> Match | None:
        """The item that the text holds, or nearly holds: copies before rewrites before siblings."""
        tokens = words(text)
        if not tokens:
            return None
        copied = self._best("runs", self._said(tokens) | hashes({_whole(tokens)}))
        if copied is not None and copied.how == "exact":
            return copied
        sibling = self._best("alike", self._said(without_numbers(tokens)))
        if sibling is not None and sibling.share < SIBLING:
            sibling = None
        if copied is not None and copied.share >= self.share:
            same = sibling is not None and sibling.item == copied.item and sibling.share > copied.share
            return sibling if same else copied
        return self._alike(_letters(tokens)) or self._reworded(tokens) or sibling

    def _said(self, tokens: Sequence[str]) -> set[int]:
        """Runs of the question, also of the lengths of short items, which may stand anywhere in it."""
        return set().union(*(hashes(runs(tokens, length)) for length in (RUN, *self._short)))

    def _best(self, name: Literal["runs", "alike"], said: set[int]) -> Match | None:
        found = self._counts(name, said)
        if not found:
            return None
        shares = {at: count / len(getattr(self.items[at][2], name)) for at, count in found.items()}
        at = min(shares, key=lambda at: (-shares[at], at))
        how: How = "numbers" if name == "alike" else "exact" if shares[at] == 1 else "runs"
        return Match(self.items[at][0], self.items[at][1], how, shares[at])

    def _alike(self, letters: set[int]) -> Match | None:
        """The short item with the most characters in common, both ways: a long text is no rewrite of a short one."""
        best: Match | None = None
        for at, count in sorted(self._counts("letters", letters).items()):
            name, item, about = self.items[at]
            share = count / len(about.letters | letters)
            if share >= self.fuzzy and (best is None or share > best.share):
                best = Match(name, item, "fuzzy", share)
        return best

    def _reworded(self, tokens: Sequence[str]) -> Match | None:
        """The item with the same numbers and the most content words in common."""
        stems = _stems(tokens)
        best: Match | None = None
        for at in self._figures.get(_figures(tokens), ()):
            name, item, about = self.items[at]
            shared, share = len(about.stems & stems), len(about.stems & stems) / max(1, len(about.stems | stems))
            if shared >= SHARED_STEMS and share >= self.rewritten and (best is None or share > best.share):
                best = Match(name, item, "rewritten", share)
        return best

    def _counts(self, name: str, said: set[int]) -> Counter[int]:
        having = self._having[name]
        return Counter(at for value in said if value in having for at in having[value])


def _whole(tokens: Sequence[str]) -> str:
    return f"^ {' '.join(tokens)} $"


def _stems(tokens: Sequence[str]) -> set[int]:
    return hashes({w[:5] for w in tokens if w.isalpha() and w not in _COMMON and w not in _SPELLED})


def _figures(tokens: Sequence[str]) -> int:
    numbers = sorted(_SPELLED.get(word, word) for word in tokens if word in _SPELLED or word[0].isdigit())
    (found,) = hashes({" ".join(numbers)})
    return found if len(numbers) > 1 else 0


def _letters(tokens: Sequence[str]) -> set[int]:
    text = " ".join(tokens)
    return hashes({text[start : start + GRAM] for start in range(max(1, len(text) - GRAM + 1))})


def _inverted(items: Sequence[tuple[str, int, Item]], name: str) -> dict[int, list[int]]:
    having: dict[int, list[int]] = {}
    for at, (*_, item) in enumerate(items):
        for value in getattr(item, name):
            having.setdefault(value, []).append(at)
    return having


def _parted(values: Iterable[int], sizes: Iterable[int]) -> Iterator[frozenset[int]]:
    following = iter(values)
    for size in sizes:
        yield frozenset(int(next(following)) for _ in range(size))
