"""The command's sampling parameters with a record's own on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from ...engine.limits import UNKNOWN_REASONING
from ...errors import ConfigError, RecordError
from ...types.params import SamplingParams
from ...types.structured import CONSTRAINTS, StructuredOutputsParams

if TYPE_CHECKING:
    from ...build.plan import Plan

#: Options whose names are others than their fields'.
_FLAGS = {"json": "json_schema"}
#: Mixes of parameters that are remembered, each of at most so many bytes.
_MAX_MIXES, _MAX_BYTES = 1024, 4096


class Defaults:
    """
    Args:
        params: the command's.
        has_tokenizer: whether there is one. Without it answers hold token ids, and the engine refuses what needs text.

    Records that ask for the same get the same object, so that the engine works out once what follows from it. Raises ConfigError
    if the command's parameters cannot be had without a tokenizer.
    """

    def __init__(self, params: SamplingParams, *, has_tokenizer: bool) -> None:
        self._has_tokenizer = has_tokenizer
        for name in ("stop", "bad_words", "structured_outputs"):
            if not has_tokenizer and getattr(params, name):
                raise ConfigError(f"{name} needs a tokenizer, and with skip_tokenizer_init there is none")
        self.params = self._fit(params)
        self._mixes: dict[bytes, SamplingParams] = {}

    def with_fields(
        self, given: Mapping[str, Any], wanted: StructuredOutputsParams | None, *, unconstrained: bool = False
    ) -> SamplingParams:
        """A record's parameters. Raises RecordError.

        Args:
            given: its sampling fields.
            wanted: what its output must look like, if it says so itself.
            unconstrained: it says that its output is free.
        """
        if not given and wanted is None and not (unconstrained and self.params.structured_outputs):
            return self.params
        key = _key(given, wanted, unconstrained)
        if key is not None and (known := self._mixes.get(key)) is not None:
            return known
        values = {**given, "structured_outputs": wanted} if wanted is not None else given
        params = self.params.override(values)
        if unconstrained and params.structured_outputs is not None:
            params = replace(params, structured_outputs=None)
        params = self._fit(params)
        if key is not None and len(self._mixes) < _MAX_MIXES:
            self._mixes[key] = params
        return params

    def _fit(self, params: SamplingParams) -> SamplingParams:
        if params.return_token_ids or (params.detokenize and self._has_tokenizer):
            return params
        return replace(params, return_token_ids=True)  # or the answer would be empty


def check_constraint(defaults: SamplingParams, plan: Plan) -> None:
    """Raises ConfigError if the command's own constraint on outputs cannot be had: every record would say so, one by one."""
    wanted = defaults.structured_outputs
    if wanted is None or plan.tokenizer is None:  # `Defaults` tells of the latter
        return
    try:
        plan.grammars.compile(wanted)
    except RecordError as error:
        raise ConfigError(f"{_flag_of(wanted)}: {error.message.removeprefix('structured_outputs: ')}") from None
    except ImportError as error:
        raise ConfigError(f"{_flag_of(wanted)} needs a package that is not here ({error}); pip install llguidance") from None


def check_thinking(defaults: SamplingParams, plan: Plan) -> None:
    """Raises ConfigError if the command's own budget of thinking cannot be had: every record would say so, one by one."""
    if defaults.thinking_token_budget is not None and plan.tokenizer is not None and not plan.config.reasoning_config:
        raise ConfigError(UNKNOWN_REASONING.replace("thinking_token_budget", "--thinking-token-budget", 1))


def _flag_of(wanted: StructuredOutputsParams) -> str:
    """The option that gives such a constraint."""
    name = next(name for name in CONSTRAINTS if getattr(wanted, name) is not None)
    return "--" + _FLAGS.get(name, name).replace("_", "-")


def with_model_defaults(defaults: SamplingParams, given: Mapping[str, Any], plan: Plan, say: Callable[[str], None]) -> SamplingParams:
    """The command's parameters with what the model's generation_config.json sets, where none was given; `say` tells the user.

    Raises ConfigError, ModelError.
    """
    found, sentence = plan.sampling_defaults()
    values = {name: value for name, value in found.items() if name not in given}
    if not values:
        return defaults
    say(sentence)
    try:
        return SamplingParams(**{**values, **given})
    except RecordError as error:
        told = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ConfigError(f"{error} (generation_config.json sets {told}; --generation-config none leaves it out)") from None


def _key(given: Mapping[str, Any], wanted: StructuredOutputsParams | None, unconstrained: bool) -> bytes | None:
    """The same for the same parameters; None where that would be much to remember."""
    try:
        key = orjson.dumps((given, wanted, unconstrained))
    except TypeError:  # an integer of more than 64 bits: nothing we know is that large
        return None
    return key if len(key) <= _MAX_BYTES else None
