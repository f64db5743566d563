"""The tokenizer of a run: texts and conversations to token ids and back, where user text stays text.

transformers is imported when a tokenizer is made, so that this module costs nothing to import.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from llmrl.errors import DataError, ModelError, shown
from llmrl.prompts.example import Message
from llmrl.recipe.schema import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# A private-use character: no template, tokenizer or honest text gives it a meaning.
MARK_CHARACTER = "\uf8ff"
MARK = re.compile(f"{MARK_CHARACTER}([0-9]+){MARK_CHARACTER}")

TODAY = datetime(2024, 7, 26, tzinfo=UTC)
"""Date for templates that print one: the date that Llama's uses by default."""
ANCHOR = "x"
"""Text put before plain text when decoding, since SentencePiece's decoders drop a text's first space."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heard:
    """The tokens that the model reads between a turn of the policy and its next one."""

    tokens: NDArray[np.int32]
    """[K] ids of the reply, and of the chat template around it."""
    past: NDArray[np.int32] | None = None
    """[M] ids that replace the prompt and all turns before them; None where those stay."""


class Tokenizer:
    """A fast tokenizer of transformers that knows how this run renders prompts.

    Special tokens come from the template and from here, never from a prompt's or response's own text:
    ``<|im_end|>`` inside a question is encoded as the ten characters that it is.
    """

    def __init__(
        self, backend: PreTrainedTokenizerFast, *, chat: bool, stop_ids: Sequence[int] = (), name: str = ""
    ) -> None:
        """Wrap ``backend``; ``stop_ids`` end a response besides its end of sequence and of a turn.

        Raises:
            ModelError: it has no end-of-sequence token, or no template although ``chat`` is set.
        """
        self._backend, self._chat, self._name = backend, chat, name
        eos = _eos_id(backend, name)
        if chat and backend.chat_template is None:
            raise ModelError(
                f"model.chat is true, but the tokenizer of {shown(name)} has no chat template; "
                f"set model.chat = false or use a model that was trained on conversations."
            )
        self._special = _special_ids(backend)
        end = self._turn_end(otherwise=eos) if chat else eos
        self.stop_ids: tuple[int, ...] = (end, *sorted({eos, *stop_ids} - {end}))
        """Ids that end a response; the first is the one that demonstrations end with."""
        pad = cast("int | None", backend.pad_token_id)
        self.pad_id: int = eos if pad is None else pad
        """Id that fills rows up; always masked."""
        self.vocabulary: int = max(backend.get_vocab().values()) + 1
        """Least number above all ids; a model's embedding has at least as many rows."""
        self._bos = _bos_ids(backend)
        self._anchor = [] if chat or not _drops_first_space(backend) else self._anchor_ids()
        self._before = self._decoded(self._anchor)

    @staticmethod
    def conversation(prompt: str | Sequence[Message]) -> tuple[Message, ...]:
        """The messages of a prompt; plain text is one message of the user."""
        return (Message(role="user", content=prompt),) if isinstance(prompt, str) else tuple(prompt)

    def render(self, prompt: str | Sequence[Message]) -> str:
        """The text that :meth:`encode_prompt` encodes, without the beginning-of-sequence token of plain text.

        Raises:
            DataError: the chat template refuses the conversation, or ``model.chat`` is false.
        """
        if self._chat:
            return self._render_chat(self.conversation(prompt))
        if not isinstance(prompt, str):
            raise DataError(
                "the prompt is a conversation, but model.chat is false; "
                "set model.chat = true or use plain text."
            )
        return prompt

    def encode_prompt(self, prompt: str | Sequence[Message]) -> NDArray[np.int32]:
        """[L] ids: plain text after one beginning-of-sequence token if the model uses one, or a rendered
        conversation up to where the assistant's turn begins.

        Raises:
            DataError: as :meth:`render`, or a character has no token.
        """
        if not self._chat:
            return np.array([*self._bos, *self._encode_text(self.render(prompt))], dtype=np.int32)
        marked, texts = self._marked(self.conversation(prompt))
        return self._encode_marked(self._render_chat(marked), texts)

    def encode_response(self, text: str) -> NDArray[np.int32]:
        """[L] ids of a response to imitate, ended by the token that the chat template ends a turn with, or by
        the end of sequence.

        Raises:
            DataError: a character has no token.
        """
        return np.array([*self._encode_text(text), self.stop_ids[0]], dtype=np.int32)

    def encode_reply(self, said: Sequence[Message], reply: str, *, after: int) -> Heard:
        """The tokens read after a turn of the policy; earlier tokens stay if the template keeps them.

        Plain text has the ids of ``reply`` alone. In a conversation they are all that the template puts from
        the end of the policy's turn, around and including ``reply``, to where its next turn begins. A
        template that renders the past differently once the conversation goes on (many drop the thoughts of
        earlier turns) gives another past, in which the sampled ids need not occur.

        Args:
            said: the conversation so far; the policy's turn is its last message. Not read for plain text.
            after: last id of that turn; an end of turn that the policy wrote itself is not repeated.
        Raises:
            DataError: the template refuses the conversation, or a character has no token.
        """
        if not self._chat:
            return Heard(tokens=np.array(self._encode_text(reply), dtype=np.int32))
        marked, texts = self._marked([*said, Message(role="user", content=reply)])
        past, rest = self._past_and_rest(marked, len(texts))
        if past is not None:
            return Heard(tokens=self._encode_marked(rest, texts), past=self._encode_marked(past, texts))
        end = self._backend.convert_ids_to_tokens(after) if after in self.stop_ids else None
        if isinstance(end, str) and rest.lstrip().startswith(end):
            rest = rest.lstrip().removeprefix(end)
        return Heard(tokens=self._encode_marked(rest, texts))

    def decode(self, ids: NDArray[np.int32] | Sequence[int]) -> str:
        """The text of ``ids`` without special tokens, spaces as they are."""
        return self._decoded([*self._anchor, *(int(token) for token in ids)]).removeprefix(self._before)

    def save(self, folder: Path) -> None:
        """Write the tokenizer as transformers reads it."""
        self._backend.save_pretrained(folder)

    def _turn_end(self, *, otherwise: int) -> int:
        """The special token that the template puts after the assistant's turn; ``otherwise`` if none.

        Base models have templates whose turns end otherwise than their sequences, and would not stop.
        """
        asked, said = Message(role="user", content="?"), Message(role="assistant", content=MARK_CHARACTER)
        try:
            _, _, rest = self._render_chat([asked, said, asked]).partition(MARK_CHARACTER)
            following = self._encode(rest.lstrip())[:1]
        except DataError:  # this template wants another conversation
            return otherwise
        return following[0] if following and following[0] in self._special else otherwise

    def _decoded(self, ids: list[int]) -> str:
        text = self._backend.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return cast("str", text)

    def _anchor_ids(self) -> list[int]:
        try:
            return self._encode_text(ANCHOR)
        except DataError:  # an alphabet without it, whose decoder drops nothing
            return []

    def _encode_text(self, text: str) -> list[int]:
        return self._encode(text, split_special_tokens=True)

    def _encode(self, text: str, *, split_special_tokens: bool = False) -> list[int]:
        # tokenizers raises a bare Exception for a character that its vocabulary lacks.
        try:
            return self._backend.encode(
                text, add_special_tokens=False, split_special_tokens=split_special_tokens, verbose=False
            )
        except Exception as error:
            unknown = self._unknown(text)
            if not unknown:
                raise
            raise DataError(
                f"{shown(text)} has a character without a token ({unknown}); "
                f"add it to model.characters or change the text."
            ) from error

    def _unknown(self, text: str) -> str:
        known = self._backend.get_vocab()
        missing = sorted({character for character in text if character not in known})
        return ", ".join(shown(character) for character in missing[:5])

    def _render_chat(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError  # noqa: PLC0415  transformers brings it, and only chat needs it

        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            # A prompt that changes from day to day would be other data, and no run could be resumed.
            text = self._backend.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, strftime_now=TODAY.strftime
            )
        except TemplateError as error:
            roles = ", ".join(message.role for message in messages)
            raise DataError(
                f"the chat template of {shown(self._name)} refuses a conversation of ({roles}): {error}."
            ) from error
        return cast("str", text)

    def _marked(self, messages: Sequence[Message]) -> tuple[list[Message], list[str]]:
        """The conversation with a numbered mark for each turn that spells a special token; those turns."""
        texts: list[str] = []
        marked: list[Message] = []
        for message in messages:
            content = message.content
            if self._is_ambiguous(content):
                texts.append(content)
                content = f"{MARK_CHARACTER}{len(texts) - 1}{MARK_CHARACTER}"
            marked.append(Message(role=message.role, content=content))
        return marked, texts

    def _past_and_rest(self, marked: Sequence[Message], free: int) -> tuple[str | None, str]:
        """The template's form of ``marked`` up to the policy's turn, its last but one, or None if that is
        what was sampled; and its text after that turn.

        Args:
            free: number of a mark that ``marked`` does not have.
        """
        *before, said, reply = marked
        place = f"{MARK_CHARACTER}{free}{MARK_CHARACTER}"
        stand_in = Message(role=said.role, content=place)
        _, found, rest = self._render_chat([*before, stand_in, reply]).rpartition(place)
        # What the policy read for this turn begins with what it said before: that was asked after each turn.
        start, whole = self._render_chat(before), self._render_chat(marked)
        kept = whole.removeprefix(start).removesuffix(rest).strip()
        if found and whole.startswith(start) and kept == said.content.strip():
            return None, rest
        rest = rest if found and whole.endswith(rest) else ""
        return whole.removesuffix(rest), rest

    def _encode_marked(self, text: str, texts: Sequence[str]) -> NDArray[np.int32]:
        """[L] ids of rendered text; a mark stands for one of ``texts``, never read as the template's own."""
        encoded = (
            self._encode_text(texts[int(piece)]) if place % 2 else self._encode(piece)
            for place, piece in enumerate(MARK.split(text))
        )
        return np.fromiter(chain.from_iterable(encoded), dtype=np.int32)

    def _is_ambiguous(self, content: str) -> bool:
        return MARK_CHARACTER in content or not self._special.isdisjoint(self._encode(content))


def load_tokenizer(model: Model) -> Tokenizer:
    """The tokenizer of the recipe's model: its own, or one built from ``model.characters``.

    Raises:
        ModelError: there is none, it is slow or broken, or it lacks an end of sequence or a needed template.
    """
    if model.path is None:
        if not model.characters:
            raise ModelError(
                "model.characters is empty, but a model that is built from model.config needs an alphabet."
            )
        built = build_character_tokenizer(model.characters)
        return Tokenizer(built, chat=model.chat, name="model.characters")
    path = str(Path(model.path).expanduser())
    backend = _load_backend(path, trusted=model.trusts_code)
    return Tokenizer(backend, chat=model.chat, stop_ids=_generation_stop_ids(path), name=model.path)


def build_character_tokenizer(characters: str) -> PreTrainedTokenizerFast:
    """A tokenizer with one token per character: ids 0 pad, 1 begin, 2 end, then ``characters``.

    Raises:
        ModelError: a character occurs twice.
    """
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors  # noqa: PLC0415  heavy
    from tokenizers import Tokenizer as Backend  # noqa: PLC0415  heavy
    from transformers import PreTrainedTokenizerFast  # noqa: PLC0415  heavy

    twice = sorted({character for character in characters if characters.count(character) > 1})
    if twice:
        raise ModelError(
            f"model.characters has {shown(twice[0])} more than once; each character is one token."
        )
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<bos>", "<eos>", *characters])}
    backend = Backend(models.WordLevel(vocabulary))
    # A dot would keep newlines together with what follows them.
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        clean_up_tokenization_spaces=False,
    )


def _load_backend(path: str, *, trusted: bool) -> PreTrainedTokenizerFast:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast  # noqa: PLC0415  heavy

    try:
        # Where there is a tekken.json, it would be mistral-common's tokenizer, which is none of these.
        backend = cast(
            "object", AutoTokenizer.from_pretrained(path, trust_remote_code=trusted, mistral_format=False)
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise ModelError(
            f"model.path: no tokenizer can be loaded from {shown(path)} ({shown(str(error))}); "
            f"name a folder with tokenizer.json or a model of the hub."
        ) from error
    if not isinstance(backend, PreTrainedTokenizerFast):
        raise ModelError(
            f"model.path: {shown(path)} has only a slow tokenizer ({type(backend).__name__}); "
            f"convert it to tokenizer.json first."
        )
    return backend


def _generation_stop_ids(path: str) -> list[int]:
    """Ids that the model's generation config ends responses with; chat models often have several."""
    from transformers.utils import hub  # noqa: PLC0415  heavy

    found = hub.cached_file(
        path,
        "generation_config.json",
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if found is None:
        return []
    ends = json.loads(Path(found).read_text(encoding="utf-8")).get("eos_token_id")
    return [ends] if isinstance(ends, int) else list(ends or [])


def _eos_id(backend: PreTrainedTokenizerFast, name: str) -> int:
    eos = cast("int | None", backend.eos_token_id)
    if eos is None:
        raise ModelError(
            f"the tokenizer of {shown(name)} has no end-of-sequence token, so no response could ever end; "
            f"add eos_token to its tokenizer_config.json."
        )
    return eos


def _bos_ids(backend: PreTrainedTokenizerFast) -> list[int]:
    """The beginning-of-sequence id, if the tokenizer has one and puts it before plain text."""
    bos, around_nothing = cast("int | None", backend.bos_token_id), backend.encode("")
    return [bos] if bos is not None and bos in around_nothing[:1] else []


def _drops_first_space(backend: PreTrainedTokenizerFast) -> bool:
    """Whether its decoder drops a space at the beginning of a text, as SentencePiece's do."""
    parts = str(cast("object", backend.backend_tokenizer.decoder))
    return "Strip(" in parts or "Metaspace(" in parts


def _special_ids(backend: PreTrainedTokenizerFast) -> frozenset[int]:
    added = (number for number, token in backend.added_tokens_decoder.items() if token.special)
    return frozenset([*added, *backend.all_special_ids])
