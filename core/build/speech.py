"""Loads the parts of a speech model that are not the engine's: the tower, the feature extractor and the special tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import ModelError
from ..media.files import takes_sounds
from ..media.loader import MediaLoader
from ..media.policy import MediaPolicy
from ..media.sounds import SoundFeatures, SoundStore
from ..spec.hf_values import TOKEN
from ..text.speech.tokens import SpeechTokens
from .generation_config import FILE, NONE, read_file

if TYPE_CHECKING:
    from torch import Tensor

    from ..settings.config import EngineConfig
    from ..spec.model_spec import ModelSpec
    from ..weights.source import ModelSource

#: Frames of features that become one hidden state: the second layer of the tower takes every other one.
STRIDE = 2


def sound_store(config: EngineConfig, source: ModelSource, spec: ModelSpec) -> SoundStore | None:
    """The store of its sounds; None for a model that takes none."""
    if not takes_sounds(config, source, spec):
        return None
    positions, bins = spec.tower_positions, int(spec.config["num_mel_bins"])

    def make_features() -> SoundFeatures:
        return SoundFeatures(source.path, source.name, window=STRIDE * positions, bins=bins)

    def load_tower() -> Callable[[Mapping[str, Tensor]], Tensor]:
        from infer import kernels

        from ..models.hf import hearing
        from .generating import DTYPES, device_of

        seed: Any = config.seed if config.load_format == "dummy" else None
        return hearing.load(source, spec.config, kernels.load(config.kernels), DTYPES[config.dtype], device_of(config, 0), dummy_seed=seed)

    assert spec.hidden_size is not None
    return SoundStore(MediaLoader(MediaPolicy.of(config)), spec.hidden_size, make_features, load_tower, positions=positions)


def speech_tokens(config: EngineConfig, source: ModelSource, spec: ModelSpec) -> SpeechTokens:
    """Of generation_config.json, and config.json where that says nothing. They mean what they mean, so `generation_config=none` does not
    leave them out. Raises ModelError for what are no tokens."""
    own = config.generation_config in ("auto", *NONE)
    generation = read_file(source.read_json, "auto" if own else config.generation_config) or {}
    size = spec.vocab_size or 0

    def get(name: str) -> Any:
        value = generation.get(name)
        return spec.config.get(name) if value is None else value

    def wrong(name: str) -> ModelError:
        return ModelError(f"{FILE} or config.json of {source.name}: {name} is {get(name)!r}, which names no tokens of its vocabulary")

    def fits(value: Any) -> bool:
        return TOKEN.fits(value) and 0 <= value < size

    def token(name: str) -> int | None:
        value = get(name)
        value = value[0] if isinstance(value, list) and value else value
        if value is not None and not fits(value):
            raise wrong(name)
        return value

    def tokens(name: str) -> tuple[int, ...]:
        value = get(name) or []
        if not isinstance(value, list) or not all(fits(one) for one in value):
            raise wrong(name)
        return tuple(value)

    def named(name: str) -> dict[str, int]:
        value = get(name) or {}
        if not isinstance(value, dict) or not all(fits(one) for one in value.values()):
            raise wrong(name)
        return {key.removeprefix("<|").removesuffix("|>"): one for key, one in value.items()}

    pairs = get("forced_decoder_ids") or []
    forced: list[int | None] = []
    for pair in pairs if isinstance(pairs, list) else [pairs]:
        in_order = isinstance(pair, list) and len(pair) == 2 and pair[0] == len(forced) + 1
        if not in_order or not (pair[1] is None or fits(pair[1])):
            raise wrong("forced_decoder_ids")
        forced.append(pair[1])
    start, end = token("decoder_start_token_id"), token("eos_token_id")
    if start is None or end is None:
        raise ModelError(f"{FILE} or config.json of {source.name} names no decoder_start_token_id or no eos_token_id")
    length, most = get("max_length"), min(int(spec.config["max_target_positions"]), config.max_model_len)
    return SpeechTokens(
        start=start,
        end=end,
        languages=named("lang_to_id"),
        tasks=named("task_to_id"),
        forced=tuple(forced),
        no_timestamps=token("no_timestamps_token_id"),
        previous=token("prev_sot_token_id"),
        suppressed=tokens("suppress_tokens"),
        begin_suppressed=tokens("begin_suppress_tokens"),
        max_initial=get("max_initial_timestamp_index"),
        vocab_size=size,
        positions=most,
        max_length=length if type(length) is int and 0 < length < most and "max_length" in generation else most,
        seconds=STRIDE * spec.tower_positions / 100,
    )
