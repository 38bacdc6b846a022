"""Chat: a sample as token ids, by the tokenizer's own chat template.

What the model is to learn and what it is given are tokenised apart, each as it is when the model generates:
first the prompt, then, token by token, the response.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.model.base import Encoded, ModelError, RowError, Samples
from pipeline.model.template import FAILURES, WORD, Template
from schemas.conversation import AUDIO_PLACEHOLDER
from schemas.sample import Sample

_KEPT = 4096  # pieces of text whose tokens are remembered
_LONG = 48  # characters; shorter pieces are tokenised as quickly as remembered

_Ids = npt.NDArray[np.int64]
_Flags = npt.NDArray[np.bool_]


class Chat(Template):
    """Renders and tokenises the conversations of samples for one model."""

    def __init__(
        self,
        tokenizer: Any,
        *,
        audio_token: str = AUDIO_PLACEHOLDER,
        audio_text: str = "",
        stops: Collection[int] = (),
        name: str = "",
    ) -> None:
        """Tries the template.

        Args:
            tokenizer: With a chat template.
            audio_token: Stands once for each audio until `expand` repeats it.
            audio_text: What stands for an audio in a prompt, where it is more than its token.
            stops: Ids that end a turn, as the model's generation configuration says.
            name: Of the model, for errors.

        Raises:
            ModelError: There is no chat template or no audio token, or no token ends a turn.
        """
        super().__init__(tokenizer, audio_text or audio_token, name)
        vocabulary = tokenizer.get_vocab()
        if audio_token not in vocabulary:
            raise ModelError(
                f"the tokenizer of {self.name} has no audio token {audio_token!r}: load the model with "
                "`pipeline.model.compose`, which adds it, or save the tokenizer again with it"
            )
        self.audio_id = int(vocabulary[audio_token])
        added = tokenizer.added_tokens_decoder
        self._special = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        self._known = {token.content: i for i, token in added.items()}
        known = sorted(map(re.escape, self._known), key=len, reverse=True)
        self._between = re.compile(f"({'|'.join(known) or '(?!)'})")
        self._memory: dict[tuple[str, bool], list[int]] = {}
        self._anchor = self._find_anchor()
        self._remembers = self._is_safe_to_split()
        self.stops = frozenset(stops) | {self._end_of_turn()}

    # What the model reads and writes.

    def encode(self, sample: Sample, *, hear: bool = True, answer: bool = True) -> tuple[_Ids, _Flags, _Flags]:
        """Ids, targets and ends, as in `Encoded`; each audio is there once.

        Raises:
            RowError: There is no response, or placeholders do not match the utterances.
            ModelError: The template cannot write the conversation.
        """
        messages = self.messages(sample, hear=hear)
        ids: list[int] = []
        targets: list[bool] = []
        ends: list[bool] = []
        try:
            segments = self.segments(sample, messages, answer=answer)
        except FAILURES as error:
            why = str(error).rstrip(".") or type(error).__name__
            raise ModelError(
                f"the chat template of {self.name} cannot write row {sample.id}: {why}. "
                "Leave its task out, mend the `chat_template.jinja` in the model's folder, or take another LLM"
            ) from error
        for text, is_response in segments:
            found = self.ids(text, begins=not ids)
            if not is_response:
                ids += found
                targets += [False] * len(found)
                ends += [False] * len(found)
                continue
            end = self._last_special(found, sample.id)
            ids += found
            targets += [n <= end for n in range(len(found))]
            ends += [n == end for n in range(len(found))]
        if answer and segments:  # what stands behind the last end of turn is never read
            last = len(ends) - ends[::-1].index(True)
            ids, targets, ends = ids[:last], targets[:last], ends[:last]
        as_ids = np.array(ids, np.int64)
        heard = int((as_ids == self.audio_id).sum())
        expected = len(sample.utterances) if hear else 0
        if heard != expected:
            raise RowError(
                f"row {sample.id} has {heard} audio tokens for {expected} utterances: its messages do not match "
                "its audio, or the chat template leaves a turn out"
            )
        return as_ids, np.array(targets, np.bool_), np.array(ends, np.bool_)

    # Token ids.

    def ids(self, text: str, *, begins: bool = True) -> list[int]:
        """The tokens of a text, none added. Long pieces, such as tools, are remembered.

        Args:
            text: A conversation, or a part of one.
            begins: Whether it is the conversation's beginning, where some tokenizers add a space.
        """
        if not self._remembers:
            return self._encode(text, begins)
        found: list[int] = []
        for piece in self._between.split(text):
            if (special := self._known.get(piece)) is not None:
                found.append(special)
            elif len(piece) < _LONG:
                found += self._encode(piece, begins) if piece else []
            else:
                if (key := (piece, begins)) not in self._memory:
                    if len(self._memory) >= _KEPT:
                        self._memory.clear()
                    self._memory[key] = self._encode(piece, begins)
                found += self._memory[key]
            begins = False
        return found

    def _encode(self, text: str, begins: bool) -> list[int]:
        if begins or not self._anchor:
            return list(self.tokenizer.encode(text, add_special_tokens=False))
        return list(self.tokenizer.encode(self._anchor + text, add_special_tokens=False)[1:])

    def _find_anchor(self) -> str:
        """A special token to put before what does not begin a text, if the tokenizer adds a space to beginnings."""
        plain = [t.content for i, t in self.tokenizer.added_tokens_decoder.items() if t.special and not t.rstrip]
        anchor = plain[0] if plain else ""
        alone = self.tokenizer.encode(WORD, add_special_tokens=False)
        behind = self.tokenizer.encode(anchor + WORD, add_special_tokens=False)[1:]
        return anchor if anchor and alone != behind else ""

    def _is_safe_to_split(self) -> bool:
        """Whether the tokens of a text are those of its pieces between added tokens: so unless these eat spaces."""
        self._remembers = True
        parts = ["The quick brown", " fox, 42 jumps.\n\nOver", "  the\n", " lazy dog\n\n", "\n"]
        for text in [token.join(parts) for token in self._known]:
            if self.ids(text) != self._encode(text, begins=True):
                return False
        return True

    def _last_special(self, ids: Sequence[int], row: str) -> int:
        """Where in a response the token is that ends it."""
        for place in range(len(ids) - 1, -1, -1):
            if ids[place] in self._special:
                if self.tokenizer.decode(list(ids[place + 1 :])).strip():
                    break
                return place
        raise ModelError(
            f"the chat template of {self.name} ends a response without a special token, so generation would not "
            f"stop (row {row})"
        )

    def _end_of_turn(self) -> int:
        messages = [{"role": "user", "content": WORD}]
        try:
            prompt = self.render(messages, ask=True)
            whole = self.render([*messages, {"role": "assistant", "content": WORD}], ask=False)
        except FAILURES as error:
            raise ModelError(f"the chat template of {self.name} cannot write a plain question: {error}") from error
        found = self.ids(whole[len(prompt) :] if whole.startswith(prompt) else whole, begins=False)
        return int(found[self._last_special(found, "of a trial")])


def expand(
    row: str,
    chat: tuple[_Ids, _Flags, _Flags],
    audio_id: int,
    counts: Sequence[int],
    longest: int,
    sounds: tuple[Samples, ...] = (),
) -> Encoded:
    """The audio tokens repeated, each as often as its sound takes positions.

    Args:
        row: The sample's id.
        chat: Of `Chat.encode`.
        audio_id: Each is there once.
        counts: Of each audio in turn.
        longest: Positions that the model allows.
        sounds: They go with it.

    Raises:
        RowError: The row is longer than that.
    """
    ids, targets, ends = chat
    if counts:
        times = np.ones(len(ids), np.int64)
        times[ids == audio_id] = counts
        ids, targets, ends = np.repeat(ids, times), np.repeat(targets, times), np.repeat(ends, times)
    if len(ids) > longest:
        raise RowError(
            f"row {row} has {len(ids)} positions ({sum(counts)} of audio), the model allows {longest}: take it out "
            "of the data, or take an adapter with fewer tokens a second"
        )
    return Encoded(row, ids, targets, ends, sounds)
