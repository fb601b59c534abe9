"""Models on the Hugging Face hub, through huggingface_hub and its usual environment variables."""

from __future__ import annotations

import errno
import json
import logging
import re
import shutil
from pathlib import Path

from ..errors import ModelError, OutputError
from .folder import INDEX, SINGLE
from .remote_code import CONFIGS, named_code

log = logging.getLogger(__name__)

WANTED = ["*.json", "*.safetensors", "*.model", "*.jinja", "*.txt"]
#: Python code that comes with a model, and what such tokenizers read; fetched only for who lets it run.
CODE = ["*.py", "*.tiktoken"]
WEIGHTS = ("*.safetensors",)
#: Second copies of the weights in other layouts.
UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
#: Ids without an organization, which the oldest models have and no new one can get. Others of that form are no ids, so that a
#: misspelled name asks no network.
OLDEST = frozenset(
    {
        "albert-base-v1",
        "albert-base-v2",
        "albert-large-v2",
        "bert-base-cased",
        "bert-base-chinese",
        "bert-base-german-cased",
        "bert-base-multilingual-cased",
        "bert-base-multilingual-uncased",
        "bert-base-uncased",
        "bert-large-cased",
        "bert-large-uncased",
        "camembert-base",
        "distilbert-base-cased",
        "distilbert-base-multilingual-cased",
        "distilbert-base-uncased",
        "distilbert-base-uncased-finetuned-sst-2-english",
        "distilgpt2",
        "distilroberta-base",
        "gpt2",
        "gpt2-large",
        "gpt2-medium",
        "gpt2-xl",
        "roberta-base",
        "roberta-large",
        "roberta-large-mnli",
        "xlm-roberta-base",
        "xlm-roberta-large",
    }
)


def is_hub_id(name: str) -> bool:
    """True if `name` has the form org/name, or is one of the oldest models, which have no organization (gpt2)."""
    return name in OLDEST or (_ID.fullmatch(name) is not None and not name.endswith(".gguf"))


def remove(repo: str, cache_dir: str | None = None) -> int | None:
    """Takes a model out of the local cache, in all revisions; returns the bytes that are free now, None if it was not there.

    Raises OutputError if that cannot be done.
    """
    import huggingface_hub
    from huggingface_hub.errors import CacheNotFound

    try:
        cached = huggingface_hub.scan_cache_dir(cache_dir)
    except CacheNotFound:
        return None
    for one in cached.repos:
        if one.repo_id == repo and one.repo_type == "model":
            try:
                shutil.rmtree(one.repo_path)  # by its revisions it could be another: copies of a model have the same
            except OSError as e:
                raise OutputError(f"cannot remove {repo} from {one.repo_path}: {e.strerror or e}") from e
            return one.size_on_disk
    return None


def snapshot(
    repo: str,
    *,
    revision: str | None = None,
    cache_dir: str | None = None,
    token: str | bool | None = None,
    with_code: bool = False,
    tokenizer_only: bool = False,
) -> Path:
    """The folder of a hub model: from the local cache if it is whole there, else downloaded, unless told to stay offline.

    `token` None means HF_TOKEN or the stored login; `with_code` fetches the model's Python files too, `tokenizer_only` leaves its
    weights out. Raises ModelError for everything that can go wrong.
    """
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = [pattern for pattern in WANTED if not (tokenizer_only and pattern in WEIGHTS)] + (CODE if with_code else [])
    options = {"revision": revision, "cache_dir": cache_dir, "token": token, "allow_patterns": wanted, "ignore_patterns": UNWANTED}
    where = f"{repo} (revision {revision})" if revision else repo
    lacking: str | None = "everything"
    try:
        cached = Path(huggingface_hub.snapshot_download(repo, local_files_only=True, **options))
        model = None if tokenizer_only else _lacking(cached)
        lacking = model or _lacking_tokenizer(cached) or (_lacking_code(cached) if with_code else None)
        if lacking is None:
            return cached
    except LocalEntryNotFoundError:
        pass
    except Exception as e:
        raise _explained(e, where, token) from e
    if constants.HF_HUB_OFFLINE:  # it stands for TRANSFORMERS_OFFLINE too
        part = "not in the local cache" if lacking == "everything" else f"not whole in the local cache (no {lacking})"
        raise ModelError(f"{where} is {part}, and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE forbids fetching it; unset it and run once")
    log.info("fetching %s from the Hugging Face hub", where)
    try:
        # snapshot_download asks the same first, but waits for ever for a network that swallows packets.
        huggingface_hub.HfApi().model_info(repo, revision=revision, token=token, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        folder = Path(huggingface_hub.snapshot_download(repo, **options))
    except Exception as e:
        raise _explained(e, where, token) from e
    if not tokenizer_only and (lacking := _lacking(folder)):
        raise ModelError(
            f"{where} has no {lacking} on the hub: only models with config.json and safetensors are read "
            "(pickle weights are refused; of a GGUF repository, download one file and give its path)"
        )
    return folder


def _lacking(folder: Path) -> str | None:
    """The first file without which this is no model. An interrupted download leaves a folder like any other."""
    if not (folder / "config.json").exists():
        return "config.json"
    if (folder / SINGLE).exists():
        return None
    if not (folder / INDEX).exists():
        return SINGLE
    try:
        shards = set(json.loads((folder / INDEX).read_bytes())["weight_map"].values())
        return next((str(name) for name in sorted(shards) if not (folder / name).exists()), None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return INDEX


def _lacking_tokenizer(folder: Path) -> str | None:
    return None if any((folder / name).exists() for name in TOKENIZERS) else "tokenizer.json"


def _lacking_code(folder: Path) -> str | None:
    """The first Python file that the model's configs name and the folder does not have."""
    for filename, classes in CONFIGS.items():
        try:
            config = json.loads((folder / filename).read_bytes())
            named = named_code(config, classes, folder.name)
        except (OSError, ValueError, AttributeError, ModelError):
            continue  # no such file, or code elsewhere: it is said when it is needed
        if missing := [file for file in named if not (folder / file).exists()]:
            return missing[0]
    return None


def _explained(e: Exception, where: str, token: str | bool | None) -> ModelError | OutputError:
    """huggingface_hub's errors in one line each. Their texts are long and repeat themselves; none carries the token, but make sure."""
    from huggingface_hub import errors

    if isinstance(e, errors.GatedRepoError):
        return ModelError(f"{where} is gated: ask for access on its page, then log in (hf auth login) or set HF_TOKEN")
    if isinstance(e, errors.RepositoryNotFoundError):
        return ModelError(f"there is no {where} on the hub, nor a folder of that name here; if it is private, log in or set HF_TOKEN")
    if isinstance(e, errors.RevisionNotFoundError):
        return ModelError(f"{where}: the hub has the model, but no such revision")
    if isinstance(e, errors.LocalEntryNotFoundError) or any(word in type(e).__name__ for word in ("Timeout", "Connect", "Proxy")):
        return ModelError(
            f"{where} is neither a folder here nor in the local cache, and the hub cannot be reached; is there a network, a proxy to set?"
        )
    if isinstance(e, OSError) and e.errno in {errno.ENOSPC, errno.EDQUOT}:
        return OutputError(f"no space left while fetching {where}; free some, or set --download-dir or HF_HOME to a folder with room")
    text = f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"
    if isinstance(token, str) and token:
        text = text.replace(token, "***")
    return ModelError(f"cannot fetch {where} from the hub: {text}")
