"""A model of any source to a quantized folder, layer by layer."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from infer.kernels.ops import Ops

from .. import models
from ..build.files import find_model
from ..build.generating import fill, load_kernels
from ..build.plan import Plan, make_plan
from ..errors import ConfigError, ModelError
from ..layers.mlp import MLP
from ..models.decoder import Decoder
from ..quant.choice import HEAD
from ..quant.rounding import Form
from ..settings.args import EngineArgs
from ..weights.formats.values import as_tensor
from ..weights.quantized import DESCRIBED_BY
from ..weights.renamed import RenamedSource, fit, untied
from .calibration import read_texts
from .folder import Folder, check_out, new_folder
from .scheme import GROUP_SIZES, Scheme
from .smoothing import Smoothing
from .walk import Walk
from .watched import Watched

log = logging.getLogger(__name__)

SCHEMES = ("w8a8", "w4a16")
#: Files beside the weights that are written along where the model has them.
FILES = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "chat_template.json",
    "LICENSE",
)
_DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class QuantizeSpec:
    """The request: a model, a folder to write, and a scheme.

    Args:
        calibrate: a JSONL file of texts; None: weights are rounded by themselves.
        num_records: of the file that are used, at most.
        group_size: of w4a16; None: the largest of GROUP_SIZES that fits.
        symmetric: no zeros are stored beside w4a16's scales.
        smooth: outliers of w8a8's activations are moved into weights.
    """

    model: str
    out: Path
    scheme: str
    calibrate: Path | None = None
    num_records: int = 128
    group_size: int | None = None
    symmetric: bool = False
    smooth: bool = True
    overwrite: bool = False


@dataclass(frozen=True)
class Quantized:
    """The result, in numbers for the summary."""

    num_layers: int
    """Linear layers that are quantized now."""
    num_bytes: int
    num_bytes_before: int
    num_tokens: int
    """Of calibration."""


def quantize(spec: QuantizeSpec) -> Quantized:
    """Writes the folder. Raises ConfigError, ModelError, OutputError."""
    check_out(spec.out, overwrite=spec.overwrite)
    _check_options(spec)
    args = EngineArgs(model=spec.model, task="generate", device="cpu", dtype="float32")
    source = find_model(args)
    if source.scheme:
        raise ModelError(f"{source.name} is quantized already ({source.scheme}); give the model that it was made from")
    plan = make_plan(args, source)
    described = source.spec()
    if not described.in_our_code("auto"):
        raise ModelError(f"{described.model_type} models run through transformers' code, and are not quantized; use another program for it")
    texts = None if spec.calibrate is None else read_texts(spec.calibrate, plan, spec.num_records)
    ops = load_kernels(plan.config, torch.device("cpu"))
    with new_folder(spec.out, overwrite=spec.overwrite) as folder, torch.inference_mode():
        return _Quantizing(spec, plan, ops, folder).run(texts)


def _check_options(spec: QuantizeSpec) -> None:
    if spec.scheme == "w8a8" and (spec.group_size is not None or spec.symmetric):
        raise ConfigError("w8a8 has one scale an output feature and no zeros: leave group_size and symmetric out, or choose w4a16")
    if spec.group_size is not None and (spec.group_size < 16 or spec.group_size % 8):
        raise ConfigError(f"group_size={spec.group_size}: a multiple of 8 from 16 on is wanted, such as 32, 64 or 128")


class _Quantizing:
    def __init__(self, spec: QuantizeSpec, plan: Plan, ops: Ops, folder: Folder) -> None:
        self.spec, self.plan, self.ops, self.folder = spec, plan, ops, folder
        source = plan.source
        described = source.spec()
        stack = untied(described.need_stack(), source)
        self.stack = stack
        infos = source.tensors()
        kinds = {info.dtype for info in infos.values() if len(info.shape) == 2}
        self.dtype = _DTYPES.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32
        if not source.path.is_dir():
            self.dtype = torch.bfloat16  # a .gguf file's weights have fewer bits than that
        methods: list[Watched] = []

        def choose(name: str) -> Watched | None:
            if name == HEAD:
                return None
            methods.append(Watched(ops, self.dtype))
            return methods[-1]

        built = models.build(described, ops, choose=choose)
        if not isinstance(built, Decoder):
            raise ModelError(f"{source.name}: models with an encoder and a decoder cannot be quantized to a folder yet; --quantization can")
        self.model = built
        found = self._fitted({part.name for parameter in self.model.parameters() for part in parameter.parts})
        self.source, self.turned = replace(found, turned={}), found.turned
        """The checkpoint with rows as they are stored, and those that the model has in another order."""
        self.layers = {name: method for method in methods for name in method.names}
        self.scheme = self._scheme()
        self.plain: list[str] = []
        """Layers with a matrix that is written as it is: the head, routers, and embeddings."""

    def run(self, texts: list[list[int]] | None) -> Quantized:
        changed: dict[str, Tensor] = {}
        if texts is not None:
            changed = self._calibrated(texts)
        before = 0
        for name, value in self.source.stream():
            before += value.shape.numel() * self.dtype.itemsize if isinstance(value, Tensor) else value.shape[0] * value.shape[1] * 2
            layer = name.removesuffix(".weight")
            if layer not in self.layers:
                plain = value if isinstance(value, Tensor) else as_tensor(value, self.dtype)
                self.folder.add({name: self._as_stored(name, changed[name]) if name in changed else plain})
                if name.endswith(".weight") and plain.dim() == 2:
                    self.plain.append(layer)
            elif texts is None:
                self._add(layer, as_tensor(value, self.dtype).float())
        self._files()
        return Quantized(len(self.layers), self.folder.num_bytes, before, sum(map(len, texts or [])))

    def _calibrated(self, texts: list[list[int]]) -> dict[str, Tensor]:
        """Writes the quantized layers; gives what else has changed."""
        if self.stack.states:
            raise ModelError("models that keep states are not calibrated yet: leave --calibrate out, and weights are rounded by themselves")
        if not all(isinstance(layer.mlp, MLP) for layer in self.model.layers):
            raise ModelError("mixtures of experts are not calibrated yet: leave --calibrate out, and weights are rounded by themselves")
        if not self.stack.pre_norm or self.stack.adds_to_normed:
            raise ModelError(
                f"{self.plan.spec.model_type} models with norms of sums are not calibrated yet: leave --calibrate out, and weights are "
                "rounded by themselves"
            )
        if self.stack.shared_layers or self.stack.per_layer is not None:
            raise ModelError(
                f"{self.plan.spec.model_type} models, whose layers share keys and values or have per-layer embeddings, are not calibrated "
                "yet: leave --calibrate out, and weights are rounded by themselves"
            )
        config, model = self.plan.config, self.model
        parameters = model.body_parameters()
        fill(
            config,
            self.plan.source,
            self.stack,
            parameters,
            torch.float32,
            torch.device("cpu"),
            choose=None,
            ropes=model.ropes,
            whole=False,
        )
        walk, smoothing = Walk(model, self.ops, texts), Smoothing(self.dtype)
        log.info("calibration: %d texts, %d tokens", len(texts), sum(walk.lengths))
        for number, layer in enumerate(model.layers):
            inputs = walk.inputs(layer)
            methods = [(linear, linear.method) for linear in layer.linears() if isinstance(linear.method, Watched)]
            for _, method in methods:
                method.widen()
            if self.scheme.activations and self.spec.smooth:
                done = smoothing.smooth(layer, inputs)
                log.info(
                    "layer %d: %s",
                    number,
                    ", ".join(f"{place} {strength:g} (error x {left:.2f})" for place, (strength, left) in done.items()),
                )
            for linear, method in methods:
                hessian = inputs[linear].hessian / len(texts)
                method.weights = [self._add(name, weight, hessian) for name, weight in zip(method.names, method.weights, strict=True)]
            walk.go(layer)
            for _, method in methods:
                method.weights = []
        return smoothing.changed

    def _add(self, layer: str, weight: Tensor, hessian: Tensor | None = None) -> Tensor:
        """Writes a quantized layer, with a hessian one of the model, else of the checkpoint; gives what it means."""
        name = f"{layer}.weight"
        weight = weight if hessian is None else self._as_stored(name, weight)
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{self.source.name}: {layer}.weight holds numbers that are not finite; fetch the model again")
        tensors, means = self.scheme.tensors(weight, self.dtype, hessian)
        self.folder.add({layer + suffix: tensor for suffix, tensor in tensors.items()})
        return means[self.turned[name].rows(len(means))] if name in self.turned else means

    def _as_stored(self, name: str, tensor: Tensor) -> Tensor:
        """A tensor of the model with rows in the checkpoint's order."""
        if name not in self.turned:
            return tensor
        stored = torch.empty_like(tensor)
        stored[self.turned[name].rows(len(tensor))] = tensor
        return stored

    def _files(self) -> None:
        source = self.plan.source
        for name in FILES:
            if (content := source.read(name)) is not None:
                self.folder.write(name, content)
        config = {key: value for key, value in (source.read_json("config.json") or {}).items() if key not in DESCRIBED_BY}
        calibrated = self.spec.calibrate is not None
        self.folder.config = {**config, "quantization_config": self.scheme.config(sorted({"lm_head", *self.plain}), calibrated=calibrated)}

    def _scheme(self) -> Scheme:
        if self.spec.scheme == "w8a8":
            return Scheme("w8a8", 8, Form.SYMMETRIC, None, activations=True)
        widths = sorted({linear.in_features for linear in self.model.linears() if isinstance(linear.method, Watched)})
        form = Form.SYMMETRIC if self.spec.symmetric else Form.ZERO
        fitting = [size for size in (self.spec.group_size, *GROUP_SIZES) if size is not None and all(width % size == 0 for width in widths)]
        if not fitting or (self.spec.group_size is not None and self.spec.group_size not in fitting):
            works = f"these work: {', '.join(map(str, fitting))}" if fitting else "no size does; use w8a8"
            raise ConfigError(
                f"group_size={self.spec.group_size or GROUP_SIZES[-1]} does not divide the input features of {self.plan.source.name} "
                f"({', '.join(map(str, widths))}); {works}"
            )
        return Scheme("w4a16", 4, form, fitting[0], activations=False)

    def _fitted(self, wanted: set[str]) -> RenamedSource:
        """The checkpoint under our names. Raises ModelError where layers are stored in another form than those of transformers' Linear."""
        found = fit(self.plan.source, self.stack, wanted, whole=True)
        if found.transposed or any(len(pieces) > 1 for pieces in found.names.values()):
            kind = self.plan.spec.model_type
            raise ModelError(
                f"{kind} models store linear layers transposed or fused, which no quantized folder can say; they are not quantized"
            )
        return found
