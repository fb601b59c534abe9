"""`infer embed`: texts or token ids in, vectors out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ConfigError, RecordError
from ...pooling.recipe import Recipe
from ...pooling.texts import TextEncoder
from ...types.pooling_request import Pooled
from ..jsonl import json_type, wrong_type
from ..output.sinks.vectors import decoded_dtype, encode_vector
from ..row_format import MatrixRows
from . import openai_batch
from .completion import MEDIA_FIELDS
from .fields import flag
from .pending import PendingTexts
from .pooling import PoolingOptions, PoolingTask, usage_of
from .rows import native_row

if TYPE_CHECKING:
    from ...text.chat import ChatTemplate
    from ...text.tokenizer import Tokenizer

#: How a vector stands in a line.
ENCODINGS = ("float", "base64")
_OWN = frozenset({"dimensions", "encoding_format"})
#: Fields about a conversation, and what else steers its template.
_CONVERSATION = frozenset({"messages", "add_generation_prompt", "continue_final_message", "chat_template_kwargs"})


@dataclass(frozen=True)
class EmbedOptions(PoolingOptions):
    """The options of `infer embed`: how texts become vectors, and vectors rows.

    `prefix` is put before texts; None: the prompt named `prompt_name`, or the model's default one, if it has one.
    `embedding_dtype` is one of sinks.vectors.DTYPES. `matrix`: rows are vectors and no lines, all of the recipe's size.
    """

    prompt_name: str | None = None
    prefix: str | None = None
    encoding: str = "float"
    embedding_dtype: str = "float32"
    matrix: bool = False


@dataclass(frozen=True, slots=True)
class _Reply:
    """The form of a record's answer. `many`: it asked for a list of vectors."""

    many: bool
    encoding: str


class EmbedTask(PoolingTask):
    """`input` or `text` (a string, token ids, or a list of either), `dimensions`, `encoding_format`, `prompt_name`, `truncate`.

    `messages` in their place, where the model has a chat template (`chat`): the text is the conversation as the template writes it, with
    no prompt before it and no other special tokens, as vLLM's chat embeddings have it. `image` or `images` (paths, URLs) with a model that
    makes vectors of images; `input` may then also be, or have among its texts, {"image": …} or a content part of OpenAI's.

    Raises ConfigError for a prompt the model does not have.
    """

    command = "embed"
    columns: tuple[str, ...] = ("input", "text")
    options: EmbedOptions
    known_fields = PoolingTask.known_fields | _OWN
    parameters = PoolingTask.parameters | _OWN
    guessable_fields = PoolingTask.guessable_fields | _OWN

    def __init__(
        self,
        options: EmbedOptions,
        tokenizer: Tokenizer | None,
        recipe: Recipe,
        *,
        max_model_len: int,
        chat: ChatTemplate | None = None,
    ) -> None:
        if chat is not None and options.now is not None:
            chat = chat.at(options.now)
        self._chat = chat.literally() if chat is not None and options.literal_special_tokens else chat
        if chat is not None:
            self.columns = (*self.columns, "messages")
        if options.images is not None:
            self.columns = (*self.columns, "image", "images")
        super().__init__(options, tokenizer, recipe, max_model_len=max_model_len)
        self.prefix = recipe.prefix_of(options.prompt_name, options.prefix)
        if options.matrix and recipe.per_token:
            raise ConfigError("this output format has one vector a record, and this model makes one of each token: write JSON lines")
        if options.matrix:
            self.rows = MatrixRows(recipe.output_size, options.embedding_dtype, flat=options.error_format == "flat")

    # --- in

    def own_fields(self) -> frozenset[str]:
        own = super().own_fields()
        return own if self._chat is None or self.options.has_column else own | _CONVERSATION

    def check_ours(self, fields: Mapping[str, Any]) -> None:
        if self._chat is None and not self.options.has_column and "messages" in fields and not self.fields & fields.keys():
            message = "messages need a chat template, and this model has none: give input (infer chat answers conversations)"
            raise RecordError("unsupported", message, param="messages")
        super().check_ours(fields)

    def refuse(self, fields: Mapping[str, Any]) -> None:
        if fields.get("messages") is not None and "messages" in self.fields:
            fields = {name: value for name, value in fields.items() if name != "add_special_tokens"}  # false is what a template wants
        super().refuse(fields)

    def missing(self, fields: Mapping[str, Any]) -> str:
        return 'no "input" and no "text"'

    def read(self, pending: PendingTexts, fields: Mapping[str, Any]) -> None:
        pending.params = self.params_of(fields, dimensions=fields.get("dimensions"))
        encoding = self.options.encoding if fields.get("encoding_format") is None else fields["encoding_format"]
        if encoding not in ENCODINGS:
            message = f'encoding_format must be "float" or "base64", not {json_type(encoding)}'
            if isinstance(encoding, str):
                message = f'encoding_format must be "float" or "base64", not {encoding[:100]!r}'
            raise RecordError("invalid_value", message, param="encoding_format")
        pending.kind = self.recipe.text_kind
        name, value = self._given(fields)
        if name == "messages" and self._chat is not None:
            pending.prompt = [self._conversation(fields, self._chat)]
            pending.reply = _Reply(False, encoding)
            return
        if name in MEDIA_FIELDS and self.options.images is not None and not self.options.has_column:
            texts, many = list[Any](self.images(fields, name)), isinstance(value, list)
        else:
            texts, many = self.texts(name, value, fields)
        if self.options.matrix:
            self._check_matrix(pending, name, many)
        asked = fields.get("prompt_name")
        prefix = self.prefix if asked is None else self.named_prompt(asked)
        encoder = self.encoder_for(fields, prefix, self.recipe.side_of(self.options.prompt_name if asked is None else asked))
        pending.prompt = [self.read_by(encoder, text) for text in texts]
        pending.reply = _Reply(many, encoding)

    def _given(self, fields: Mapping[str, Any]) -> tuple[str, Any]:
        """The field that holds the texts, and what is in it."""
        if self.options.template is not None:
            return "template", self.text_from_record(fields)
        if self.options.prompt_field is not None:
            return self.options.prompt_field, fields[self.options.prompt_field]
        given = [name for name in self.columns if fields.get(name) is not None]
        if len(given) > 1:
            raise RecordError("invalid_value", f"give {given[0]} or {given[1]}, not both", param=given[1])
        return given[0], fields[given[0]]

    def _conversation(self, fields: Mapping[str, Any], chat: ChatTemplate) -> tuple[TextEncoder, list[int]]:
        """The tokens of a conversation. Raises RecordError."""
        kwargs = fields.get("chat_template_kwargs")
        if kwargs is None:
            kwargs = {}
        if not isinstance(kwargs, dict):
            raise wrong_type("chat_template_kwargs", "an object", kwargs)
        if wrong := _CONVERSATION & kwargs.keys():
            raise RecordError("invalid_value", f"{min(wrong)} belongs on the line itself", param="chat_template_kwargs")
        flags = {name: flag(fields, name, False) for name in ("add_generation_prompt", "continue_final_message")}
        text = chat.render(fields["messages"], **{**kwargs, **flags})
        encoder = self.encoder_for(fields, "")
        text = encoder.checked(text)
        assert self.tokenizer is not None
        encode = self.tokenizer.encode_literal if self.options.literal_special_tokens else self.tokenizer.encode_batch
        (ids,) = encode([text], add_special_tokens=flag(fields, "add_special_tokens", False))
        if not ids:
            raise RecordError("invalid_value", "the conversation is empty", param="messages")
        return encoder, ids

    def _check_matrix(self, pending: PendingTexts, name: str, many: bool) -> None:
        if many:
            message = "a list of texts has several vectors, and a row of this output format is one: give one text a line"
            raise RecordError("invalid_value", message, param=name)
        assert pending.params is not None
        size = self.recipe.output_size
        if pending.params.dimensions not in (None, size):
            message = f"dimensions {pending.params.dimensions} would not fit: each row of this output format has {size}"
            raise RecordError("invalid_value", message, param="dimensions")

    # --- out

    def empty_answer(self) -> dict[str, Any]:
        return {"embedding": "" if self.options.encoding == "base64" else [], **super().empty_answer()}

    def to_row(self, pending: PendingTexts, output: Pooled) -> dict[str, Any]:
        reply: _Reply = pending.reply
        vectors = [self._written(vector, reply.encoding) for vector in output.values]
        if pending.batch is not None:
            data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)]
            line = pending.batch
            return openai_batch.body_row(line, {"object": line.object, "data": data, "model": line.model, "usage": usage_of(output)})
        answer: dict[str, Any] = {"embeddings": vectors} if reply.many else {"embedding": vectors[0]}
        return native_row(pending, {**answer, "usage": usage_of(output)})

    def _written(self, vector: NDArray[np.float32], encoding: str) -> Any:
        """A vector as it stands in a line: numbers, or base64 of its bytes; of those of tokens a list. Raises RecordError."""
        if vector.ndim > 1:
            return [self._written(one, encoding) for one in vector]
        dtype = self.options.embedding_dtype
        data = encode_vector(vector, dtype)
        if encoding == "base64":
            return base64.b64encode(data).decode()
        values = np.frombuffer(data, decoded_dtype(dtype))
        return values.astype(np.float32) if dtype == "float16" else values  # digits of the shortest float32

    def vector(self, pending: PendingTexts, output: Pooled) -> NDArray[np.float32]:
        """The one vector of a record: float32 [recipe.output_size]."""
        return output.values[0]

    def ids_row(self, pending: PendingTexts, output: Pooled) -> dict[str, Any]:
        """The line beside it, which says whose it is."""
        row = native_row(pending, {"usage": usage_of(output)})
        if pending.batch is not None:
            return {"index": row.pop("index"), "custom_id": pending.batch.custom_id, **row}
        return row
