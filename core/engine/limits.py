"""Limits of requests: checked when one is added, and by `infer check` without an engine.

A search has no more to keep to than one of its beams: those that find no room at a time are computed one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import RecordError
from ..sampling.bad_words import BadWordBook
from ..types.params import SamplingParams
from ..types.prompt_embeds import PromptEmbeds
from ..types.request import Request, Sequence

if TYPE_CHECKING:
    from ..sampling.grammar.grammar import Grammars
    from ..settings.config import EngineConfig
    from ..text.tokenizer import Tokenizer

#: Parameters that name tokens, and what messages call one.
_TOKEN_IDS = {
    "stop_token_ids": "stop token id",
    "allowed_token_ids": "allowed token id",
    "logit_bias": "token id",
    "logprob_token_ids": "token id",
}
#: Of a budget where nothing says what it is of.
UNKNOWN_REASONING = (
    "thinking_token_budget needs to know how the model marks its reasoning: give --reasoning-config, such as "
    '{"reasoning_parser": "qwen3"}, or with infer chat --reasoning-parser'
)


@dataclass(frozen=True, slots=True)
class Limits:
    """
    Args:
        vocab_size: token ids are below it.
        max_model_len: most tokens of prompt and output together.
        max_logprobs: most logprobs a request may ask for; -1: no limit.
        block_size, num_blocks: the KV cache; None blocks if its size is not known.
        size_is_given: its size is a setting, not what the machine's memory had room for.
        can_think: whether it is known how the model marks its reasoning.
        has_tokenizer: whether there is one, which all that is about text needs.
        bad_words: tokenizes lists of them; None: they are not looked at.
        grammars: compiles structured output; None: whoever this is passed on to does.
        embeds_size: features of embeddings in place of tokens; None: there may be none.
        encoder_len: most tokens of the input that requests bring for an encoder; 0: there is none.
        hears: that input is sound.
        most_together: tokens that a step can compute; None: any number.
    """

    vocab_size: int
    max_model_len: int
    max_logprobs: int
    block_size: int
    num_blocks: int | None
    size_is_given: bool = True
    can_think: bool = True
    has_tokenizer: bool = True
    bad_words: BadWordBook | None = None
    grammars: Grammars | None = None
    embeds_size: int | None = None
    encoder_len: int = 0
    hears: bool = False
    most_together: int | None = None

    @classmethod
    def of(
        cls, config: EngineConfig, vocab_size: int, num_blocks: int | None, tokenizer: Tokenizer | None, grammars: Grammars | None = None
    ) -> Limits:
        """Those of an engine with these settings."""
        return cls(
            vocab_size,
            config.max_model_len,
            config.max_logprobs,
            config.block_size,
            num_blocks,
            size_is_given=config.kv_size_is_given,
            can_think=bool(config.reasoning_config),
            has_tokenizer=tokenizer is not None,
            bad_words=BadWordBook(tokenizer),
            grammars=grammars,
            embeds_size=config.embeds_size,
            encoder_len=config.encoder_len,
            hears=config.hears,
            most_together=config.max_num_batched_tokens,
        )

    def most_tokens(self, request: Request) -> int:
        """Most tokens of a choice, prompt and output together, whatever its max_tokens is.

        Without one it may fill the context, and where the KV cache holds less than that, the cache; see `check_end`.
        """
        if self.num_blocks is None or request.params.max_tokens is not None:
            return self.max_model_len
        return min(self.max_model_len, (self.num_blocks - self.blocks_for(len(request.encoder_ids))) * self.block_size)

    def check_end(self, sequence: Sequence) -> None:
        """Raises RecordError for a choice that would have gone on in a larger KV cache, where free memory alone decided how large it is: an
        output that is cut there would be another one the next time. At a size that was given it ends with "length"."""
        short = (
            sequence.max_length - sequence.num_encoder < self.max_model_len
            and sequence.params.max_tokens is None
            and not self.size_is_given
        )
        if short and sequence.finish_reason == "length":
            raise self._too_large(f"prompt and output have filled {sequence.max_length} tokens")

    def check(self, request: Request) -> None:
        """Raises RecordError for a request that can never be answered."""
        prompt, params = request.prompt_token_ids, request.params
        if not prompt:
            raise RecordError("invalid_value", "the prompt is empty", param="prompt")
        if min(prompt) < 0 or max(prompt) >= self.vocab_size:
            worst = next(t for t in prompt if not 0 <= t < self.vocab_size)
            raise RecordError("invalid_value", f"token id {worst} is not in the vocabulary of {self.vocab_size}", param="prompt_token_ids")
        self._check_encoder(request)
        if request.continuations is not None:
            self._check_continuations(request)
        elif len(prompt) >= self.max_model_len:
            raise RecordError(
                "prompt_too_long",
                f"the prompt has {len(prompt)} tokens; with max_model_len {self.max_model_len} it can have {self.max_model_len - 1}",
                param="prompt",
            )
        if request.embeds is not None:
            self._check_embeds(request.embeds)
        if request.spans is not None and self.most_together is not None and (longest := request.spans.longest) > self.most_together:
            raise RecordError(
                "prompt_too_long",
                f"{longest} tokens of the prompt see each other and are computed in one step, which takes {self.most_together}: "
                f"--max-num-batched-tokens {longest} would be enough",
                param="prompt",
            )
        self._check_params(params)
        if request.beam is not None and (width := request.beam.beam_width) > self.vocab_size:
            raise RecordError("invalid_value", f"beam_width {width} is above the vocabulary of {self.vocab_size}", param="beam_width")
        length = max(request.max_length(self.most_tokens(request)), len(prompt) + 1)
        if self.num_blocks is not None and self.blocks_for(length) + self.blocks_for(len(request.encoder_ids)) > self.num_blocks:
            read = f" beside {len(request.encoder_ids)} of the encoder's input" if request.encoder_ids else ""
            raise self._too_large(f"prompt and max_tokens are {length} tokens{read}")

    def _check_encoder(self, request: Request) -> None:
        given = request.encoder_ids
        if not self.encoder_len:
            if given:
                raise RecordError("unsupported", "an input for an encoder is for models that have one", param="encoder_prompt")
            return
        if self.hears and not request.media:
            raise RecordError(
                "unsupported",
                "the model reads sound: each record has one, as audio (infer transcribe, infer generate)",
                param="audio",
            )
        if not given:
            raise RecordError("unsupported", "a model with an encoder answers infer generate and infer beam alone", param="prompt")
        if worst := next((token for token in given if not 0 <= token < self.vocab_size), None):
            raise RecordError("invalid_value", f"token id {worst} is not in the vocabulary of {self.vocab_size}", param="prompt_token_ids")
        if len(given) > self.encoder_len:
            raise RecordError(
                "prompt_too_long",
                f"the prompt has {len(given)} tokens; the encoder reads {self.encoder_len} (max_model_len)",
                param="prompt",
            )

    def _too_large(self, what: str) -> RecordError:
        assert self.num_blocks is not None
        # What depends on the memory that happened to be free is told as such: another run may well answer the record.
        holds = f"holds {self.num_blocks * self.block_size}{'' if self.size_is_given else ', as many as there was memory for'}"
        return RecordError(
            "kv_capacity",
            f"{what}; the KV cache {holds}: lower max_tokens or raise --kv-cache-memory-bytes",
            param="max_tokens",
            retryable=not self.size_is_given,
        )

    def _check_continuations(self, request: Request) -> None:
        """Nothing is drawn after them, so they may fill the context."""
        size, longest = len(request.prompt_token_ids), request.max_length(self.max_model_len)
        if longest > self.max_model_len:
            after = f" and the longest continuation {longest - size}" if longest > size else ""
            what = f"the prompt has {size} tokens{after}; max_model_len is {self.max_model_len}"
            raise RecordError("prompt_too_long", what, param="prompt")
        for one in request.continuations or ():
            if not one:
                raise RecordError("invalid_value", "a continuation is empty")
            if min(one) < 0 or max(one) >= self.vocab_size:
                raise RecordError("invalid_value", f"a continuation has a token id that is not in the vocabulary of {self.vocab_size}")

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that so many tokens of one sequence take."""
        return -(-num_tokens // self.block_size)

    def _check_embeds(self, embeds: PromptEmbeds) -> None:
        if self.embeds_size is None:
            raise RecordError("unsupported", "embeddings in place of tokens need --enable-prompt-embeds", param="prompt_embeds")
        if embeds.size != self.embeds_size:
            message = f"prompt_embeds has {embeds.size} features a token, and the model's embeddings have {self.embeds_size}"
            raise RecordError("invalid_value", message, param="prompt_embeds")

    def _check_params(self, params: SamplingParams) -> None:
        for name, what in _TOKEN_IDS.items():
            for token in getattr(params, name) or ():
                if token >= self.vocab_size:
                    raise RecordError("invalid_value", f"{what} {token} is not in the vocabulary of {self.vocab_size}", param=name)
        for name in ("logprobs", "prompt_logprobs"):
            asked = getattr(params, name)
            if asked is not None and self.max_logprobs != -1:
                number = self.vocab_size if asked == -1 else asked
                if number > self.max_logprobs:
                    all_of_them = f" (all {number} tokens)" if asked == -1 else ""
                    raise RecordError("invalid_value", f"{name} {asked}{all_of_them} is above max_logprobs {self.max_logprobs}", param=name)
        if not self.has_tokenizer:
            for name in ("stop", "bad_words", "structured_outputs"):
                if getattr(params, name):
                    raise RecordError("unsupported", f"{name} needs a tokenizer, and there is none (skip_tokenizer_init)", param=name)
        if params.thinking_token_budget is not None:
            if not self.has_tokenizer:
                message = "thinking_token_budget needs a tokenizer, and there is none (skip_tokenizer_init)"
                raise RecordError("unsupported", message, param="thinking_token_budget")
            if not self.can_think:
                raise RecordError("unsupported", UNKNOWN_REASONING, param="thinking_token_budget")
        if params.bad_words and self.bad_words is not None:
            self.bad_words.of(params.bad_words)
        if params.structured_outputs is not None and self.grammars is not None:
            self.grammars.compile(params.structured_outputs)
