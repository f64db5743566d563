"""``choice``: which of the lettered options of a question does the response choose?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from llmrl.errors import shown
from llmrl.rewards.answers.answer import Claim, claims, sentences
from llmrl.rewards.answers.plain import plain
from llmrl.rewards.judgement import Sample
from llmrl.rewards.reward import Score, gold_of, reward

_OPTION = re.compile(r"(?:^|(?<=\s))\(?([A-Z])[).:][ \t]+(.+?)(?=\s+\(?[A-Z][).:][ \t]|\n|\Z)", re.MULTILINE)
_CHOSEN = re.compile(
    r"\b(?:option|choice|pick|choose|select)\b(?:[^\n.]{0,30}?\b(?:is|be)\b)?[ :]*+", re.IGNORECASE
)
_ADVERBS = r"(?:(?:therefore|thus|hence|then|so|indeed|most|very|(?!un|hard|bare|scarce)[a-z]+ly),?\s+)*+"
_LETTER = rf"[\s\"'*_({{\[$]*{_ADVERBS}(?:(?:option|choice|letter|answer)\s+)?[\"'*_({{\[$]*([A-Z])"
_FIRST = re.compile(
    rf"{_LETTER}(?=[\s)}}\].:,;!*_\"'$-]|\Z)(?!\s+[a-z](?!\w*\s*(?:because|since|as)\b))", re.IGNORECASE
)
_REASON = re.compile(rf"{_LETTER}\s+(?:because|since|as|which|is|for|and not|rather)\b")
_RIVAL = re.compile(
    r"[\s)}\].,*\"'-]*(?:or|and|/|&|,)\s*(?:option\s*)?[\"'*({\[]*([A-Z])(?![\w'])(?!\s+[a-z])"
)
_NAMED = re.compile(
    r"\(([A-Z])\)|\b([A-Z])(?=\)|\s+is\s+(?:the\s+)?(?:correct|right|best|true))|\*\*([A-Z])\b"
)
_LEADING = re.compile(r"""[\s"'*_({\[$]*([A-Z])[)}\]*_"'$]*(?:$|[.:)](?![ \t*_)]*[a-z]))""", re.MULTILINE)
_LABEL = re.compile(r"^[ \t\"'*_({\[$-]*([A-Z])[)}\]*_]*[).:](?:\s|$)", re.MULTILINE)
_SECOND_THOUGHT = re.compile(r"\b(?:wait|oops|correction|scratch that|on second thought)\b", re.IGNORECASE)
_NOT = r"(?:\bnot\b|\bcannot\b|\bnever\b|\b[a-z]+n['\u2019]t\b)"
_DENIAL = re.compile(_NOT, re.IGNORECASE)
_CLAUSE = re.compile(r"[,;:]|\b(?:but|so|therefore|hence|because|then)\b", re.IGNORECASE)
# "(A) isn't right", but not "(B) not A".
_DENIED_AFTER = re.compile(
    r"""[^\w,;.:\n]*(?:cannot\b|[a-z]+n['\u2019]t\b
    |(?:is|are|was|were|can|could|would|does|seems|looks|must|should)\s+(?:\w+ly\s+)?
     (?:not|wrong|incorrect|false|out|eliminated|excluded|ruled\sout)\b)""",
    re.VERBOSE | re.IGNORECASE,
)
_DENIED_PART = re.compile(
    rf"{_NOT}(?:(?!\bbut\b|\bso\b|\btherefore\b)(?:[^,;.:!?\n]|[.,](?=\d)))*", re.IGNORECASE
)
# Not "the answer cannot be determined".
_CANNOT_BE = re.compile(
    r"""(\banswer\b[^\n.:]{0,60}?)\b(?:cannot|(?:can|could|would|should|must|may|might|will)\snot|[a-z]+n['\u2019]t|never)
    \s+(?:\w+\s+)?be\b(?!\s+\w+ed\b)""",
    re.VERBOSE | re.IGNORECASE,
)
# Signs stand before a number, a letter or a command; between words they are dashes and slashes.
_SIGN = r"<=|>=|\u221a|[-+/^*=<>](?=[\s({\[$+-]{0,8}(?:\.?\d|\\[a-z]|\u221a|[^\W\d_]\b))"
_WORD = r"[\w.%]*\w"
_TOKEN = re.compile(rf"\\[a-z]+|{_WORD}|{_SIGN}")
# Beside these a number is a part of something else. Of "x = 7" both sides stand by themselves.
_JOINER = re.compile(r"[-+/^*\u221a]|[<>]=?|\\(?!boxed|therefore|to\b).*|sqrt|log|ln")
_OPERAND = re.compile(r"\d.*|[^\W\d_]")
_DASH = re.compile(r"(?<=[^\W\d_]{2})-|(?<=[^\W\d_]{2}\s)-(?=\s)|^[ \t]*[-*+][ \t]+", re.MULTILINE)
_POWER = re.compile(r"(?<![A-Za-z])([A-Za-z])\^")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@reward("choice")
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    r"""1 if the response chooses the gold option, else 0.

    It may name the letter ("\boxed{B}", "the answer is (B)", "B. Paris", "**B**") or, if the last message of
    the prompt lists the options, contain the text of exactly one. Two letters are no choice. The gold is a
    letter, or an option's text.
    """

    letters: str = "ABCDE"
    """Letters of the options, unless the prompt lists other ones."""

    reads_answer: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z]+", self.letters) or len(set(self.letters)) != len(self.letters):
            raise ValueError(f"letters must be different capitals such as ABCD, got {shown(self.letters)}")

    def __call__(self, sample: Sample) -> Score:
        options = _Options.of(sample.conversation[-1]["content"], self.letters)
        gold = options.chosen(Claim(text=gold_of(sample), form="box"))
        if gold is None:
            allowed = ", ".join(options.letters)
            raise ValueError(
                f"the gold answer {shown(sample.answer)} is none of {allowed} and no option's text"
            )
        choice = next(
            (found for claim in _claims(sample) if (found := options.chosen(claim)) is not None), ""
        )
        return Score(float(choice == gold), f"chose {choice}" if choice else "no choice")


def _claims(sample: Sample) -> list[Claim]:
    """Texts that may hold the choice; if an announced claim makes none, no other is tried."""
    found: list[Claim] = []
    # An announcement ends at its verb, and the "cannot" before that would be lost.
    said = _CANNOT_BE.sub(r"\1 is not", sample.final_text)
    # A box may hold the value by which the choice is made.
    for claim in claims(said, finished=sample.finished, boxes_stand=False):
        if claim.denied:
            break
        found.append(claim)
        if claim.form != "closing":
            break
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The letters that may be chosen, and their texts if the prompt has them."""

    letters: str
    texts: dict[str, list[str]]
    """Words and signs of each option."""

    @classmethod
    def of(cls, question: str, letters: str) -> _Options:
        texts = {letter: _tokens(text) for letter, text in _OPTION.findall(question)}
        listed = "".join(sorted(texts))
        if len(listed) > 1 and listed == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(listed)]:
            return cls(letters=listed, texts=texts)
        return cls(letters=letters, texts={})

    def chosen(self, claim: Claim) -> str | None:
        """The letter that a claim chooses; None if it chooses none, or several."""
        if claim.form == "closing":
            return self._closing(claim.text)
        return self._at_the_start(plain(claim.text).strip()) or self._by_text(claim.text)

    def _closing(self, said: str) -> str | None:
        """The choice of an unannounced response: its whole text, its last sentences, or its beginning."""
        text = plain(said).strip()
        whole = self._at_the_start(text) if len(sentences(text)) == 1 else None
        if whole is not None:
            return whole
        for sentence in reversed(sentences(text)):
            letters = self._named(sentence)
            if letters:
                return letters.pop() if len(letters) == 1 else None
        return self._leading(text) or self._by_text(said)

    def _named(self, sentence: str) -> set[str]:
        """The letters that a sentence names and does not reject."""
        chosen = [
            self._at_the_start(sentence[found.end() :])
            for found in _CHOSEN.finditer(sentence)
            if not _denied(sentence[: found.end()])
        ]
        named = [
            next(filter(None, found.groups()))
            for found in _NAMED.finditer(sentence)
            if not _denied(sentence[: found.start()]) and not _DENIED_AFTER.match(sentence, found.end())
        ]
        return {letter for letter in (*chosen, *named) if letter is not None and letter in self.letters}

    def _leading(self, text: str) -> str | None:
        """The letter that the first line begins with; None if other lines begin with letters too."""
        found = _LEADING.match(text)
        if found is None or found[1] not in self.letters or _SECOND_THOUGHT.search(text):
            return None
        rest = text[found.end() :].partition("\n")[0]
        others = {*_LABEL.findall(text), self._by_text(rest) or found[1]} - {found[1]}
        return None if others else found[1]

    def _at_the_start(self, text: str) -> str | None:
        alone = " ".join(re.findall(_WORD, text)).upper()
        if len(alone) == 1:
            return alone if alone in self.letters else None
        found = _REASON.match(text) or _FIRST.match(text)
        if found is None or found[1] not in self.letters or _DENIED_AFTER.match(text, found.end(1)):
            return None
        rival = _RIVAL.match(text, found.end())
        return None if rival is not None and rival[1] in self.letters and rival[1] != found[1] else found[1]

    def _by_text(self, text: str) -> str | None:
        said, kept = _tokens(text), _tokens(_DENIED_PART.sub(" ; ", text))
        # An option that is itself a denial ("It cannot be known") is looked for in all that was said.
        matching = [
            letter
            for letter, option in self.texts.items()
            if _says(said if _DENIAL.search(" ".join(option)) else kept, option)
        ]
        # "New York City" also says "New York": what another one contains does not count.
        longest = [
            letter
            for letter in matching
            if not any(
                f" {' '.join(self.texts[letter])} " in f" {' '.join(self.texts[other])} "
                for other in matching
                if other != letter
            )
        ]
        return longest[0] if len(longest) == 1 else None


def _denied(before: str) -> bool:
    """Whether the clause that ends here has a "not"."""
    return _DENIAL.search(_CLAUSE.split(before)[-1]) is not None


def _tokens(text: str) -> list[str]:
    """Words, numbers, and the signs that combine them into other numbers and terms."""
    # Of two spaces, as plain text takes the power from a letter as from a unit: cm^2.
    text = plain(_POWER.sub(r"\1  ^", text)).casefold()
    return _TOKEN.findall(_THOUSANDS.sub("", _DASH.sub(" ", text)))


def _says(said: list[str], option: list[str]) -> bool:
    """Whether the option occurs by itself: the 7 of -7, 7^2 or \\sqrt{7} is no 7."""
    size = len(option)
    return bool(option) and any(
        said[at : at + size] == option
        and not _belongs(said[at - 1 : at], option[0])
        and not any(map(_JOINER.fullmatch, said[at + size : at + size + 1]))
        for at in range(len(said) - size + 1)
    )


def _belongs(before: list[str], first: str) -> bool:
    """Whether the token before an option belongs to the same term."""
    signed = _JOINER.fullmatch(first) and first in "+-"
    return any(_JOINER.fullmatch(token) or (signed and _OPERAND.fullmatch(token)) for token in before)
