"""Keeps one of several traces that say nearly the same, by MinHash over runs of words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from distill.core.config import Settings
from distill.core.protocols import Noted, Selection
from distill.core.records import Trace
from distill.text.ngrams import runs, words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
RECALL = 0.95
"""Pairs just as similar as the threshold are found with this probability at least, more similar ones nearly always."""


class Config(Settings):
    """Settings of the `near_duplicates` filter."""

    threshold: PositiveFloat = Field(default=0.8, le=1)
    """Jaccard index of two texts' runs of words from which they are near duplicates."""
    ngram: PositiveInt = 5
    """Words of a run."""
    permutations: PositiveInt = Field(default=128, le=1024)
    """Length of a MinHash: 128 estimate a similarity of 0.8 within 0.035 (one standard deviation), in 256 bytes."""
    of: Literal["trace", "question"] = "trace"
    """What is compared: reasoning and answer, or the question alone (then one question of several alike stays)."""
    within: Literal["problem", "all"] = "all"
    """Whether traces of different problems can be duplicates of each other."""


def build(config: Config) -> Selection:
    """The filter."""
    return _NearDuplicates(config)


class _NearDuplicates:
    def __init__(self, config: Config) -> None:
        self.config = config
        self.rows = band_rows(config.threshold, config.permutations)

    def note(self, trace: Trace) -> bytes:
        """Whether it was not graded correct (one byte), and its MinHash.

        Of each value the lower 16 bits are kept (Li and König 2010): two that differ look equal once in 65,536 times.
        """
        from rensa import RMinHash

        if self.config.of == "question":
            text = "\n".join(message.content for message in trace.messages)
        else:
            text = f"{trace.reasoning or ''}\n{trace.answer}"
        (digest,) = RMinHash.digests_from_token_sets(
            [list(runs(tokens(text), self.config.ngram))], self.config.permutations, 0
        )
        return bytes([trace.verdict != "correct"]) + _packed(digest)

    def reject(self, noted: Sequence[Noted]) -> Mapping[int, str]:
        """All but one of each group: a correct one where there is one, then the one of the smallest key.

        Groups are those that similar pairs connect. Candidates share a band of their MinHash (locality-sensitive
        hashing, Broder 1997; Indyk and Motwani 1998) and are then compared in full.
        """
        import numpy as np

        if not noted:
            return {}
        order = sorted(range(len(noted)), key=lambda at: (noted[at].note[:1], noted[at].key))
        digests_NP = np.frombuffer(b"".join(noted[at].note[1:] for at in order), np.uint16).reshape(len(order), -1)
        problems = {name: n for n, name in enumerate(sorted({trace.problem_id for trace in noted}))}
        scope_N = np.array([problems[noted[at].problem_id] for at in order], np.uint64)
        scope_N = scope_N if self.config.within == "problem" else np.zeros_like(scope_N)
        first = _groups(digests_NP, scope_N, self.rows, self.config.threshold)
        if self.config.of == "question":  # all traces of the one question that stays, stay
            return {
                order[at]: "question nearly that of another problem"
                for at, leader in enumerate(first)
                if noted[order[at]].problem_id != noted[order[leader]].problem_id
            }
        return {order[at]: "nearly the same text as another" for at, leader in enumerate(first) if leader != at}


def band_rows(threshold: float, permutations: int) -> int:
    """Rows of a band: as many as still find a pair at the threshold with probability `RECALL`.

    More rows mean fewer candidates; b bands of r rows find a pair of similarity s with 1 - (1 - s^r)^b.
    """
    fitting = (r for r in range(permutations, 1, -1) if 1 - (1 - threshold**r) ** (permutations // r) >= RECALL)
    return next(fitting, 1)


def _groups(digests_NP: NDArray[np.uint16], scope_N: NDArray[np.uint64], rows: int, threshold: float) -> list[int]:
    """Index of the first member of each row's group. Within a bucket all are compared with its first member."""
    import numpy as np

    leader = list(range(len(digests_NP)))

    def root(at: int) -> int:
        while leader[at] != at:
            leader[at] = leader[leader[at]]
            at = leader[at]
        return at

    mixer = np.random.default_rng(0).integers(1, 1 << 63, size=rows + 1, dtype=np.uint64) | np.uint64(1)
    for start in range(0, digests_NP.shape[1] - rows + 1, rows):
        band_N = scope_N * mixer[rows]
        for offset in range(rows):  # a sum of products modulo 2^64; those that collide are compared in full anyway
            band_N = band_N + (digests_NP[:, start + offset].astype(np.uint64) + np.uint64(1)) * mixer[offset]
        by_band = np.argsort(band_N, kind="stable")
        same = band_N[by_band[1:]] == band_N[by_band[:-1]]
        head = 0
        for place in np.flatnonzero(same).tolist():
            if place == 0 or not same[place - 1]:
                head = int(by_band[place])
            at = int(by_band[place + 1])
            one, other = root(head), root(at)
            if one == other or scope_N[head] != scope_N[at]:
                continue
            if float(np.mean(digests_NP[head] == digests_NP[at])) >= threshold:
                leader[max(one, other)] = min(one, other)
    return [root(at) for at in range(len(leader))]


def tokens(text: str) -> list[str]:
    """Words; a script without spaces, whose signs are words, takes the longer way."""
    return _WORD.findall(text.lower()) if text.isascii() else words(text)


def _packed(digest: Sequence[int]) -> bytes:
    import numpy as np

    return np.asarray(digest, np.uint32).astype(np.uint16).tobytes()
