"""The base of tasks that read texts whole: texts and what is made of them in, vectors or scores out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError, RecordError
from ...intake.remarks import Remarks
from ...intake.texts import TextIntake
from ...pooling.images import GivenImage
from ...pooling.recipe import Recipe
from ...pooling.texts import TextEncoder
from ...text.fitting import SIDES
from ...types.media import MediaPart
from ...types.media_parts import kind_of, of_content, of_fields
from ...types.pooling_params import PoolingParams
from ...types.pooling_request import Pooled
from ..jsonl import json_type, wrong_type
from ..tally import Tally
from . import constraint
from . import fields as known
from .base import RecordOptions, Task
from .completion import MEDIA_FIELDS, MEDIA_OPTIONS
from .pending import PendingTexts

if TYPE_CHECKING:
    from ...text.tokenizer import Tokenizer

#: Parameters of a record, whatever its texts are for. The second line is how vLLM says the same.
PARAMETERS = frozenset({"prompt_name", "truncate", "use_activation"})
_VLLM = frozenset({"normalize", "truncate_prompt_tokens", "truncation_side"})
#: Known fields that ask for nothing when they are null or have one of these values, and are refused otherwise.
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {"add_special_tokens": (True,), "priority": (0,), "stream": (False,)}
#: vLLM's names of `use_activation` before, for scores; a column may have them too.
_FORMER = ("activation", "softmax")
#: Encoders that are kept; a record that needs one more gets one for itself.
_MAX_ENCODERS = 256


@dataclass(frozen=True)
class PoolingOptions(RecordOptions):
    """The options of tasks that pool texts.

    `truncate`: the end that is cut off texts that are too long; None: they are errors.
    """

    truncate: str | None = None


class PoolingTask(Task[PendingTexts]):
    """See `Task`.

    Args:
        recipe: the model's.
        max_model_len: most tokens of a text.
    """

    keeps = PendingTexts
    known_fields = PARAMETERS | _VLLM | known.LORA | known.DROPPED | frozenset(_NEUTRAL) | {"id"}
    guessable_fields = PARAMETERS | _VLLM | known.LORA
    parameters = PARAMETERS | _VLLM
    of_writing = (known.SAMPLING | constraint.FIELDS) - PARAMETERS - _VLLM
    options: PoolingOptions

    def __init__(self, options: PoolingOptions, tokenizer: Tokenizer | None, recipe: Recipe, *, max_model_len: int) -> None:
        super().__init__(options, tokenizer, max_model_len=max_model_len)
        self.recipe = recipe
        self._encoders: dict[Hashable, TextEncoder] = {}

    # --- in

    def own_fields(self) -> frozenset[str]:
        own = super().own_fields()
        return own if self.options.images is None or self.options.has_column else own | MEDIA_FIELDS | MEDIA_OPTIONS

    def make_intake(self, remarks: Remarks) -> TextIntake:
        return TextIntake(remarks)

    def refuse(self, fields: Mapping[str, Any]) -> None:
        for name, values in _NEUTRAL.items():
            value = fields.get(name)
            if value is not None and name not in self.fields and not any(type(value) is type(v) and value == v for v in values):
                raise RecordError("unsupported", f"{name} is not supported where no text is generated", param=name)
        for name in _FORMER:
            if isinstance(fields.get(name), bool) and name not in self._consumed:
                raise RecordError("unsupported", f"{name} is called use_activation", param=name)

    def encoder_for(self, fields: Mapping[str, Any], prefix: str, side: str = "") -> TextEncoder:
        """The encoder of a record's texts, which cuts them as the record or else the command says. Raises RecordError.

        `side`: see `TextEncoder`.
        """
        truncate, limit = self._truncation(fields)
        key = prefix, truncate, limit, side
        encoder = self._encoders.get(key)
        if encoder is None:
            literal = self.options.literal_special_tokens and self.tokenizer is not None
            encoder = TextEncoder(self.tokenizer, self.recipe, limit, prefix=prefix, truncate=truncate, literal=literal, side=side)
            if len(self._encoders) < _MAX_ENCODERS:
                self._encoders[key] = encoder
        return encoder

    def _truncation(self, fields: Mapping[str, Any]) -> tuple[str | None, int]:
        """The end that is cut off, if any, and what length is too long."""
        asked, limit, side = (fields.get(name) for name in ("truncate", "truncate_prompt_tokens", "truncation_side"))
        if asked is not None and asked not in (*SIDES, "error"):
            raise RecordError("invalid_value", f'truncate must be "left", "right" or "error", not {_shown(asked)}', param="truncate")
        if side is not None and side not in SIDES:
            raise RecordError("invalid_value", f'truncation_side must be "left" or "right", not {_shown(side)}', param="truncation_side")
        if limit is None:
            chosen = self.options.truncate if asked is None else asked
            return (None if chosen == "error" else chosen), self.max_model_len
        if asked is not None:
            raise RecordError("invalid_value", "give truncate or truncate_prompt_tokens, not both", param="truncate_prompt_tokens")
        if type(limit) is not int:
            raise wrong_type("truncate_prompt_tokens", "an integer", limit)
        if limit < 1 and limit != -1:
            raise RecordError("invalid_value", "truncate_prompt_tokens must be -1 or at least 1", param="truncate_prompt_tokens")
        return side or self.options.truncate or "right", self.max_model_len if limit == -1 else limit

    def params_of(self, fields: Mapping[str, Any], **more: Any) -> PoolingParams:
        """Raises RecordError."""
        use, alias = fields.get("use_activation"), fields.get("normalize")
        if use is not None and alias is not None:
            raise RecordError("invalid_value", "use_activation and normalize are the same: give one", param="normalize")
        if alias is not None and not isinstance(alias, bool):
            raise wrong_type("normalize", "true or false", alias)
        return PoolingParams(use_activation=alias if use is None else use, **more)

    def named_prompt(self, name: Any) -> str:
        """The text of a prompt of the recipe. Raises RecordError."""
        if not isinstance(name, str):
            raise wrong_type("prompt_name", "a string", name)
        try:
            return self.recipe.prefix_of(name)
        except ConfigError as error:
            raise RecordError("invalid_value", str(error), param="prompt_name") from None

    def text(self, value: Any, name: str) -> str:
        """A text of the field `name`. Raises RecordError."""
        if not isinstance(value, str):
            raise wrong_type(name, "a string", value)
        if self.tokenizer is None:
            raise RecordError("unsupported", "without a tokenizer a text can only be token ids", param=name)
        return value

    def item(self, value: Any, where: str, fields: Mapping[str, Any]) -> str | GivenImage:
        """A text, an image, or an object that is one of them: {"text": …}, {"image": …}, or a content part of OpenAI's. Raises RecordError.

        Args:
            where: its place, for messages.
            fields: the record's.
        """
        if isinstance(value, dict) and self.options.images is not None and kind_of(value) is not None:
            return self._image(of_content(value, where), fields)
        name = where.partition("[")[0]
        return self.text(value["text"] if isinstance(value, dict) and "text" in value else value, name)

    def images(self, fields: Mapping[str, Any], name: str) -> list[GivenImage]:
        """The images in one of MEDIA_FIELDS. Raises RecordError."""
        return [self._image(part, fields) for part in of_fields({name: fields[name]})]

    def _image(self, part: MediaPart, fields: Mapping[str, Any]) -> GivenImage:
        options = fields.get("mm_processor_kwargs")
        if options is not None and not isinstance(options, dict):
            raise wrong_type("mm_processor_kwargs", "an object", options)
        self.waits = True
        return GivenImage(part, options or {})

    def read_by(self, encoder: TextEncoder, given: Any) -> tuple[Any, Any]:
        """A text with its encoder, or an image with what reads it."""
        return (self.options.images, given) if isinstance(given, GivenImage) else (encoder, given)

    def texts(self, name: str, value: Any, fields: Mapping[str, Any] | None = None) -> tuple[list[str | list[int] | GivenImage], bool]:
        """The texts in a field, as text, token ids or images, and whether they are a list. `fields`: the record's, where images may be.

        Raises RecordError.
        """
        if isinstance(value, dict) and self.options.images is not None and fields is not None:
            return [self.item(value, name, fields)], False
        if isinstance(value, str):
            return [self.text(value, name)], False
        if not isinstance(value, list):
            raise wrong_type(name, "a string, a list of token ids or a list of texts", value)
        if not value:
            raise RecordError("invalid_value", f"{name} is an empty list: there is no text", param=name)
        if type(value[0]) is int:
            return [_token_ids(value, name)], False
        if fields is not None and self.options.images is not None and any(isinstance(one, dict) for one in value):
            return [self.item(one, f"{name}[{i}]", fields) for i, one in enumerate(value)], True
        return [self.text(one, name) if isinstance(one, str) else _token_ids(one, name) for one in value], True

    # --- out

    def empty_answer(self) -> dict[str, Any]:
        return {"usage": {"prompt_tokens": 0, "total_tokens": 0}}

    def tally(self, pending: PendingTexts, output: Pooled) -> Tally:
        return Tally.of_texts(pending.size, tokens=output.num_tokens, texts=len(output.values), truncated=pending.num_cut)


def usage_of(output: Pooled) -> dict[str, int]:
    """The `usage` of an answer."""
    return {"prompt_tokens": output.num_tokens, "total_tokens": output.num_tokens}


def _token_ids(value: Any, name: str) -> list[int]:
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise RecordError("invalid_type", f"{name} must hold texts or lists of token ids, all of the same kind", param=name)
    if not value:
        raise RecordError("invalid_value", f"{name} has an empty list of token ids", param=name)
    return value


def _shown(value: Any) -> str:
    return repr(value[:100]) if isinstance(value, str) else json_type(value)
