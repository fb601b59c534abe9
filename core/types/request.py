"""Requests and sequences: a Request is what a caller adds, a Sequence is one stream of its tokens on the way.

Plain data; never imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import RecordError
from .adapters import AdapterKey, LoRARequest
from .noise import noise_key
from .outputs import Logprob
from .params import SamplingParams
from .placed import Placed
from .prompt_embeds import PromptEmbeds
from .spans import Spans

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .beam_params import BeamSearchParams


@dataclass(slots=True, eq=False)
class Request:
    """One prompt to answer.

    `index` is the record's place in the whole input (or the count of requests given to an `LLM`): with the run seed,
    the choice and the output position it keys the noise, so that what a record gets does not depend on the schedule.
    """

    request_id: str
    prompt_token_ids: list[int]
    params: SamplingParams
    index: int
    prompt: str | None = None
    priority: int = 0
    """With the priority policy lower ones go first."""
    beam: BeamSearchParams | None = None
    """A search for the best outputs in place of one draw after another; `params` is what it says of tokens and endings."""
    continuations: tuple[tuple[int, ...], ...] | None = None
    """Token sequences whose log-probabilities after the prompt are wanted in place of outputs that are drawn: the answer has one choice
    for each, in this order. Without any, only the prompt is computed (for `prompt_logprobs`), and the one choice is empty."""
    lora: LoRARequest | None = None
    """The adapter that answers it; None: the model alone."""
    first_choice: int = 0
    """The number of its first choice in the noise of its index, where several requests have one index (a record's list of prompts)."""
    embeds: PromptEmbeds | None = None
    """Of the first tokens of the prompt, whose ids are then placeholders."""
    media: tuple[Placed, ...] = ()
    """In the order of their tokens."""
    positions: NDArray[np.int64] | None = None
    """[3, prompt tokens] where the model's positions have three parts and media have a grid of them; None: each token's place."""
    spans: Spans | None = None
    """Tokens of the prompt that see each other in both directions; None: each sees those before it."""
    encoder_ids: tuple[int, ...] = ()
    """The input of the encoder, of a model that has one; the prompt is then the beginning of what the decoder writes."""
    goes_on: bool = False
    """It asks for more of a record that was begun, and goes before all that wait: or no record would be done before all are begun."""

    @property
    def num_given(self) -> int:
        """Tokens up to the last whose embedding is not looked up."""
        return self.media[-1].end if self.media else self.num_virtual

    @property
    def num_spanned(self) -> int:
        """Tokens up to the end of the last span."""
        return 0 if self.spans is None else self.spans.end

    @property
    def num_virtual(self) -> int:
        """The number of its virtual tokens, with which it begins."""
        return 0 if self.embeds is None else len(self.embeds)

    def max_length(self, max_model_len: int) -> int:
        """Tokens at which a choice ends with "length", prompt and output together."""
        if self.continuations is not None:
            return len(self.prompt_token_ids) + max((len(one) for one in self.continuations), default=0)
        room = max_model_len - len(self.prompt_token_ids)
        wanted = room if self.params.max_tokens is None else min(room, self.params.max_tokens)
        return len(self.prompt_token_ids) + wanted


class Beams(Protocol):
    """The beams that a sequence is one of, as far as it knows them; see engine/beams/group.py."""

    @property
    def request(self) -> Request:
        """Whose beams they are."""

    @property
    def width(self) -> int:
        """Most of them at a time."""

    def waits(self, sequence: Sequence) -> bool:
        """True if a beam has nothing to compute until the others have caught up."""


class GrammarPlace(Protocol):
    """Place of a sequence in its grammar; see sampling/grammar/grammar_state.py."""

    finished: bool

    @property
    def grammar(self) -> Any:
        """The compiled grammar."""

    @property
    def failure(self) -> RecordError | None:
        """The reason where no token at all is allowed."""

    def fork(self) -> GrammarPlace:
        """Another one at the same place."""

    def fill(self, bits: Any, place: int) -> None:
        """Writes the tokens that are allowed next into row `place` of a tensor of bits."""

    def accept(self, token: int) -> bool:
        """Moves on by a token that was drawn; False if it is not allowed."""


class Thinks(Protocol):
    """Place of a sequence in its reasoning; see sampling/thinking.py."""

    def due(self, tokens: SequenceOf[int]) -> int | None:
        """The token that must come next, if there is one."""


class Repeats(Protocol):
    """The repetitions at the end of an output; see sampling/repetition.py."""

    def catch_up(self, tokens: list[int], num_prompt: int) -> bool:
        """Takes the tokens behind the prompt that are new; True if the output is to end for what it repeats."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One choice of a request: its tokens, where it stands, and the blocks that hold its keys and values.

    tokens   [ prompt ............ | output ......... ]     before them, where there is an encoder, its input: `num_encoder`
    in cache [ num_computed ............... )           the rest is computed next
    blocks   [ b0 | b1 | b2 | b3 ... )                  block i holds positions i * block_size and on
    """

    request: Request
    choice: int
    noise_key: int
    tokens: list[int]
    max_length: int
    """Ends with "length" when there are this many tokens, prompt and output."""
    num_prompt: int
    """Tokens that are computed before it draws its first."""
    num_encoder: int = 0
    """Of these the first ones, which are the encoder's input, up to the end of their last block. They are computed in one step."""
    num_forced: int = 0
    """Of these the last ones, where they are the beginning of a continuation (see `Request`); then it only draws to be scored."""
    asked: tuple[int, ...] = ()
    """Tokens whose log-probabilities are wanted wherever it draws, beside those that `logprobs` asks for."""
    end_ids: frozenset[int] = frozenset()
    """Tokens that may end it; whether they do is for `EndTokens` to say."""
    num_computed: int = 0
    num_cached: int = 0
    """Prompt tokens that prefix caching saved when it was first admitted."""
    blocks: list[int] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    """Chain hashes of the full blocks of `tokens`, as far as they have been needed."""
    state: int = 0
    """Its slot in the pools of states; 0: it has none, or the model keeps none."""
    adapter: AdapterKey | None = None
    """The one that its request names, as it is on disk."""
    slot: int = 0
    """Its adapter's slot while it runs; 0: it has none."""
    borders: list[int] = field(default_factory=list)
    """Numbers of tokens, all ahead of it, at which a step has to end because its states are kept there."""
    source: Sequence | None = None
    """The choice that prefilled the shared prompt, whose blocks this one may share."""
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    text: str | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    """One entry an output token, if they are asked for."""
    cumulative_logprob: float = 0.0
    """Of the output tokens, if their log-probabilities are asked for or choose the best choices."""
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    """One entry a prompt token, as far as they are computed; only the first choice has them, if they are asked for."""
    grammar: GrammarPlace | None = None
    """Its place in the grammar of its output."""
    thinking: Thinks | None = None
    """Its place in its reasoning, if that has a budget."""
    repetitions: Repeats | None = None
    """What its output repeats, if that is looked for."""
    group: Beams | None = None
    """The beams it is one of."""
    order: int = 0
    """The number of its request, counted as they came to the scheduler."""
    score: float | None = None
    """Of a finished beam."""

    @classmethod
    def of(cls, request: Request, choice: int, run_seed: int, max_model_len: int, block_size: int = 1) -> Sequence:
        """`block_size`: what the encoder's input is filled up to a multiple of."""
        params = request.params
        before = list(request.encoder_ids)
        before += [0] * (-len(before) % block_size)
        prompt = [*before, *request.prompt_token_ids]
        # With a seed of its own each prompt of a list is drawn for as if it stood alone.
        number = choice if params.seed is not None else request.first_choice + choice
        key = noise_key(params.seed, run_seed, request.index, number)
        most = len(before) + request.max_length(max_model_len)
        made = cls(request, choice, key, prompt, most, len(prompt), len(before))
        if params.reports_logprobs:
            made.logprobs = []
            made.asked = params.logprob_token_ids or ()
        if params.prompt_logprobs is not None and choice == 0:
            # The first token has no probability, nor has what is no token.
            unknown = min(len(before) + max(1, request.num_virtual, params.prompt_logprob_start + 1), len(prompt))
            made.prompt_logprobs = [None] * unknown
        return made

    def fork(self) -> Sequence:
        """A sequence with the same past and without blocks."""
        return replace(
            self,
            tokens=list(self.tokens),
            hashes=list(self.hashes),
            blocks=[],
            state=0,
            borders=[],
            logprobs=None if self.logprobs is None else list(self.logprobs),
            grammar=None if self.grammar is None else self.grammar.fork(),
            group=None,
        )

    def keep_logprobs(self, logprobs: dict[int, Logprob]) -> None:
        """Takes the log-probabilities of its newest token, and of others that it asked for."""
        self.cumulative_logprob += logprobs[self.tokens[-1]].logprob
        if self.logprobs is not None:
            self.logprobs.append(logprobs)

    @property
    def params(self) -> SamplingParams:
        return self.request.params

    @property
    def num_output(self) -> int:
        return len(self.tokens) - self.num_prompt

    @property
    def prompt_ids(self) -> list[int]:
        """The tokens of the prompt that are tokens: without virtual ones."""
        return self.tokens[self.num_encoder + self.request.num_virtual : self.num_prompt]

    @property
    def output_ids(self) -> list[int]:
        return self.tokens[self.num_prompt :]

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """True if tokens of the prompt are still to be computed for their log-probabilities."""
        return self.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt

    @property
    def num_shared(self) -> int:
        """Tokens that it has in common with the choice that computes the prompt, and need not compute. The last token of the prompt is
        computed again for its logits, unless the sequence is a continuation, whose own tokens are computed next."""
        return self.num_prompt - (self.num_forced or 1)

    @property
    def most_cached(self) -> int:
        """Tokens that may at most be found in the prefix cache. What is found is not computed, and so has no logits: not the last
        token, and none after which a log-probability of the prompt is still wanted."""
        if self.request.params.skip_reading_prefix_cache:
            return 0
        wanted = len(self.tokens) if self.prompt_logprobs is None or not self.lacks_prompt_logprobs else len(self.prompt_logprobs)
        return wanted - 1
