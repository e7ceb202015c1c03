"""Instructions whose observance a program can see: IFEval's 25 kinds by their published ids, and JSON Schema.

The ids and arguments are those of Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models"
(arXiv 2311.07911). Problems hold them as JSON, in one of three forms:

    [{"instruction": "length_constraints:number_words", "kwargs": {"num_words": 300, "relation": "at least"}}]
    {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}      # a row of IFEval; nulls are left out
    [{"instruction": "json_schema", "kwargs": {"schema": {"type": "object"}}}]

A keyword is a literal text, never a pattern, and every check takes time linear in the text. A check of an empty text
raises nothing but `pydantic.ValidationError` for arguments that do not fit, which is how `fault` finds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, ValidationError, validate_call

from distill.text.languages import SCRIPTS, consistency, probability

SCHEMA = "json_schema"
"""Id of the instruction to answer with JSON of a given schema; it is judged apart (`distill.verifiers._schema`)."""
MAX_JSON_CHARACTERS = 1_000_000
MAIN_LANGUAGE = 0.5
"""Share of the words from which a text is in a language as a whole."""
DOUBT = 0.01
"""Probability by n-grams below which a whole text is in another language of the same script."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its published id and its arguments."""

    id: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)


def parse(told: str | list[Any] | dict[str, Any]) -> list[Instruction]:
    """Instructions from JSON or from what it holds. Raises ValueError, with a reason for people, for anything else."""
    if isinstance(told, str):
        try:
            told = json.loads(told)
        except (ValueError, RecursionError):
            raise ValueError("instructions are not JSON") from None
    if isinstance(told, dict) and isinstance(told.get("instruction_id_list"), list):
        ids, kwargs = told["instruction_id_list"], told.get("kwargs")
        if not isinstance(kwargs, list) or len(ids) != len(kwargs):
            raise ValueError("`kwargs` are not as many as `instruction_id_list`")
        told = [{"instruction": name, "kwargs": one} for name, one in zip(ids, kwargs, strict=True)]
    if not isinstance(told, list) or not told:
        raise ValueError("no list of instructions")
    return [_instruction(one) for one in told]


def _instruction(one: Any) -> Instruction:
    if not isinstance(one, dict) or not isinstance(one.get("instruction"), str):
        raise ValueError("an instruction has no id: {instruction: ..., kwargs: {...}}")
    kwargs = one.get("kwargs") or {}
    if not isinstance(kwargs, dict) or set(one) - {"instruction", "kwargs"}:
        raise ValueError(f"{one['instruction']}: is not {{instruction: ..., kwargs: {{...}}}}")
    return Instruction(one["instruction"], {name: value for name, value in kwargs.items() if value is not None})


def fault(instruction: Instruction) -> str:
    """Why an instruction cannot be checked: an id that is not known, arguments that do not fit; empty: it can be."""
    if instruction.id == SCHEMA:
        fits = set(instruction.kwargs) == {"schema"} and isinstance(instruction.kwargs["schema"], dict | bool)
        return "" if fits else f"{SCHEMA}: needs `schema`, an object, and nothing else"
    if instruction.id not in CHECKS:
        return f"unknown instruction {instruction.id[:80]}"
    try:
        CHECKS[instruction.id]("", **instruction.kwargs)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{instruction.id}: `{where}`: {first['msg']}"
    return ""


def follows(instruction: Instruction, text: str) -> bool:
    """Whether a text follows an instruction in which `fault` finds none; not for `SCHEMA`."""
    return CHECKS[instruction.id](text, **instruction.kwargs)


def readings(text: str) -> list[str]:
    r"""What IFEval's loose mode looks at: the text without its first line, last line or both, and without asterisks.

    >>> readings("Sure:\n*yes*")
    ['Sure:\n*yes*', 'Sure:\nyes', '*yes*', 'yes', 'Sure:']
    """
    lines = text.split("\n")
    parts = [text, *("\n".join(some).strip() for some in (lines[1:], lines[:-1], lines[1:-1]))]
    both = [reading for part in parts for reading in (part, part.replace("*", ""))]
    return [reading for reading in dict.fromkeys(both) if reading.strip()]


def json_value(text: str) -> Any:
    """The value of a text that is JSON and nothing else, perhaps in one Markdown fence.

    Stricter than Python: no NaN, no Infinity, no name twice in one object. Raises ValueError.
    """
    text = text.strip()
    if text.startswith("```") and text.endswith("```") and len(text) > 6:
        text = re.sub(r"\A```(?:json)?", "", text, flags=re.IGNORECASE).removesuffix("```")
    if len(text) > MAX_JSON_CHARACTERS:
        raise ValueError("too long")
    try:
        return json.loads(text, parse_constant=_no_json, object_pairs_hook=_once_each)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_json(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(made := dict(pairs)) < len(pairs):
        raise ValueError("a name twice in one object")
    return made


# words, sentences, language


def count_words(text: str) -> int:
    r"""Runs of word characters (`\w+`), as IFEval counts: `don't` is two, `well-known` is two, `3.5` is two."""
    return len(re.findall(r"\w+", text))


_ABBREVIATED = re.compile(
    r"mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|inc|ltd|co|corp|no|vol|fig|pp|ca|cf|al|approx|dept|est|gen|gov|hon|lt|col|maj"
    r"|sgt|capt|rev|sen|rep|jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|wed|thu|fri|sat|sun|e\.g|i\.e|a\.m"
    r"|p\.m|u\.s|u\.k|u\.n|d\.c|ph\.d|b\.a|m\.a|b\.sc|m\.sc|p\.s|p\.p\.s",
    re.IGNORECASE,
)
_STOP = re.compile(r"[.!?…]+[\"'”’»)\]*_]*(?=\s|$)|[。！？｡]+[」』”’）]*")
_BEFORE = re.compile(r"(?:[^\W_]+\.)*[^\W_]+$")
MAX_TOKEN = 40
"""Characters before a full stop that can be an abbreviation or a number of a list."""


def count_sentences(text: str) -> int:
    r"""Sentences: each ends with `.`, `!`, `?`, `…` before white space (closing quotes between), or with `。！？`.

    No sentence ends after an abbreviation (`Dr.`, `e.g.`, `U.S.`) or an initial, unless the text does, where a
    lower-case letter follows, or after the number of a list item at the start of a line. A rest without a full stop
    counts if it has a word; a line break ends nothing. IFEval uses NLTK's Punkt, which learned the same distinctions.

    >>> count_sentences("Dr. No met J. Bond at 3.5 p.m. sharp. Really?! Yes")
    3
    """
    count, start = 0, 0
    for stop in _STOP.finditer(text):
        if _ends(text, stop):
            count, start = count + _has_word(text, start, stop.start()), stop.end()
    return count + _has_word(text, start, len(text))


def _ends(text: str, stop: re.Match[str]) -> bool:
    after = text[stop.end() : stop.end() + MAX_TOKEN].lstrip()
    if not after or stop[0][0] in "。！？｡":
        return True
    if after[0].islower():
        return False
    if stop[0] != ".":
        return True
    before = text[max(0, stop.start() - MAX_TOKEN) : stop.start()]
    token = _BEFORE.search(before)
    if token is None:
        return True
    word = token[0]
    if word.isdecimal() and not before[: token.start()].rpartition("\n")[2].strip():
        return False  # `1.` opens a line
    initial = len(word) == 1 and word.isupper() and word != "I"
    return not (_ABBREVIATED.fullmatch(word) or initial)


def _has_word(text: str, start: int, end: int) -> bool:
    return re.compile(r"\w").search(text, start, end) is not None


def in_language(text: str, language: str) -> bool:
    """Whether a text is, as a whole, in a language: most words are, and its letters do not speak against it.

    A text without words is in none.
    """
    found = consistency(text, language)
    return found.words > 0 and found.share >= MAIN_LANGUAGE and probability(text, language) >= DOUBT


# the 25 kinds

Relation = Literal["less than", "at least"]
Words = Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=1)]
Text = Annotated[str, AfterValidator(lambda text: _said(text))]


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _known(language: str) -> str:
    if language not in SCRIPTS:
        raise ValueError(f"no language {language!r} is known")
    return language


def _holds(count: int, relation: Relation, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _keywords(text: str, /, *, keywords: Words) -> bool:
    return all(re.search(re.escape(word), text, re.IGNORECASE) for word in keywords)


def _keyword_count(text: str, /, *, keyword: Text, frequency: NonNegativeInt, relation: Relation) -> bool:
    return _holds(len(re.findall(re.escape(keyword), text, re.IGNORECASE)), relation, frequency)


def _forbidden(text: str, /, *, forbidden_words: Words) -> bool:
    return not any(
        re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) for word in forbidden_words
    )  # whole words


def _letters(
    text: str, /, *, letter: Annotated[str, Field(min_length=1, max_length=1)], let_frequency: NonNegativeInt,
    let_relation: Relation,
) -> bool:  # fmt: skip
    return _holds(text.lower().count(letter.lower()), let_relation, let_frequency)


def _language(text: str, /, *, language: Annotated[str, AfterValidator(_known)]) -> bool:
    return in_language(text, language)


def _sentences(text: str, /, *, num_sentences: NonNegativeInt, relation: Relation) -> bool:
    return _holds(count_sentences(text), relation, num_sentences)


def _parts(text: str, divider: str) -> list[str] | None:
    """Parts between dividers; the first and the last may be empty and are then none; None if one between them is."""
    parts = text.split(divider)
    for end in (0, -1):
        if parts and not parts[end].strip():
            parts.pop(end)
    return parts if all(part.strip() for part in parts) else None


def _paragraphs(text: str, /, *, num_paragraphs: PositiveInt) -> bool:
    parts = _parts(text, "***")
    return parts is not None and len(parts) == num_paragraphs


def _words(text: str, /, *, num_words: NonNegativeInt, relation: Relation) -> bool:
    return _holds(count_words(text), relation, num_words)


def _first_word(text: str, /, *, num_paragraphs: PositiveInt, nth_paragraph: PositiveInt, first_word: Text) -> bool:
    paragraphs = text.split("\n\n")
    if sum(bool(paragraph.strip()) for paragraph in paragraphs) != num_paragraphs or nth_paragraph > num_paragraphs:
        return False
    words = paragraphs[nth_paragraph - 1].split(maxsplit=1)
    if not words:
        return False
    first = re.split(r"[.,?!'\"]", words[0].lstrip("'").lstrip('"'), maxsplit=1)[0]
    return first.lower() == first_word.strip().lower()


def _placeholders(text: str, /, *, num_placeholders: NonNegativeInt) -> bool:
    count = 0
    for line in text.split("\n"):
        at = line.find("[")
        while at >= 0 and (end := line.find("]", at)) >= 0:
            count, at = count + 1, line.find("[", end)
    return count >= num_placeholders


def _postscript(text: str, /, *, postscript_marker: Text) -> bool:
    marker = postscript_marker.strip().lower()
    spaced = {"p.s.": r"p\.\s?s\.", "p.p.s": r"p\.\s?p\.\s?s"}.get(marker, re.escape(marker))
    return re.search(rf"(?<!\w){spaced}", text.lower()) is not None


def _bullets(text: str, /, *, num_bullets: NonNegativeInt) -> bool:
    lines = [line.strip() for line in text.split("\n")]
    return (
        sum(line.startswith("-") or (line[:1] == "*" and line[1:2] not in ("", "*")) for line in lines) == num_bullets
    )


def _constrained(text: str, /) -> bool:
    return any(f"My answer is {word}." in text for word in ("yes", "no", "maybe"))


def _highlights(text: str, /, *, num_highlights: NonNegativeInt) -> bool:
    single = sum(bool(found.strip("*").strip()) for found in re.findall(r"\*[^\n*]*\*", text))
    double = sum(bool(found.strip("*").strip()) for found in re.findall(r"\*\*[^\n*]*\*\*", text))
    return single + double >= num_highlights


def _sections(text: str, /, *, section_spliter: Text, num_sections: NonNegativeInt) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


def _is_json(text: str, /) -> bool:
    try:
        json_value(text)
    except ValueError:
        return False
    return True


def _title(text: str, /) -> bool:
    for line in text.split("\n"):
        start, end = line.find("<<"), line.rfind(">>")
        if 0 <= start < end - 1 and line[start : end + 2].lstrip("<").rstrip(">").strip():
            return True
    return False


def _two_responses(text: str, /) -> bool:
    parts = _parts(text, "******")
    return parts is not None and len(parts) == 2 and parts[0].strip() != parts[1].strip()


def _repeats(text: str, /, *, prompt_to_repeat: Text) -> bool:
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def _ends_with(text: str, /, *, end_phrase: Text) -> bool:
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def _capital_words(text: str, /, *, capital_frequency: NonNegativeInt, capital_relation: Relation) -> bool:
    words = re.findall(r"[^\W_]+(?:[-'’.][^\W_]+)*", text)  # hyphenated ones count once
    return _holds(sum(word.isupper() for word in words), capital_relation, capital_frequency)


def _all_capitals(text: str, /) -> bool:
    return text.isupper() and in_language(text.lower(), "en")


def _all_lowercase(text: str, /) -> bool:
    return text.islower() and in_language(text, "en")


def _no_comma(text: str, /) -> bool:
    return "," not in text


def _quoted(text: str, /) -> bool:
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


_KINDS: dict[str, Callable[..., bool]] = {
    "change_case:capital_word_frequency": _capital_words,
    "change_case:english_capital": _all_capitals,
    "change_case:english_lowercase": _all_lowercase,
    "combination:repeat_prompt": _repeats,
    "combination:two_responses": _two_responses,
    "detectable_content:number_placeholders": _placeholders,
    "detectable_content:postscript": _postscript,
    "detectable_format:constrained_response": _constrained,
    "detectable_format:json_format": _is_json,
    "detectable_format:multiple_sections": _sections,
    "detectable_format:number_bullet_lists": _bullets,
    "detectable_format:number_highlighted_sections": _highlights,
    "detectable_format:title": _title,
    "keywords:existence": _keywords,
    "keywords:forbidden_words": _forbidden,
    "keywords:frequency": _keyword_count,
    "keywords:letter_frequency": _letters,
    "language:response_language": _language,
    "length_constraints:nth_paragraph_first_word": _first_word,
    "length_constraints:number_paragraphs": _paragraphs,
    "length_constraints:number_sentences": _sentences,
    "length_constraints:number_words": _words,
    "punctuation:no_comma": _no_comma,
    "startend:end_checker": _ends_with,
    "startend:quotation": _quoted,
}
CHECKS = {name: validate_call(check) for name, check in _KINDS.items()}
"""Checks by published id: text in, arguments by name, whether it is followed out."""
