"""The modules of a sentence-transformers folder: Transformer, Pooling, Dense..., Normalize, in this order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any

from ..errors import ModelError
from ..spec.classes import activation_class
from ..spec.hf_values import COUNT, FLAG, NULL, TEXT, check_file, is_text
from ..weights.source import ModelSource
from .recipe import DenseSpec

MODULES_FILE = "modules.json"
#: Packages whose classes of these names we know; any other is code of the model's own.
_PACKAGES = ("sentence_transformers.models", "sentence_transformers.base.modules", "sentence_transformers.sentence_transformer.modules")
#: Of late interaction, whose Dense modules are of tokens.
_PYLATE = "pylate.models"
_KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")
_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
#: The older form of a pooling mode, a boolean each.
_BOOLEANS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS = {
    "Identity": "identity",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}
_INPUT, _OF_TOKENS = "sentence_embedding", "token_embeddings"
#: What the modules' own config.json may hold, as far as it is read.
_KINDS = {
    **dict.fromkeys(_BOOLEANS, FLAG | NULL),
    **dict.fromkeys(("include_prompt", "bias", "use_residual"), FLAG | NULL),
    **dict.fromkeys(("word_embedding_dimension", "in_features", "out_features"), COUNT | NULL),
    **dict.fromkeys(("activation_function", "module_input_name", "module_output_name"), TEXT | NULL),
}


def files_of(source: ModelSource, listed: Sequence[Mapping[str, Any]]) -> list[str]:
    """The small files of the modules, known ones or not, whether they are there or not; a Dense module's weights are one of them."""
    found = []
    for module in listed:
        if folder := _folder(module, source.path / MODULES_FILE):
            found.append(f"{folder}/config.json")
            if str(module.get("type", "")).endswith("Dense"):
                found.append(f"{folder}/model.safetensors")
    return found


@dataclass(frozen=True)
class Modules:
    """The modules that follow the Transformer, checked for their order.

    Attributes:
        pooling_folder, dense_folders: where these modules lie; "": there is no Pooling, as in late interaction.
        normalize: whether vectors are normalized at the end.
    """

    source: ModelSource
    pooling_folder: str
    dense_folders: tuple[str, ...]
    normalize: bool

    @classmethod
    def of(cls, source: ModelSource, listed: Sequence[Mapping[str, Any]], *, pools: bool = True) -> Modules:
        """Raises ModelError naming the module that is unknown or out of its place. `pools`: there must be a Pooling; else none."""
        path = source.path / MODULES_FILE
        names = [_name(module, path) for module in listed]
        found = [(name, _folder(module, path)) for name, module in zip(names, listed, strict=True)]
        shown = " -> ".join(name for name in names if name)
        if names.count("Transformer") != 1 or names[0] != "Transformer":
            raise ModelError(f"{path}: there must be one Transformer, and first: {shown or 'there are no modules'}")
        if found[0][1]:
            raise ModelError(f"{path}: the Transformer lies in {found[0][1]!r}; only models with config.json beside {path.name} are read")
        if not pools and "Pooling" in names:
            raise ModelError(f"{path}: a model of late interaction has a vector a token, and no Pooling module ({shown})")
        if pools and names.count("Pooling") != 1:
            many = "no Pooling module" if "Pooling" not in names else f"{names.count('Pooling')} Pooling modules"
            raise ModelError(f"{path}: {many} ({shown}); one is needed to make a vector of a text")
        rank = [("Transformer", "Pooling", "Dense", "Normalize").index(name) for name in names if name != "Dropout"]
        for before, after in pairwise(rank):
            if after < before:
                raise ModelError(f"{path}: the order {shown} is not supported; it is Transformer -> Pooling -> Dense -> Normalize")
        folders = {kind: tuple(folder for name, folder in found if name == kind) for kind in ("Pooling", "Dense")}
        return cls(source, folders["Pooling"][0] if pools else "", folders["Dense"], "Normalize" in names)

    def pooling(self) -> str:
        """One of `recipe.POOLINGS`. Raises ModelError naming a pooling that is not supported."""
        config, file = self._config(self.pooling_folder)
        if "pooling_mode" in config:
            mode = config["pooling_mode"]
            modes = [mode] if isinstance(mode, str) else list(mode) if isinstance(mode, list) else []
            if not modes or not all(isinstance(one, str) for one in modes):
                raise ModelError(f"{file}: pooling_mode is {mode!r}, not a name")
        else:
            modes = [mode for key, mode in _BOOLEANS.items() if config.get(key) is True] or ["mean"]  # as sentence-transformers does
        if len(modes) > 1:
            raise ModelError(f"{file}: several poolings at once are not supported ({', '.join(modes)}); choose one: cls, mean or last")
        if modes[0] not in _POOLINGS:
            known = ", ".join(_POOLINGS)
            raise ModelError(f"{file}: pooling {modes[0]!r} is not supported (supported: {known}); choose another: cls, mean or last")
        return _POOLINGS[modes[0]]

    @property
    def include_prompt(self) -> bool:
        """True if the tokens of a prompt are pooled too."""
        return self._config(self.pooling_folder)[0].get("include_prompt") is not False

    def dense(self, size: int) -> tuple[DenseSpec, ...]:
        """The Dense modules after a pooling of `size` numbers. Raises ModelError if they do not fit each other."""
        found = []
        for folder in self.dense_folders:
            one = self._dense(folder)
            if one.in_features != size:
                raise ModelError(
                    f"{self.source.path / folder}: this Dense module takes vectors of {one.in_features}, what is before it gives {size}"
                )
            size = one.out_features
            found.append(one)
        return tuple(found)

    def _dense(self, folder: str) -> DenseSpec:
        config, file = self._config(folder)
        size, out = config.get("in_features"), config.get("out_features")
        if not (isinstance(size, int) and isinstance(out, int) and size > 0 and out > 0):
            raise ModelError(f"{file} has no in_features and out_features; fetch the model again")
        wanted = _INPUT if self.pooling_folder else _OF_TOKENS
        for name in ("module_input_name", "module_output_name"):
            if config.get(name) not in (None, wanted):
                raise ModelError(f"{file}: {name} {config[name]!r} is not supported here, only {wanted!r}")
        given = config.get("activation_function", "torch.nn.modules.activation.Tanh")
        activation = _ACTIVATIONS.get(activation_class(given)) if given is not None else "identity"
        if activation is None:
            raise ModelError(f"{file}: activation_function {given!r} is not supported; supported: torch.nn's {', '.join(_ACTIVATIONS)}")
        return DenseSpec(folder, size, out, config.get("bias") is not False, activation, residual=config.get("use_residual") is True)

    def _config(self, folder: str) -> tuple[dict[str, Any], str]:
        name = f"{folder}/config.json"
        config, path = self.source.read_json(name), str(self.source.path / name)
        if config is None:
            raise ModelError(f"{path} is not there, but {MODULES_FILE} names its folder; fetch the model again")
        check_file(config, _KINDS, path)
        return config, path


def _name(module: Mapping[str, Any], path: Any) -> str:
    """The known module that it is."""
    kind = str(module.get("type", ""))
    package, _, name = kind.rpartition(".")
    if (name in _KNOWN and package.startswith(_PACKAGES)) or (name == "Dense" and package.startswith(_PYLATE)):
        return name
    raise ModelError(f"{path}: module {kind!r} is not supported (supported: {', '.join(_KNOWN)} of sentence-transformers)")


def _folder(module: Mapping[str, Any], path: Any) -> str:
    """The module's folder. It comes from a file we do not trust, so it must lie in the model's."""
    folder = module.get("path", "")
    if not is_text(folder) or ".." in PurePosixPath(folder).parts or "\\" in folder or "\0" in folder or folder.startswith("/"):
        raise ModelError(f"{path} names a folder outside the model's: {folder!r}; refused")
    return folder
