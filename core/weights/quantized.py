"""A quantized checkpoint seen as a plain one: the tensors of a layer's quantized weight are one weight, decoded as they are read."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from ..errors import ModelError
from ..spec.support import within
from .formats import BESIDE, METHODS, method_of
from .formats.base import Format, Layers
from .source import ModelSource, TensorInfo

if TYPE_CHECKING:
    import torch

    from .cut import Cut
    from .formats.values import QuantizedWeight

#: Keys of config.json that describe a quantization.
DESCRIBED_BY = ("quantization_config", "compression_config")

log = logging.getLogger(__name__)


def as_stored(source: ModelSource) -> ModelSource:
    """`source` as a `QuantizedSource` if its config.json says that it is quantized. Raises ModelError if that is not supported."""
    layers = read_layers(source)
    return source if layers is None else QuantizedSource(source.name, source.path, source, layers)


def read_layers(source: ModelSource) -> Layers | None:
    """The quantization that config.json describes, or a file beside it; None: there is none."""
    raw = source.read_json("config.json") or {}
    for one in within(raw):
        for key in DESCRIBED_BY:
            if config := one.get(key):
                return _read_layers(source.name, config, f"config.json: {key}")
    for file, method in BESIDE.items():
        if config := source.read_json(file):
            layers = _read_layers(source.name, {"quant_method": method, **config}, file)
            stored = source.tensors() if source.has_weights else {}
            return layers if any(name.endswith(tuple(layers.suffixes)) for name in stored) else None  # it may be left from elsewhere
    return None


def _read_layers(name: str, config: object, place: str) -> Layers:
    """The quantization of the model `name` by `config`, which was found at `place`. Raises ModelError."""
    method = method_of(config) if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or method not in METHODS:
        named = repr(method) if method else "by a method that is not named"
        raise ModelError(f"{name} is quantized ({named}; {place}), which is not supported; supported: {', '.join(METHODS)}")
    try:
        return METHODS[method](config)
    except ModelError as error:
        raise ModelError(f"{name} is {error}" if str(error).startswith("quantized") else f"{name}: {error}") from None


@dataclass(frozen=True)
class _Layer:
    """A quantized layer: its format, and its tensors by suffix."""

    format: Format
    out_features: int
    in_features: int
    wanted: frozenset[str]


@dataclass(frozen=True)
class QuantizedSource(ModelSource):
    """`source` with `name.weight` [out, in] in place of the tensors that say it; `stream` gives it as a `QuantizedWeight`."""

    source: ModelSource
    layers: Layers = field(repr=False)

    @property
    def stored(self) -> ModelSource:
        return self.source

    def read(self, filename: str) -> bytes | None:
        return self.source.read(filename)

    @property
    def scheme(self) -> str:
        return self.layers.label

    @property
    def has_weights(self) -> bool:
        return self.source.has_weights

    def tensors(self) -> dict[str, TensorInfo]:
        return self._read[0]

    @cached_property
    def _read(self) -> tuple[dict[str, TensorInfo], dict[str, _Layer]]:
        """The tensors as they are seen, and the quantized layers by name. Raises ModelError for one that lacks a part."""
        raw = self.source.tensors()
        found: dict[str, TensorInfo] = {}
        layers: dict[str, _Layer] = {}
        by_layer: dict[str, dict[str, TensorInfo]] = {}
        for name, info in raw.items():
            layer, suffix = self._split(name)
            by_layer.setdefault(layer, {})[suffix] = info
        for layer, parts in by_layer.items():
            form = self.layers.choose(layer)
            if form is None or not form.is_used(parts):
                found.update({info.name: info for info in parts.values() if not info.name.endswith(self.layers.ignored)})
                continue
            made = layers[layer] = self._layer(layer, form, parts)
            others = parts.keys() - made.wanted - made.format.optional()
            found.update({parts[suffix].name: parts[suffix] for suffix in others if not suffix.endswith(self.layers.ignored)})
            weight = layer + form.weight
            group = made.format.group(made.in_features)
            found[weight] = TensorInfo(weight, (made.out_features, made.in_features), "F32", parts[form.main].file, group)
        if not layers:
            raise ModelError(f"{self.name} is said to be quantized ({self.layers.label}), but none of its weights is")
        return found, layers

    def _split(self, name: str) -> tuple[str, str]:
        """The layer of a tensor, and its suffix."""
        for suffix in self._suffixes:
            if name.endswith(suffix):
                return name.removesuffix(suffix), suffix
        layer, dot, suffix = name.rpartition(".")
        return layer, dot + suffix

    @cached_property
    def _suffixes(self) -> list[str]:
        """Of quantized layers, the longer ones first."""
        return sorted(self.layers.suffixes, key=len, reverse=True)

    def _layer(self, layer: str, form: Format, parts: Mapping[str, TensorInfo]) -> _Layer:
        main = parts[form.main]
        form = form.of(parts, lambda suffix: self.source.content(parts[suffix].name))
        out_features, in_features = form.size(main)
        wanted = form.tensors(out_features, in_features)
        for suffix, stored in wanted.items():
            info = parts.get(suffix)
            if info is None:
                if suffix in form.optional():
                    continue
                raise ModelError(f"{self.name} is quantized ({self.layers.label}), but {layer} has no {suffix[1:]}; fetch the model again")
            if not stored.fits(info):
                raise ModelError(
                    f"{main.file}: {info.name} is {info.dtype} {list(info.shape)}; beside {form.main[1:]} {list(main.shape)} "
                    f"({form.name}, {form.label}) it must be {stored}"
                )
        return _Layer(form, out_features, in_features, frozenset(wanted.keys() & parts.keys()))

    def stream(self, cuts: Mapping[str, Cut] | None = None) -> Iterator[tuple[str, torch.Tensor | QuantizedWeight]]:
        from .formats.values import QuantizedWeight

        seen, layers = self._read
        cuts = cuts or {}
        parts: dict[str, dict[str, torch.Tensor]] = {}
        weights = {layer + made.format.weight for layer, made in layers.items()}
        plain = {name: cut for name, cut in cuts.items() if name not in weights}
        become_plain = 0
        if self.layers.note:
            log.info("%s: %s", self.name, self.layers.note)
        for name, tensor in self.source.stream(plain):
            assert not isinstance(tensor, QuantizedWeight), "nothing is quantized twice"
            layer, suffix = self._split(name)
            made = layers.get(layer)
            if made is None or suffix not in made.wanted:
                if name in seen:
                    yield name, tensor
                elif made is not None and suffix in made.format.zeros() and bool(tensor.float().any()):
                    raise ModelError(f"{self.name}: {name} is not zero, and {made.format.label} has no such part; fetch the model again")
                del tensor
                continue
            have = parts.setdefault(layer, {})
            have[suffix] = tensor
            del tensor  # or it would stay while the next one is read
            if have.keys() == made.wanted:
                weight = self._decoded(layer, made, parts.pop(layer))
                seen_as = layer + made.format.weight
                cut = cuts.get(seen_as)
                value = weight if cut is None else weight.cut(cut)
                become_plain += not isinstance(value, QuantizedWeight)
                yield seen_as, value
                del weight, value
        if become_plain:
            # A rank's features of such a weight are some of every group, in any number.
            log.info(
                "%s: ranks share %d weights by input features whose groups are out of order (desc_act): these become plain",
                self.name,
                become_plain,
            )

    def _decoded(self, layer: str, made: _Layer, tensors: dict[str, torch.Tensor]) -> QuantizedWeight:
        for suffix, tensor in tensors.items():
            if tensor.is_floating_point() and suffix != made.format.main and not bool(tensor.float().isfinite().all()):
                raise ModelError(f"{self.name}: {layer}{suffix} holds numbers that are not finite; fetch the model again")
        try:
            return made.format.decode(tensors, made.out_features, made.in_features)
        except ModelError as error:
            raise ModelError(f"{self.name}: {layer}: {error}") from None
