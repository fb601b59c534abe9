"""From a model's folder to an `HFModel`: whose code runs, weights through transformers, our layers put in."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from infer.kernels.ops import Ops

from ...errors import InferError, ModelError
from ...quant.choice import Choose
from ...spec.model_spec import ModelSpec
from ...spec.rope import ALIASES
from ...spec.support import refuse_quantized, transformers_config
from ...weights.fit import FLOATING, check_weights
from ...weights.remote_code import allow, named_code, refusal
from ...weights.source import ModelSource
from . import experts
from .attention import PREFIX, PagedAttention
from .drawn import check_calls
from .linear import swap_linears, weights_read
from .model import HFModel
from .trial import check_against, tokens_to_try

log = logging.getLogger(__name__)

#: What `auto_map` calls the classes we need.
CLASSES = ("AutoConfig", "AutoModelForCausalLM")
#: Rotary embeddings whose frequencies transformers changes with the longest sequence of a step, and up to which length they stay.
CHANGING = {"dynamic": "max_position_embeddings", "longrope": "original_max_position_embeddings"}


def load(
    source: ModelSource,
    spec: ModelSpec,
    ops: Ops,
    dtype: torch.dtype,
    device: torch.device,
    *,
    choose: Choose | None,
    max_model_len: int,
    trust_remote_code: bool = False,
    dummy_seed: int | None = None,
) -> HFModel:
    """The model with its weights.

    Args:
        source: a folder; transformers reads it without the network.
        spec: what its config.json says.
        choose: how linear layers hold their weights.
        max_model_len: the longest sequence there will be.
        trust_remote_code: Python code in the folder may run; what runs is logged.
        dummy_seed: random weights by this seed instead of the checkpoint's.

    Raises ModelError for what transformers cannot load, for code that may not run, and for models that do more than our paged
    attention does (see `trial.check_against`).
    """
    if not source.path.is_dir():
        raise ModelError(f"{source.name}: transformers can run a model in a Hugging Face folder only")
    refuse_quantized(spec.config, source.name)
    if dummy_seed is None:
        check_weights(source, spec)  # says what is wrong with the files better than transformers
    with quiet(), explained(source), torch.no_grad():
        config, trusted = _config(source, spec.config, trust_remote_code=trust_remote_code)
        _check_rope(config, max_model_len, ours=spec.is_ours and spec.stack is not None)
        attention = PagedAttention(ops)
        whole = _whole(source, config, attention.name, dtype, dummy_seed, trust_remote_code=trusted)
        whole = whole.eval().requires_grad_(False).to(device)
        return _ours(whole, ops, attention, dtype, device, choose)


def _ours(whole: Any, ops: Ops, attention: PagedAttention, dtype: torch.dtype, device: torch.device, choose: Choose | None) -> HFModel:
    head = whole.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.weight.dtype != dtype:
        raise ModelError(f"its output layer is a {type(head).__name__}, not a linear layer of {dtype}")
    tokens = tokens_to_try(whole.config, min(head.out_features, whole.get_input_embeddings().weight.shape[0]), device)
    linears = list(experts.swap_experts(whole, ops, dtype, choose))
    with attention.looking(), weights_read(whole) as read:
        whole(input_ids=tokens[None], use_cache=False)
    swapped, ours = swap_linears(whole, ops, dtype, choose, head, read)
    linears += swapped
    check_calls(attention, len(tokens), device)
    # From here on with the positions that the model itself counts, and linear layers as they will be.
    with attention.looking(), attention.hearing() as heard:
        whole(input_ids=tokens[None], use_cache=False)
    if any(own is None for own in attention.own):
        heard = heard[:1]
    attention.forget()
    _attend_with(whole, "eager")
    expected = whole(input_ids=tokens[None], use_cache=False).logits[0]
    _attend_with(whole, attention.name)
    model = HFModel(whole, ops, attention, linears, ours, tokens)
    check_against(model, expected, heard, dtype)
    return model


def _config(source: ModelSource, hf_config: Mapping[str, Any], *, trust_remote_code: bool) -> tuple[Any, bool]:
    """transformers' config, and whether Python code of the folder runs. Raises ModelError where it would have to and may not."""
    from transformers import AutoConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    kind = hf_config.get("model_type")
    known = kind in CONFIG_MAPPING
    try:
        code = named_code(hf_config, CLASSES, source.name)
    except ModelError:
        if not known:
            raise
        code = []  # it cannot be run, and transformers has code of its own
    trusted = bool(code) and trust_remote_code
    if trusted:
        allow(source.path, code, source.name)
    elif not known:
        if code:
            raise refusal(code, source.name, f"model_type {kind!r}")
        raise ModelError(f"{source.name}: model_type {kind!r} is known neither to us nor to this version of transformers")
    if not trusted:
        return transformers_config(hf_config), False
    config = AutoConfig.from_pretrained(str(source.path), trust_remote_code=True, local_files_only=True)
    if hf_config != source.read_json("config.json"):
        config = type(config).from_dict(copy.deepcopy(dict(hf_config)))  # it changes the mappings within
    return config, True


def _whole(source: ModelSource, config: Any, attention: str, dtype: torch.dtype, seed: int | None, *, trust_remote_code: bool) -> Any:
    """The `...ForCausalLM`. Raises ModelError if the checkpoint does not have all of its weights."""
    from transformers import AutoModelForCausalLM

    options = {"attn_implementation": attention, "trust_remote_code": trust_remote_code}
    if experts.register():
        options["experts_implementation"] = experts.NAME
    if seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return AutoModelForCausalLM.from_config(config, dtype=dtype, **options)
    with torch.device("meta"):
        _check_shapes(AutoModelForCausalLM.from_config(config, dtype=dtype, **options), source)
    whole, said = AutoModelForCausalLM.from_pretrained(
        str(source.path), config=config, dtype=dtype, local_files_only=True, use_safetensors=True, output_loading_info=True, **options
    )
    problems = [f"{len(keys)} {what}: {_some(keys)}" for what in ("missing", "mismatched") if (keys := said.get(f"{what}_keys"))]
    if said.get("error_msgs"):
        problems.append(_some(said["error_msgs"]))
    if problems:
        raise ModelError(f"the weights of {source.name} do not fit its config.json: {'; '.join(problems)}")
    if unused := said.get("unexpected_keys"):
        what = "1 weight" if len(unused) == 1 else f"{len(unused)} weights"
        log.warning("%s of %s not used by transformers' model: %s", what, source.name, _some(unused))
    return whole


def _check_shapes(described: Any, source: ModelSource) -> None:
    """Compares a model without memory with the headers of the weights, before transformers makes room for what does not fit them.

    Raises ModelError.
    """
    stored = source.tensors()
    described = described.state_dict()
    for name, tensor in described.items():
        if name in stored and tensor.is_floating_point() and stored[name].dtype not in FLOATING:
            raise ModelError(
                f"{name} is stored as {stored[name].dtype}, which is no dtype of weights (known: {', '.join(sorted(FLOATING))})"
            )
        if name in stored and stored[name].shape != tuple(tensor.shape):
            what = f"{name} has shape {stored[name].shape}, config.json makes it {tuple(tensor.shape)}"
            raise ModelError(f"the weights of {source.name} do not fit its config.json: {what}")
    makes, has = (sum(math.prod(one.shape) for one in found.values()) for found in (described, stored))
    if makes > 3 * has:  # tied weights count twice, and some are stored under other names or together
        raise ModelError(
            f"the weights of {source.name} do not fit its config.json: they have {has:,} numbers, config.json makes a model of {makes:,}"
        )


def _some(names: Any) -> str:
    shown = sorted(str(name) for name in names)
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5} more" if len(shown) > 5 else "")


def _attend_with(whole: Any, implementation: str) -> None:
    """Sets the attention of the model and all its parts, whose configs may be objects of their own."""
    for module in whole.modules():
        config = getattr(module, "config", None)
        if config is not None and hasattr(config, "_attn_implementation"):
            config._attn_implementation = implementation


def _check_rope(config: Any, max_model_len: int, *, ours: bool) -> None:
    """Raises ModelError where a record's answer would depend on how long its neighbours are, and for kinds of scaling that
    transformers does not have. `ours`: our own code could run it."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = type(config).__module__.startswith("transformers.")  # not code of the folder
    for one in (config, getattr(config, "text_config", None)):
        found = getattr(one, "rope_parameters", None) or getattr(one, "rope_scaling", None) or {}
        for rope in [found, *(found.values() if isinstance(found, Mapping) else ())]:
            kind = (rope.get("rope_type") or rope.get("type")) if isinstance(rope, Mapping) else None
            if theirs and kind is not None and kind not in (*ROPE_INIT_FUNCTIONS, *ALIASES, "default"):
                raise ModelError(f"rope scaling {kind!r} is not known to transformers (known: default, {', '.join(ROPE_INIT_FUNCTIONS)})")
            if kind not in CHANGING:
                continue
            limit = rope.get(CHANGING[kind]) or getattr(one, CHANGING[kind], None) or 0
            if max_model_len > limit:
                shorter = f"set max_model_len={limit} (--max-model-len {limit}) or less"
                raise ModelError(
                    f"rope scaling {kind!r} changes with the longest sequence of a step in transformers' code, beyond {limit} tokens; "
                    f"{'leave out --model-impl transformers, or ' if ours else ''}{shorter}"
                )


@contextlib.contextmanager
def explained(source: ModelSource) -> Iterator[None]:
    """Whatever is raised in transformers' or the model's own code becomes a ModelError, but running out of memory."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except ModelError as error:
        if source.name in str(error):
            raise
        raise ModelError(f"{source.name} cannot run through transformers: {error}") from error
    except InferError:
        raise
    except Exception as error:
        raise ModelError(f"{source.name} cannot run through transformers: {_why(error)}") from error


def _why(error: Exception) -> str:
    """What went wrong in code that is not ours, and what works instead where that can be told."""
    if isinstance(error, KeyError) and error.args:
        key = str(error.args[0])
        if key.startswith(PREFIX):
            return "its code has attention functions of its own and takes no other, so it cannot use a paged cache"
        return f"its code looks for {key!r} and finds nothing: config.json lacks it, or has it as a value that the code does not know"
    if isinstance(error, AttributeError) and type(error.obj).__name__.endswith("Config"):
        return f"its code asks for {error.name!r}, which config.json does not have; add it there, or by --hf-overrides"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars and messages; what matters is said by us."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
