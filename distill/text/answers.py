"""Finding the final answer in a text. Pure string work, linear in the text.

Where an answer is looked for, in this order:

1. `\\boxed{...}`: the last one; boxes joined by nothing but commas, "and", "or" are one answer with several parts.
2. `#### 42`: the rest of the last such line.
3. "answer is ...", "Answer: ...", `A: ...`: the last such mark that is followed by something to read.
4. Without any mark: a text that is nothing but an answer; else its last formula or number (a setting can refuse this).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from distill.text.characters import plain_characters
from distill.text.readings import brace_balance, unit_name, unwrapped


@dataclass(frozen=True)
class Found:
    """An answer as it stands in the text, and by which mark it was found."""

    text: str
    mark: Literal["box", "hashes", "words", "whole", "last"]


@dataclass(frozen=True)
class Box:
    """The content of one `\\boxed{...}`, which spans text[start:end]."""

    start: int
    end: int
    content: str


def extract(text: str, *, unmarked: bool = True) -> Found | None:
    """The final answer in a response, by the order of the module's docstring; None if there is none.

    An empty box, or one that is never closed, is an answer that was left out: `Found("", "box")`. `unmarked` False
    stops after step 3.

    >>> extract("So 3 + 4 = \\\\boxed{7}.")
    Found(text='7', mark='box')
    >>> extract("The answer is 3 and 5.")
    Found(text='3 and 5', mark='words')
    """
    text = plain_characters(text)
    found = _boxed(text) or _after_hashes(text) or _after_words(text)
    if found is not None or not unmarked:
        return found
    whole = text.strip()
    if _is_bare_answer(whole):
        return Found(whole, "whole")
    last = _last_value(text)
    return None if last is None else Found(last, "last")


# Boxes

_BOX_TOKEN = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{|\\.|[{}]", re.DOTALL)
_OPEN_BOX = re.compile(r"\\boxed\s*\{")
_BARE_BOX = re.compile(r"\\boxed\s+([^\s{}\\$]+)")
_JOIN = re.compile(
    r"(?:\s|[$,;.&]|\\[\[\]() ,;!]|\\q?quad|\\(?:text|mbox|textrm)\s*\{\s*,?\s*(?:and|or)\s*\}|\band\b|\bor\b"
    r"|[A-Za-z]\w?(?:_\{?\w\}?)?\s*=)+"
)
_JOIN_LIMIT = 60
_BOXES_IN_BOXES = 8
_PERCENT_AFTER = re.compile(r"[\s$)\]\\}*]{0,8}(?:%|percent\b|pct\b)", re.IGNORECASE)


def boxes(text: str) -> list[Box]:
    """All outermost `\\boxed{...}` that are closed, in order, by one scan that counts braces."""
    found: list[tuple[int, int, int]] = []  # (start, start of the content, end): contents are cut out at the end, once
    opened: list[tuple[int, int] | None] = []  # (start of a box, start of its content); None for a plain brace
    for token in _BOX_TOKEN.finditer(text):
        if token[0] == "{":
            opened.append(None)
        elif token[0].endswith("{") and len(token[0]) > 2:
            opened.append((token.start(), token.end()))
        elif token[0] == "}" and opened and (box := opened.pop()) is not None:
            while found and found[-1][0] > box[0]:
                found.pop()  # it stands inside this one
            found.append((*box, token.end()))
    outermost = [Box(start, end, text[inner : end - 1]) for start, inner, end in found]
    return outermost or [Box(m.start(), m.end(), m[1].rstrip(".,")) for m in _BARE_BOX.finditer(text)]


def _boxed(text: str) -> Found | None:
    found = boxes(text) if "boxed" in text or "fbox" in text else []
    if not found:
        return Found("", "box") if _OPEN_BOX.search(text) else None
    parts = [found[-1]]
    for box in reversed(found[:-1]):
        gap = text[box.end : parts[0].start]
        if len(gap) > _JOIN_LIMIT or not _JOIN.fullmatch(gap):
            break
        parts.insert(0, box)
    contents = [_innermost(part.content).strip() for part in parts]
    answer = ", ".join(dict.fromkeys(contents)).strip()  # the same answer boxed twice is one answer
    if answer and "%" not in answer and _PERCENT_AFTER.match(text, parts[-1].end):
        answer += "%"
    return Found(answer, "box")


def _innermost(content: str) -> str:
    for _ in range(_BOXES_IN_BOXES):
        inner = boxes(content) if "boxed" in content else []
        if not inner:
            break
        content = inner[-1].content
    return content


# Marks

_HASHES = re.compile(r"####[ \t]*([^\n]+)")
_WORDS = re.compile(
    r"\banswers?\b(?:[^.\n:=]{0,80}?(?:\bis\b|\bare\b|:|=)|\*\*)(?:\s*:)?|^[ \t]*(?:A|ANS)[ \t]*:"
    r"|\b(?:réponse|respuesta|risposta|resposta|antwort|lösung|ответ)\b[^.\n:=]{0,60}?(?:\b(?:est|es|è|é|ist|lautet)\b|:|=|—|-)"
    r"|(?:答案|答え|答|정답|उत्तर|الإجابة|الجواب)[^。.\n:：=]{0,40}?(?:是|为|為|は|은|는|है|هي|هو|[:：=])",
    re.IGNORECASE | re.MULTILINE,
)
_FORMULA = re.compile(r"\$\$[^$]+\$\$|(?<!\\)\$[^$\n]+?(?<!\\)\$|\\\[.{1,1000}?\\\]|\\\(.{1,1000}?\\\)", re.DOTALL)
_NUMBER = (
    r"(?:(?<![A-Za-z0-9_.)}^])[-+])?(?<![A-Za-z0-9_.^])(?<![\^_]\{)\\?[$€£¥₹]?\s?"
    r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:[.,][0-9]+)?(?:\s?/\s?[0-9]+)?"
    r"|(?<![A-Za-z0-9_.])[-+]?\.[0-9]+"
)
_VALUE = re.compile(rf"(?P<formula>{_FORMULA.pattern})|(?P<number>{_NUMBER})", re.DOTALL)
_NUMBER_ALONE = re.compile(rf"(?P<formula>(?!))|(?P<number>{_NUMBER})")
_TEXT_GROUP = re.compile(
    r"\\(?:text|mbox|textbf|mathrm|textrm|textnormal|operatorname|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+"
)
_PROSE = re.compile(r"[a-z]{2,}[,;]?\s+[a-z]{2,}")
_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n")
_LEADING = re.compile(r"[\s*_:>]+")
_LIST_GAP = re.compile(r"\s*(?:[,;]\s*(?:and\b|or\b)?|and\b|or\b)\s*")
_OPERATOR = re.compile(r"\s*[-+*/^=<>]")
_CLAUSE_LIMIT = 400


def _after_hashes(text: str) -> Found | None:
    marks = _HASHES.findall(text) if "####" in text else []
    return Found(marks[-1].strip(), "hashes") if marks and marks[-1].strip() else None


def _after_words(text: str) -> Found | None:
    for mark in reversed(list(_WORDS.finditer(text))):
        answer = _answer_of_clause(text[mark.end() : mark.end() + _CLAUSE_LIMIT])
        if answer is not None:
            return Found(answer, "words")
    return None


def _answer_of_clause(rest: str) -> str | None:
    """What follows "the answer is": the values it starts with, else its last one, else a name; None if nothing does."""
    start = _LEADING.match(rest)
    rest = rest[start.end() :] if start else rest
    clause = rest[: _clause_end(rest)]
    values = list(_values(clause))
    if "=" in clause and values and not values[-1]["formula"]:  # 35 + 70 = 105
        clause = clause[clause.rfind("=") + 1 :].lstrip()
        values = list(_values(clause))
    if values and values[0].start() == 0:
        end = _list_end(clause, values)
        if _OPERATOR.match(clause, end) and len(values) > 1:
            return clause.strip(" *_")  # an expression: 3 * 7 + 2
        return clause[:end] + _unit_after(clause[end:])
    if values:
        return values[-1][0].strip() + _unit_after(clause[values[-1].end() :])
    name = clause.strip(" *_`\"'()")
    return name if name and len(name.split()) <= 6 else None


def _values(text: str) -> Iterator[re.Match[str]]:
    """Formulas and numbers, in order. Prose between two dollar signs is no formula: they are sums of money."""
    for value in _VALUE.finditer(text):
        if value["formula"] and _PROSE.search(_TEXT_GROUP.sub(" ", value[0])):
            yield from _NUMBER_ALONE.finditer(text, value.start() + 1, value.end() - 1)
        else:
            yield value


def _clause_end(rest: str) -> int:
    """Where the clause ends: at the first full stop or line end that is not inside a formula."""
    at = 0
    for formula in _FORMULA.finditer(rest):
        stop = _SENTENCE_END.search(rest, at, formula.start())
        if stop:
            return stop.start()
        at = formula.end()
    stop = _SENTENCE_END.search(rest, at)
    return stop.start() if stop else len(rest)


def _list_end(clause: str, values: list[re.Match[str]]) -> int:
    """End of the run of values joined by commas, "and", "or" that starts with the first."""
    end = values[0].end()
    for value in values[1:]:
        if not _LIST_GAP.fullmatch(clause, end, value.start()):
            break
        end = value.end()
    return end


def _unit_after(rest: str) -> str:
    """The percent sign or unit that follows a value, where it is one that we know."""
    if _PERCENT_AFTER.match(rest):
        return "%"
    word = re.match(r"\s?[A-Za-z]+(?:\^\{?[23]\}?)?", rest)
    return word[0] if word and unit_name(word[0]) else ""


# Options

_OPTION_GOLD = re.compile(
    r"\(?([A-J])(?:(?:\s*\)\s*(?=[\w\\$-])|\s*[.:]\s+)(?P<marked>[^=]+)|\s+(?P<plain>[A-Z][a-z]{2}.*))?\)?\.?",
    re.DOTALL,
)
_OPTION = re.compile(r"(?<![A-Za-z0-9_'\\])\(?([A-J])\)?(?![A-Za-z0-9_'])")
_LOWER_OPTION = re.compile(r"\([a-j]\)")
_OPTION_PROSE = re.compile(r"\s+(?!(?:or|and|because|since|as)\b)[a-z]{2,}")
_OPTION_GAP = re.compile(r"[\s,;/&$]*(?:\b(?:and|or)\b)?[\s,;/&$]*")
_OPTION_LEAD = re.compile(r"(?:\b(?:is|be|option|choice|answer|est|es|ist)|[:=(*{])\s*\(?$", re.IGNORECASE)
_OPTION_DENIED = re.compile(r"(?:\b(?:not|non|nicht|no|nor|neither|than|except)|n't|\bне)\s+\(?$", re.IGNORECASE)


def option_of(gold: str) -> tuple[str, str] | None:
    """(letter, text) of a gold that names an option: `C`, `(C) 12`, `C Cecile`; None for other golds.

    >>> option_of("C Cecile"), option_of("(B)"), option_of("A circle"), option_of("x")
    (('C', 'Cecile'), ('B', ''), None, None)
    """
    plain = unwrapped(gold.strip().strip("$").strip())
    lower = _LOWER_OPTION.fullmatch(plain)
    match = _OPTION_GOLD.fullmatch(plain.upper() if lower else plain)
    if match is None:
        return None
    text = (match["marked"] or match["plain"] or "").strip().rstrip(").")
    return None if text and _OPTION_GOLD.fullmatch(text) else (match[1], text)  # `A. B. C.` names them all


def named_option(text: str) -> str | None:
    """The option letter that a text settles on: what follows "the answer is", else the last one that it does not deny.

    >>> named_option("It's not A, therefore I think it's B"), named_option("The answer is A or B")
    ('B', 'A, B')
    """
    text = plain_characters(text)[-_TAIL:]
    for mark in reversed(list(_WORDS.finditer(text))):
        rest = text[mark.end() : mark.end() + _CLAUSE_LIMIT]
        options = list(_options(text, mark.end(), mark.end() + _clause_end(rest)))
        if options:
            named = options[:1]
            for option in options[1:]:
                if not _OPTION_GAP.fullmatch(option.string, named[-1].end(), option.start()):
                    break
                named.append(option)
            return ", ".join(option[1] for option in named)
    options = list(_options(text, 0, len(text)))
    return options[-1][1] if options else None


def _options(text: str, start: int, end: int) -> Iterator[re.Match[str]]:
    """Letters that stand for options: not denied, and no article or pronoun."""
    for match in _OPTION.finditer(text, start, end):
        before = match.string[max(0, match.start() - 12) : match.start(1)]
        prose = match[1] in "AI" and _OPTION_PROSE.match(match.string, match.end())  # "A man ...", "I think"
        if not _OPTION_DENIED.search(before) and (not prose or _OPTION_LEAD.search(before)):
            yield match


# No marks

_TEXT_COMMANDS = re.compile(r"\\(?:text|mbox|textbf|mathrm|textrm|begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+")
_KNOWN_WORDS = re.compile(
    r"\b(?:and|or|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|mod|gcd|lcm|max|min|percent|pct)\b", re.IGNORECASE
)
_TAIL = 20_000
"""How much of a text's end is searched for an unmarked value: a bound on the work, far beyond any answer."""


def _is_bare_answer(text: str) -> bool:
    """Whether a text is nothing but an answer: one short line, one formula or expression, no sentence around it."""
    if not text or len(text) > 300 or "\n" in text or "\\boxed" in text:
        return False
    if _FORMULA.fullmatch(text):
        return True
    rest = _KNOWN_WORDS.sub(" ", _TEXT_COMMANDS.sub(" ", text))
    return not re.search(r"[^\W\d_]{3,}", rest) and "$" not in text.replace(r"\$", "")


def _last_value(text: str) -> str | None:
    """The last formula or number, with its unit."""
    text = text[-_TAIL:]
    last: re.Match[str] | None = None
    for value in _values(text):
        last = value
    if last is None:
        return None
    return last[0].strip() + _unit_after(text[last.end() : last.end() + 20])


# Gold answers

_NO_ANSWER = re.compile(
    r"(?:n/?a|nan|null|unknown|tbd|\?+|-+|omitted|not (?:given|available|provided|applicable)|varies|proof"
    r"|answers? (?:may |will )?var(?:y|ies)|(?:see|refer to|look at|as shown in) .*|(?:the )?proof .*)\.?",
    re.IGNORECASE | re.DOTALL,
)


def gold_fault(gold: str | None, max_characters: int = 2000) -> str | None:
    """Why a gold answer cannot be graded against, or None. Depends on the gold alone, never on a prediction.

    >>> gold_fault("see figure")
    'gold is no answer'
    """
    answer = gold_answer(gold or "").strip()
    if not answer:
        return "no gold answer"
    if len(answer) > max_characters:
        return "gold is too long"
    if _NO_ANSWER.fullmatch(unwrapped(answer.strip("$ \n")).strip()):
        return "gold is no answer"
    return "gold is broken LaTeX" if brace_balance(answer) != 0 else None


def gold_answer(gold: str) -> str:
    """The answer in a gold text: what a worked solution marks (box, `####`, `A:`), a short text as it is."""
    if "boxed" in gold or "####" in gold or len(gold) > 300:
        found = extract(gold)
    elif "\n" in gold.strip():
        found = extract(gold, unmarked=False)
    else:
        found = None
    return gold if found is None else found.text


def depth(text: str) -> int:
    """How deep brackets of any kind are nested."""
    deepest = now = 0
    for char in text:
        if char in "([{":
            now += 1
            deepest = max(deepest, now)
        elif char in ")]}":
            now -= 1
    return deepest
