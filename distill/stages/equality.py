"""Which answers to one problem are the same answer, by the verifier's own comparison: 1/2, 0.5 and \\frac12 are.

Votes are counted by these classes: where problems are labelled by majority, and where maj@k is measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

from distill.core.protocols import Answer, Verifier


def compares(judge: Verifier) -> bool:
    """Whether two answers can be compared by taking one for gold. Not so for patterns, programs, rules of form, and a
    model that would have to be asked.
    """
    return bool(getattr(judge, "compares", True))


def classes(ballots: Mapping[str, Counter[str]], judge: Verifier) -> dict[str, dict[str, list[str]]]:
    """Texts of each class by the text that leads it, by problem; the class is led by its most common spelling.

    `ballots` counts how often each extracted answer was given, by problem. Two texts are one class where the verifier
    takes each for the other, whatever they look like; with one that compares nothing, every text is its own class. All
    problems are compared in step, in few calls; the result does not depend on the order of the texts.
    """
    left = {problem: sorted(votes, key=partial(_rank, votes)) for problem, votes in ballots.items()}
    found: dict[str, dict[str, list[str]]] = {problem: {} for problem in ballots}
    if not compares(judge):
        return {problem: {text: [text] for text in texts} for problem, texts in left.items()}
    while any(left.values()):
        pairs = [(problem, texts[0], text) for problem, texts in left.items() for text in texts[1:]]
        same = _same([(leader, text) for _, leader, text in pairs], judge)
        joined = {(problem, text) for (problem, _, text), agrees in zip(pairs, same, strict=True) if agrees}
        for problem, texts in left.items():
            if texts:
                members = [texts[0], *(text for text in texts[1:] if (problem, text) in joined)]
                found[problem][texts[0]] = members
                left[problem] = [text for text in texts[1:] if (problem, text) not in joined]
    return found


def _rank(votes: Counter[str], text: str) -> tuple[int, bool, int, str]:
    """Which spelling leads: the most common, and rather a fraction than a decimal, which may be rounded."""
    return -votes[text], "." in text, len(text), text


def _same(pairs: Sequence[tuple[str, str]], judge: Verifier) -> list[bool]:
    """Whether each of two answers is correct where the other is gold: the verifier's comparison is not symmetric."""
    there = judge.grade([Answer(text, gold=leader, extracted=True) for leader, text in pairs])
    back = judge.grade([Answer(leader, gold=text, extracted=True) for leader, text in pairs])
    return [a.value == b.value == "correct" for a, b in zip(there, back, strict=True)]
