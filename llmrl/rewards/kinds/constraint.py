"""Constraints on a response's form that a program can check, by the names of IFEval.

Zhou et al. 2023, "Instruction-Following Evaluation for Large Language Models", arXiv:2311.07911, table 4: 24
of its 25 kinds; the language of a response is left out, because no program says it reliably.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from llmrl.errors import did_you_mean, shown

Check = Callable[..., bool]
Relation = Literal["at least", "at most", "less than", "more than", "exactly"]

_CHECKS: dict[str, Check] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """One kind of constraint and its arguments, every one of them checked."""

    name: str
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, name: str, arguments: Mapping[str, Any]) -> Constraint:
        """A constraint of a row or recipe; an argument that is None counts as absent.

        Raises:
            ValueError: no such kind, or an argument that is unknown, missing or of the wrong type.
        """
        if name not in _CHECKS:
            raise ValueError(f"no constraint named {shown(name)}.{did_you_mean(name, _CHECKS)}")
        given = {key: value for key, value in arguments.items() if value is not None}
        parameters = list(signature(_CHECKS[name]).parameters.values())[1:]
        known = [parameter.name for parameter in parameters]
        types = get_type_hints(_CHECKS[name])
        for key in given:
            if key not in known:
                raise ValueError(f"{name}: no argument named {shown(key)}.{did_you_mean(key, known)}")
        required = (each.name for each in parameters if each.default is Parameter.empty)
        missing = next((key for key in required if key not in given), None)
        if missing is not None:
            raise ValueError(f"{name}: the argument '{missing}' is missing")
        checked = {key: _checked(name, key, value, types[key]) for key, value in given.items()}
        return cls(name=name, arguments=checked)

    def holds(self, text: str) -> bool:
        """Whether a response keeps the constraint."""
        return bool(text.strip()) and _CHECKS[self.name](text, **self.arguments)


def constraint_names() -> tuple[str, ...]:
    """The names of all kinds, sorted."""
    return tuple(sorted(_CHECKS))


def _checked(name: str, key: str, value: object, wanted: Any) -> Any:
    try:
        return TypeAdapter[Any](wanted).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"{name}: {key}: {error.errors()[0]['msg']}, got {shown(value)}") from None


def _constraint(name: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        _CHECKS[name] = check
        return check

    return register


def _compares(count: int, relation: Relation, bound: int) -> bool:
    return {
        "at least": count >= bound,
        "at most": count <= bound,
        "less than": count < bound,
        "more than": count > bound,
        "exactly": count == bound,
    }[relation]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+(?:['\u2019-]\w+)*", text)


def _says(text: str, word: str) -> int:
    """Number of times that a word or phrase occurs in a text, ignoring case."""
    return len(re.findall(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE))


@_constraint("keywords:existence")
def _existence(text: str, keywords: list[str]) -> bool:
    return all(_says(text, word) for word in keywords)


@_constraint("keywords:forbidden_words")
def _forbidden(text: str, forbidden_words: list[str]) -> bool:
    return not any(_says(text, word) for word in forbidden_words)


@_constraint("keywords:frequency")
def _frequency(text: str, keyword: str, frequency: int, relation: Relation = "at least") -> bool:
    return _compares(_says(text, keyword), relation, frequency)


@_constraint("keywords:letter_frequency")
def _letters(text: str, letter: str, let_frequency: int, let_relation: Relation = "at least") -> bool:
    return _compares(text.casefold().count(letter.casefold()), let_relation, let_frequency)


@_constraint("length_constraints:number_words")
def _number_words(text: str, num_words: int, relation: Relation = "at least") -> bool:
    return _compares(len(_words(text)), relation, num_words)


@_constraint("length_constraints:number_sentences")
def _number_sentences(text: str, num_sentences: int, relation: Relation = "at least") -> bool:
    sentences = re.split(r"(?<=[.!?])[\"')\]]*\s+|\n{2,}", text.strip())
    return _compares(sum(bool(_words(each)) for each in sentences), relation, num_sentences)


@_constraint("length_constraints:number_paragraphs")
def _number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Whether ``***`` separates that many paragraphs; those at the ends may be empty, inner ones may not."""
    parts = [part.strip() for part in re.split(r"\s?\*\*\*\s?", text)]
    inner = parts[1:-1]
    return all(inner) and len([part for part in parts if part]) == num_paragraphs


@_constraint("length_constraints:nth_paragraph_first_word")
def _first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    paragraphs = [part for part in re.split(r"\n\n+", text.strip()) if part.strip()]
    if len(paragraphs) != num_paragraphs or not 1 <= nth_paragraph <= len(paragraphs):
        return False
    return _words(paragraphs[nth_paragraph - 1])[:1] in (
        [first_word],
        [first_word.lower()],
        [first_word.title()],
    )


@_constraint("detectable_content:number_placeholders")
def _placeholders(text: str, num_placeholders: int) -> bool:
    return len(re.findall(r"\[[^\[\]\n]+\]", text)) >= num_placeholders


@_constraint("detectable_content:postscript")
def _postscript(text: str, postscript_marker: str = "P.S.") -> bool:
    marker = r"\s*".join(re.escape(letter) for letter in postscript_marker if not letter.isspace())
    return re.search(rf"^\W*{marker}\W*\w", text, re.IGNORECASE | re.MULTILINE) is not None


@_constraint("detectable_format:number_bullet_lists")
def _bullets(text: str, num_bullets: int) -> bool:
    return len(re.findall(r"^[ \t]*(?:\*(?!\*)|-(?!-))[ \t]*\S", text, re.MULTILINE)) == num_bullets


@_constraint("detectable_format:constrained_response")
def _constrained(text: str) -> bool:
    return re.fullmatch(r"\W*My answer is (?:yes|no|maybe)\.\W*", text) is not None


@_constraint("detectable_format:number_highlighted_sections")
def _highlights(text: str, num_highlights: int) -> bool:
    found = re.findall(r"\*\*([^*\n]+)\*\*|(?<!\*)\*([^*\n]+)\*(?!\*)", text)
    return sum(bool("".join(each).strip()) for each in found) >= num_highlights


@_constraint("detectable_format:multiple_sections")
def _sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", text)) >= num_sections


@_constraint("detectable_format:json_format")
def _json(text: str) -> bool:
    bare = re.sub(r"\A\s*```(?:json)?|```\s*\Z", "", text, flags=re.IGNORECASE)
    try:
        json.loads(bare)
    except (ValueError, RecursionError):
        return False
    return True


@_constraint("detectable_format:title")
def _title(text: str) -> bool:
    return any(title.strip("<> ") for title in re.findall(r"<<[^\n]+?>>", text))


@_constraint("combination:two_responses")
def _two(text: str) -> bool:
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


@_constraint("combination:repeat_prompt")
def _repeat(text: str, prompt_to_repeat: str) -> bool:
    return text.strip().casefold().startswith(prompt_to_repeat.strip().casefold())


@_constraint("startend:end_checker")
def _end(text: str, end_phrase: str) -> bool:
    return text.strip().strip('"').casefold().endswith(end_phrase.strip().casefold())


@_constraint("startend:quotation")
def _quotation(text: str) -> bool:
    bare = text.strip()
    return len(bare) > 1 and bare[0] == bare[-1] == '"'


@_constraint("change_case:capital_word_frequency")
def _capitals(text: str, capital_frequency: int, capital_relation: Relation = "at least") -> bool:
    return _compares(sum(word.isupper() for word in _words(text)), capital_relation, capital_frequency)


@_constraint("change_case:english_capital")
def _upper(text: str) -> bool:
    return text.isupper()


@_constraint("change_case:english_lowercase")
def _lower(text: str) -> bool:
    return text.islower()


@_constraint("punctuation:no_comma")
def _no_comma(text: str) -> bool:
    return "," not in text
