"""Texts of sequences.

Only those with stop strings are followed token by token; the others are decoded once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from ..containment import own_error
from ..errors import RecordError
from ..text.detokenizer import Detokenizer, decode_all
from ..text.stop import StopMatcher
from ..text.tokenizer import Tokenizer
from ..types.request import Sequence
from .stopping import EndTokens


class Transcripts:
    def __init__(self, tokenizer: Tokenizer | None, ends: EndTokens) -> None:
        self.tokenizer = tokenizer
        self.ends = ends
        self._followed: dict[Sequence, _Followed] = {}

    def push_all(self, sequences: Iterable[Sequence]) -> dict[Sequence, RecordError]:
        """`push` for those that it means something to; returns those for which it failed."""
        failed = {}
        for sequence in sequences:
            if sequence.finish_reason is not None or sequence.request.params.stop:
                try:
                    self.push(sequence)
                except BaseException as error:
                    failed[sequence] = own_error(error, f"request {sequence.request.request_id}")
        return failed

    def push(self, sequence: Sequence) -> None:
        """Looks at the newest token: a completed stop string ends the sequence, and sets its text when it ends."""
        params = sequence.params
        if self.tokenizer is None or not params.detokenize:
            return
        if params.stop:
            followed = self._followed.get(sequence)
            if followed is None:
                followed = self._followed[sequence] = _Followed(self.tokenizer, sequence)
            if not self.ends.ended_by_token(sequence):
                followed.push(sequence)
        if sequence.finished:
            self._finish(sequence, self.tokenizer)

    def completed_stop(self, sequence: Sequence) -> str | None:
        """The stop string that the newest token of a sequence completes, if it does; its text is then set, and cut there. Looks at
        the whole output: for beams, which cannot be followed one token after another."""
        if self.tokenizer is None or not sequence.params.stop:
            return None
        followed = _Followed(self.tokenizer, sequence)
        if held_back := min(sequence.params.min_tokens, sequence.num_output):
            beginning = sequence.fork()
            del beginning.tokens[beginning.num_prompt + held_back :]
            followed.push(beginning)
        followed.push(sequence)
        stop = sequence.stop_reason if sequence.finish_reason == "stop" else None
        return stop if isinstance(stop, str) else None

    def write(self, sequence: Sequence) -> None:
        """Sets the text of a finished beam, and the names of tokens in its log-probabilities."""
        if self.tokenizer is None:
            return
        name = self.tokenizer.token_name
        if sequence.logprobs is not None:
            sequence.logprobs = [
                {token: replace(entry, decoded_token=name(token)) for token, entry in entries.items()} for entries in sequence.logprobs
            ]
        if not sequence.params.detokenize:
            return
        if isinstance(sequence.stop_reason, str):
            self.completed_stop(sequence)
        else:
            self._finish(sequence, self.tokenizer)

    def drop(self, sequence: Sequence) -> None:
        """Forgets a sequence that will not go on."""
        self._followed.pop(sequence, None)

    def _finish(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        params = sequence.params
        followed = self._followed.pop(sequence, None)
        if followed is not None:
            followed.finish(sequence)
        if sequence.text is None or (self.ends.ended_by_token(sequence) and params.include_stop_str_in_output):
            ids = sequence.output_ids
            if self.ends.ended_by_token(sequence) and not params.include_stop_str_in_output:
                ids = ids[:-1]
            prompt = sequence.prompt_ids
            sequence.text = decode_all(
                tokenizer,
                prompt,
                ids,
                skip_special_tokens=params.skip_special_tokens,
                spaces_between_special_tokens=params.spaces_between_special_tokens,
            )


class _Followed:
    """Incremental text of one sequence and the search for its stop strings."""

    def __init__(self, tokenizer: Tokenizer, sequence: Sequence) -> None:
        prompt = sequence.prompt_ids
        params = sequence.params
        self.detokenizer = Detokenizer(
            tokenizer,
            prompt,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )
        self.matcher = StopMatcher(sequence.params.stop)
        self.num_pushed = 0

    def push(self, sequence: Sequence) -> None:
        new_ids = sequence.tokens[sequence.num_prompt + self.num_pushed :]
        self.num_pushed += len(new_ids)
        self._search(sequence, self.detokenizer.push(new_ids))

    def finish(self, sequence: Sequence) -> None:
        """Releases what was held back; it may complete a stop string too."""
        if sequence.text is None:
            self._search(sequence, self.detokenizer.finish())
        if sequence.text is None:
            sequence.text = self.detokenizer.text

    def _search(self, sequence: Sequence, piece: str) -> None:
        params = sequence.params
        if params.min_tokens and sequence.num_output <= params.min_tokens:
            self.matcher.skip(piece)  # may begin a stop string, cannot complete one
            return
        match = self.matcher.push(piece)
        if match is not None:
            start, stop = match
            end = start + (len(stop) if params.include_stop_str_in_output else 0)
            sequence.text = self.detokenizer.text[:end]
            sequence.finish_reason, sequence.stop_reason = "stop", stop
