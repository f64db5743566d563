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
_LETTER = r"[\s\"'*_({\[$]*(?:(?:option|choice|letter|answer)\s+)?[\"'*_({\[$]*([A-Z])"
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


@reward("choice")
@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    r"""1 if the response chooses the gold option, else 0.

    It may name the letter ("\boxed{B}", "the answer is (B)", "B. Paris", "**B**") or, if the last message of
    the prompt lists the options, say the text of exactly one. Two letters are no choice. The gold is a
    letter, or a text of these.
    """

    letters: str = "ABCDE"
    """The letters that options have, unless the prompt lists other ones."""

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
    """What may hold the choice; an announced claim that makes none leaves it to no other."""
    found: list[Claim] = []
    # A box may hold the value by which the choice is made.
    for claim in claims(sample.last_turn, finished=sample.finished, boxes_stand=False):
        if claim.denied:
            break
        found.append(claim)
        if claim.form != "closing":
            break
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """The letters that may be chosen, and what they stand for where the prompt says it."""

    letters: str
    texts: dict[str, str]

    @classmethod
    def of(cls, question: str, letters: str) -> _Options:
        texts = {letter: _bare(text) for letter, text in _OPTION.findall(question)}
        listed = "".join(sorted(texts))
        if len(listed) > 1 and listed == "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(listed)]:
            return cls(letters=listed, texts=texts)
        return cls(letters=letters, texts={})

    def chosen(self, claim: Claim) -> str | None:
        """The letter that a claim chooses; None if it chooses none, or several."""
        text = plain(claim.text).strip()
        if claim.form == "closing":
            return self._closing(text)
        return self._at_the_start(text) or self._by_text(text)

    def _closing(self, text: str) -> str | None:
        """The whole response is a choice, or its last sentences make one."""
        whole = self._at_the_start(text) if len(sentences(text)) == 1 else None
        if whole is not None:
            return whole
        for sentence in reversed(sentences(text)):
            chosen = [self._at_the_start(sentence[found.end() :]) for found in _CHOSEN.finditer(sentence)]
            named = [next(filter(None, found.groups())) for found in _NAMED.finditer(sentence)]
            letters = {
                letter for letter in (*chosen, *named) if letter is not None and letter in self.letters
            }
            if letters:
                return letters.pop() if len(letters) == 1 else None
        return self._by_text(text)

    def _at_the_start(self, text: str) -> str | None:
        alone = _bare(text).upper()
        if len(alone) == 1:
            return alone if alone in self.letters else None
        found = _REASON.match(text) or _FIRST.match(text)
        if found is None or found[1] not in self.letters:
            return None
        rival = _RIVAL.match(text, found.end())
        return None if rival is not None and rival[1] in self.letters and rival[1] != found[1] else found[1]

    def _by_text(self, text: str) -> str | None:
        said = f" {_bare(text)} "
        matching = [letter for letter, option in self.texts.items() if option and f" {option} " in said]
        # "New York City" also says "New York": what another one contains does not count.
        longest = [
            letter
            for letter in matching
            if not any(self.texts[letter] in self.texts[other] for other in matching if other != letter)
        ]
        return longest[0] if len(longest) == 1 else None


def _bare(text: str) -> str:
    """Words and numbers only."""
    return " ".join(re.findall(r"[\w.%]*\w", text.casefold()))
