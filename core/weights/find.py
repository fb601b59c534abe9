"""Finding the model that `--model` means: a short name, a folder, a .gguf file, a URL of either, or a hub id."""

from __future__ import annotations

import logging
from pathlib import Path

from ..errors import ConfigError, ModelError, nearest
from ..remote.url import is_remote, shown
from .aliases import aliases, cache_folder
from .folder import FolderSource
from .gguf.file import MAGIC
from .hub import TOKENIZERS, UNWANTED, is_hub_id, snapshot
from .source import ModelSource

log = logging.getLogger(__name__)


def find(
    model: str,
    *,
    revision: str | None = None,
    download_dir: str | None = None,
    hf_token: str | bool | None = None,
    with_code: bool = False,
    tokenizer_only: bool = False,
) -> ModelSource:
    """Finds a model without reading its weights; `tokenizer_only`: or a folder, here or on the hub, with nothing but a tokenizer.

    A short name goes first (write ./NAME for a folder of that name), then what is on the disk, then the hub. What a URL names is
    fetched into the cache first.
    `revision`, `download_dir`, `hf_token` and `with_code` (the model's Python files too) are for the hub alone. Raises ModelError
    saying what to try next.
    """
    if not model:
        raise ConfigError("no model is given; set --model to a short name (infer models list), a folder, a .gguf file or a hub id")
    source = _remote(model, tokenizer_only=tokenizer_only) if is_remote(model) else _local(model, tokenizer_only=tokenizer_only)
    if source is not None:
        if revision is not None:
            log.warning("revision %s has no effect: %s is not a hub model", revision, model)
        return source
    if is_hub_id(model):
        options = {"with_code": with_code, "tokenizer_only": tokenizer_only}
        return FolderSource(model, snapshot(model, revision=revision, cache_dir=download_dir, token=hf_token, **options))
    if "/" in model or model.endswith(".gguf"):
        raise ModelError(f"there is no folder or .gguf file {model!r}")
    known = aliases()
    names = f"short names: {', '.join(known)}; else a folder, a .gguf file, or a hub id such as org/name"
    raise ModelError(f"unknown model {model!r}{nearest(model, known)} ({names})")


def own_name(source: ModelSource) -> str:
    """The name of a model in answers, however it was spelled: a short name, a hub id, or the name of its folder or file."""
    path = source.path.resolve()
    for name, alias in aliases().items():
        if path == alias.path.resolve():
            return name
    if path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--"):  # the hub's cache
        return path.parent.parent.name.removeprefix("models--").replace("--", "/")
    return path.name.encode(errors="backslashreplace").decode()


def _local(model: str, *, tokenizer_only: bool) -> ModelSource | None:
    if alias := aliases().get(model):
        if not alias.is_fetched():
            raise ModelError(f"{model} is not fetched yet; run: infer models get {model}")
        return FolderSource(model, alias.path)
    try:
        path = Path(model).expanduser()
        if path.is_dir():
            return _folder(model, path, tokenizer_only=tokenizer_only)
        if path.is_file():
            return _file(model, path)
    except (OSError, RuntimeError) as e:
        raise ModelError(f"cannot read {model!r}: {getattr(e, 'strerror', None) or e}") from e
    return None


def _remote(model: str, *, tokenizer_only: bool) -> ModelSource:
    from ..remote.folder import mirror

    path = mirror(model, cache_folder().with_name("remote"), leave=UNWANTED)
    return _folder(shown(model), path, tokenizer_only=tokenizer_only) if path.is_dir() else _file(shown(model), path)


def _folder(model: str, path: Path, *, tokenizer_only: bool) -> ModelSource:
    if (path / "config.json").is_file():
        return FolderSource(model, path)
    if tokenizer_only:
        if any((path / name).is_file() for name in (*TOKENIZERS, "tokenizer_config.json")):
            return FolderSource(model, path)
        raise ModelError(f"{path} is no tokenizer folder: it has neither tokenizer.json nor tokenizer_config.json")
    if ggufs := sorted(path.glob("*.gguf")):
        raise ModelError(f"{path} has no config.json, but GGUF files: give the one you mean, {ggufs[0]}")
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path} holds a LoRA adapter, not a model: give its base model as --model")
    raise ModelError(f"{path} is not a model folder: it has no config.json")


def _file(model: str, path: Path) -> ModelSource:
    with path.open("rb") as f:
        is_gguf = f.read(len(MAGIC)) == MAGIC
    if is_gguf or path.suffix == ".gguf":  # a damaged .gguf is told so when it is read
        from .gguf.source import GgufSource

        return GgufSource(model, path)
    if path.suffix in {".safetensors", ".json"}:
        raise ModelError(f"{path} is one file of a model: give the folder it lies in, {path.parent}")
    if path.suffix in {".bin", ".pt", ".pth", ".ckpt"}:
        raise ModelError(f"{path} is a pickle file, which can run code when read, so it is refused; give a folder with safetensors")
    raise ModelError(f"{path} is not a model: give a folder with config.json or a .gguf file")
