r"""The final answer: where in a response it stands, from ``\boxed{18}`` to "so she has 18 left"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from llmrl.prompts.thoughts import without_thoughts
from llmrl.rewards.answers.boxed import OPENING, closing_brace, last_boxed

TRIED = 3
"""Most announcements that are looked at, last one first: a response full of open boxes must not take long."""
LONGEST = 2000
"""Most characters of an announced answer that are read; a longer box holds none."""
CLOSING = 4000
"""Characters at the end of a response in which an unannounced answer is looked for."""

_DIGIT = r"[ \t]*+(?=[-+$\\*\u2212(\u20ac\u00a3]*+[ ]?[.0-9])"
_ANNOUNCEMENT = re.compile(
    rf"""
      (?P<box>\\(?:boxed|fbox|framebox)\s?\{{)
    | (?P<tag><answer>)
    | (?P<rule>(?<!\#)\#{{4,}}+)(?:{_DIGIT}|[ \t]*+[A-Za-z][ ]?=)  # "#### 72", but not "#### Step 4"
    | (?<!\#)\#{{1,3}}+[ \t]*+(?=[-+$\\*]*+[ ]?[.0-9][0-9.,/]*+[^\w\n]*+$)
    | ^[ \t]*A:(?={_DIGIT}[^\n]{{0,40}}$)                                        # the A: of few-shot prompts
    | (?<!to\s)(?<!/)\banswer\b
      (?:[^\n.]{{0,60}}?(?:\b(?:is|are|be|was|equals)(?=n't\b|\b)|[:\u2192])|\s*=)["*]*+
    | ^[^\w\n]{{0,12}}(?:final[ ])?answer[^\w\n]{{0,12}}$
    | \bans[.:=]
    | \u7b54\u6848(?:\u662f|\u4e3a|\u70ba|[:\uff1a])                             # Chinese: the answer is
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_CORRECTION = re.compile(
    r"""
    \b(?:I|we)(?:'ve|\ have)?\s(?:\w+\s)?made\s(?:an?|some|the)\s(?:\w+\s)?(?:mistake|error|slip)
    | \b(?:I|we)(?:'ve|\ have)?\s(?:\w+\s)?(?:miscalculated|misread|miscounted|forgot\sto)
    | \b(?:that|this)(?:'s|\ is|\ was)\s(?:\w+\s)?(?:wrong|incorrect|not\s(?:right|correct)|a\smistake)
    | \b(?:oops|correction:|scratch\sthat|sorry,|my\sapologies|apologies)
    """,
    re.VERBOSE | re.IGNORECASE,
)
_INSTEAD = re.compile(
    r"\bit(?:'s|\s(?:is|equals|(?:should|must|would)\sbe))\b[^\n.]{0,60}?[0-9]", re.IGNORECASE
)
_FINAL = re.compile(r"\bfinal\s(answer)\b[\s*_]*(?::|is\b)[\s:*_]*[-+$\\(]*[0-9]", re.IGNORECASE)
_PLACEHOLDER = re.compile(
    r"\s*(?:\\text\s?\{\s*)?(?:(?:the|your|my|final)\s)*(?:answer|result)?\s*\}?\s*|[.\u2026\s]*|\s*\\[lc]?dots\s*",
    re.IGNORECASE,
)
_NEXT_QUESTION = re.compile(
    r"^[^\w\n]{0,12}(?:(?:Q|Question|Problem|Exercise|User|Human|Instruction)\s?\d*\s?:|Q\.)|<\|(?:im_end|endoftext|eot_id)\|>|</s>",
    re.IGNORECASE | re.MULTILINE,
)
_REFUSAL = re.compile(
    r"""
    \A\W*(?:not|n't)\b
    | \b(?:I|we|one|you)\s(?:\w+\s)?(?:cannot|can't|can\snot|could\snot|couldn't)\s
      (?:\w+\s)?(?:answer|determine|calculate|solve|compute|say|tell|know)
    | \b(?:cannot|can't|can\snot|could\snot|couldn't)\sbe\s
      (?:\w+\s)?(?:answered|determined|calculated|solved|computed)
    | \b(?:unable|impossible)\sto\s(?:answer|determine|calculate|solve|compute|say|tell|know)
    | \bnot\senough\sinformation | \binsufficient\s(?:information|data) | \b(?:I|we)\s(?:do\snot|don't)\sknow
    | (?:\A\W*|\b(?:is|are|remains?)\s)(?:unknown|undetermined|unclear|indeterminate|undefined)\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
_BULLET = re.compile(r"\A\s*[-*\u2022\u2013]\s+")
_NUMBER = re.compile("[0-9]")
_LINE = re.compile(r"[^\n0-9A-Za-z]*[^\n]*")
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=[\s*]|$)|\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The text that a response gives as its answer, or a part of it that might be."""

    text: str
    form: Literal["box", "announced", "closing"]
    """Place of the claim: in a box; from an announcement to the end of its line; or the end of a response."""
    cut: bool = False
    """Whether the response ends with it because of the token budget."""

    @property
    def denied(self) -> bool:
        """Whether it says that there is no answer: before any number, or at the end of the response."""
        if self.form == "closing":
            return any(refuses(sentence) for sentence in sentences(self.text)[-2:])
        return self.form == "announced" and refuses(re.split("[0-9]", self.text, maxsplit=1)[0])


def claims(response: str, *, finished: bool = True, boxes_stand: bool = True) -> Iterator[Claim]:
    """Candidates for the answer, the best first: the last announcements, then the end of the response.

    Thoughts (``<think>``) and a next question after the answer are left out. If an answer is taken back, what
    follows replaces it.

    Args:
        response: the whole response.
        finished: False if the token budget cut it off.
        boxes_stand: what words announce behind a box is a remark on it, and left out too; False where a box
            may hold what leads to the answer.
    """
    text = without_thoughts(response)
    announcements = list(_ANNOUNCEMENT.finditer(text))
    text = _up_to_next_question(text, announcements)
    announcements = [each for each in announcements if each.end() <= len(text)]
    if boxes_stand:
        announcements = _without_remarks(text, announcements)
    start = _taken_back(text, announcements)
    for announcement in reversed([each for each in announcements if each.start() >= start][-TRIED:]):
        claim = _claim(text, announcement, finished=finished)
        if claim is not None:
            yield claim
    if finished:
        yield Claim(text=text[start:][-CLOSING:], form="closing")


def refuses(text: str) -> bool:
    """Whether a text says that there is no answer."""
    return _REFUSAL.search(text) is not None


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text."""
    return [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]


def gold_part(answer: str) -> str:
    """The announced part of a gold answer, as after GSM8K's ``####`` or in MATH's boxes, or else all."""
    if "####" in answer:
        return answer.rpartition("####")[2]
    if (boxed := last_boxed(answer)) is not None:
        return boxed
    first = next(claims(answer), None)
    return answer if first is None or first.form == "closing" else first.text


def after_marker(response: str, marker: str, *, finished: bool = True) -> Claim | None:
    """The claim behind the last occurrence of a text, on its line or the next; None without it."""
    boxed = marker.startswith(OPENING)
    before, found, _ = response.rpartition(OPENING if boxed else marker)
    if not found:
        return None
    start = len(before) + len(found)
    if not boxed:
        return _spoken(response, start, finished=finished)
    return _boxed(response, start, finished=finished) if closing_brace(response, start) is not None else None


def _up_to_next_question(text: str, announcements: Sequence[re.Match[str]]) -> str:
    """The text without the questions that a model goes on to ask itself after its answer."""
    if not announcements:
        return text
    following = _NEXT_QUESTION.search(text, announcements[0].end())
    return text if following is None else text[: following.start()]


def _without_remarks(text: str, announcements: Sequence[re.Match[str]]) -> list[re.Match[str]]:
    """The announcements without remarks in words behind a box, such as "To check the answer: 7 = 42 / 6".

    Corrections, what follows them, and final answers are kept.
    """
    boxes = [number for number, each in enumerate(announcements) if each["box"]][-TRIED:]
    last = next((number for number in reversed(boxes) if _is_filled(text, announcements[number].end())), None)
    if last is None:
        return list(announcements)
    finals = {final.start(1) for final in _FINAL.finditer(text)}
    correction = _CORRECTION.search(text, announcements[last].end())
    corrected = len(text) if correction is None else correction.end()
    return [
        each
        for number, each in enumerate(announcements)
        if number <= last
        or each["box"]
        or each["tag"]
        or each["rule"]
        or each.start() in finals
        or each.start() >= corrected
    ]


def _is_filled(text: str, start: int) -> bool:
    """Whether a box is closed and holds more than the word for an answer."""
    end = closing_brace(text, start)
    return end is not None and not _PLACEHOLDER.fullmatch(text[start:end])


def _taken_back(text: str, announcements: Sequence[re.Match[str]]) -> int:
    """Index at which the last announced answer is taken back and another one given; 0 if it stands.

    A box is replaced only by the answer that a correction states, not by any number behind it.
    """
    if not announcements:
        return 0
    last = announcements[-1]
    correction = _CORRECTION.search(text, last.end())
    another = _INSTEAD if last["box"] else _NUMBER
    return 0 if correction is None or not another.search(text, correction.end()) else correction.end()


def _claim(text: str, announcement: re.Match[str], *, finished: bool) -> Claim | None:
    if announcement["box"]:
        return _boxed(text, announcement.end(), finished=finished)
    if announcement["tag"]:
        inside = text[announcement.end() :][:LONGEST].partition("</answer>")[0]
        return Claim(text=inside, form="announced")
    return _spoken(text, announcement.end(), finished=finished)


def _boxed(text: str, start: int, *, finished: bool) -> Claim:
    end = closing_brace(text, start)
    if end is not None:
        return Claim(text=text[start:end] if end - start <= LONGEST else "", form="box")
    line = text[start : start + LONGEST].partition("\n")[0]
    return Claim(text=line.rstrip("$ .*)\\"), form="box", cut=not finished)


def _spoken(text: str, start: int, *, finished: bool) -> Claim | None:
    """The rest of the line, or the next line with text if that rest has none."""
    wrapped = False
    while start < len(text):
        line = _LINE.match(text, start)
        if line is None:
            return None
        if re.search(r"\w", line.group()):
            cut = not finished and line.end() == len(text)
            said = _BULLET.sub("", line.group()) if wrapped else line.group()
            return Claim(text=said[:LONGEST], form="announced", cut=cut)
        start, wrapped = line.end() + 1, True
    return None
