"""Device, kernels and dtype: each is decided once, and why is said in `notes`, a list of sentences shown once.

torch is imported inside the functions, never when this file is.
"""

from __future__ import annotations

import sys

from ..errors import ConfigError, nearest
from ..spec.model_spec import ModelSpec
from ..spec.read import DTYPE_NAMES
from .config import Caution


def choose_device(device: str, notes: list[str]) -> str:
    """`auto`, `cpu`, `cuda` or `cuda:N` -> "cpu" or "cuda:N". Raises ConfigError if there is no such GPU."""
    if device == "cpu":
        return device
    import torch

    if not torch.cuda.is_available():
        if device == "auto":
            notes.append("device: cpu (torch sees no GPU)")
            return "cpu"
        built = "it sees none" if torch.version.cuda or torch.version.hip else "this torch is built without CUDA"
        raise ConfigError(f"device={device}: torch cannot use a GPU here: {built}; try device=cpu")
    index = int(device.partition(":")[2] or torch.cuda.current_device())
    if index >= torch.cuda.device_count():
        raise ConfigError(f"device={device}: there are {torch.cuda.device_count()} GPUs, numbered from 0")
    notes.append(f"device: cuda:{index} ({torch.cuda.get_device_name(index)})")
    return f"cuda:{index}"


#: A GPU with so much memory has room for the contexts of more sequences than `max_num_seqs` says, and is not full with fewer.
LARGE_MEMORY, MOST_IN_LARGE_MEMORY = 70 << 30, 1024


def default_tokens(device: str, *, pools: bool) -> int:
    """Tokens of one step where nothing is said. A step of texts keeps nothing for the next, so a GPU takes as many as it has room for."""
    if device == "cpu":
        return 4096 if pools else 2048
    if pools:
        return 65536 if _is_large(device) else 16384
    return 8192


def choose_num_seqs(default: int, device: str, notes: list[str]) -> int:
    """Sequences in one step where nothing is said."""
    if device == "cpu" or not _is_large(device):
        return default
    notes.append(f"max_num_seqs: {MOST_IN_LARGE_MEMORY}, for a GPU with {LARGE_MEMORY >> 30} GiB or more")
    return MOST_IN_LARGE_MEMORY


def _is_large(device: str) -> bool:
    import torch

    return torch.cuda.get_device_properties(device).total_memory >= LARGE_MEMORY


def check_gpus(device: str, *, tensor_parallel_size: int, pipeline_parallel_size: int, data_parallel_size: int) -> None:
    """Raises ConfigError if there are too few GPUs: each rank takes one, in order from `device`."""
    needed = tensor_parallel_size * pipeline_parallel_size * data_parallel_size
    if device == "cpu" or needed == 1:
        return
    import torch

    there = torch.cuda.device_count() - int(device.partition(":")[2])
    if needed > there:
        stages = f", pipeline_parallel_size={pipeline_parallel_size}" if pipeline_parallel_size > 1 else ""
        sizes = f"tensor_parallel_size={tensor_parallel_size}{stages} and data_parallel_size={data_parallel_size}"
        raise ConfigError(f"{sizes} take {needed} GPUs, and from {device} on there are {there}; lower them, or take device=cpu")


def choose_kernels(kernels: str, device: str, notes: list[str], *, require: bool, build: bool) -> tuple[str, str | None]:
    """The kernel backend, and which build of it where it is compiled (two builds may round differently).

    Args:
        require: the slow reference kernels will not do.
        build: compile the CPU's if need be, and take the reference kernels if that cannot be done; else `auto` is a guess.

    Raises ConfigError for a backend there is not, or that cannot be had here.
    """
    from infer.kernels import available, usable

    known = available()
    if kernels not in ("auto", *known):
        raise ConfigError(f"unknown kernels {kernels!r}{nearest(kernels, known)}; available: {', '.join(known)}")
    kind = device.partition(":")[0]
    if kernels not in ("auto", *usable(kind)):
        raise ConfigError(f"kernels={kernels} cannot run on {device}; leave it out, or take device={kernels}")
    if require and kernels == "reference":
        raise ConfigError("require_kernels contradicts kernels=reference; leave one of the two out")
    if kernels == "reference":
        return kernels, None
    found, why = _triton(device) if kind == "cuda" else _compiled() if build else (None, "")
    if why:
        if require or kernels != "auto":
            raise ConfigError(f"{'require_kernels' if require else f'kernels={kernels}'}: {why}")
        notes.append(Caution(f"kernels: reference, which is much slower ({why})"))
        return "reference", None
    return kind, found


def _compiled() -> tuple[str | None, str]:
    """(which build of the CPU kernels, why there is none), made now if need be."""
    from infer.kernels.cpu import gemm
    from infer.kernels.cpu.library import BuildError, library

    try:
        digest = library().digest
    except BuildError as error:
        return None, str(error)
    return f"{gemm.instructions().compiler}, {digest}", ""


def _triton(device: str) -> tuple[str | None, str]:
    """(which compiler makes the kernels of that GPU, why none can). They are made as they are met, in seconds all together."""
    import torch

    if not torch.version.hip and (capability := torch.cuda.get_device_capability(device)) < (8, 0):
        return None, f"this GPU has compute capability {capability[0]}.{capability[1]}, and the Triton kernels need 8.0"
    try:
        from infer.kernels.cuda.build import digest, lacking
    except Exception as error:  # whatever a broken installation raises
        return None, f"triton cannot be used: {error}; pip install 'triton>=3.4'"
    return (None, why) if (why := lacking()) else (digest(), "")


def choose_dtype(dtype: str, spec: ModelSpec, device: str, notes: list[str]) -> str:
    """float32, float16 or bfloat16. Raises ConfigError for one this device or model cannot use."""
    stated = spec.dtype
    cuda = device.startswith("cuda")
    fast = has_bfloat16(device)
    narrow = "float16" in spec.unsafe_dtypes
    if dtype != "auto":
        chosen = DTYPE_NAMES.get(dtype, dtype)
        _check_dtype(chosen, device, narrow=narrow, fast=fast)
        if chosen == "bfloat16" and not fast:
            notes.append(Caution(f"dtype: bfloat16 is slow on this CPU, {_dot_products(fast)}"))
        if chosen != stated:
            notes.append(f"dtype: {chosen} (the checkpoint has {stated or 'no dtype'})")
        return chosen

    name = f"a {stated} checkpoint" if stated else "a checkpoint that states no dtype"
    if cuda:
        half = "bfloat16" if narrow and fast else "float32" if narrow else "float16"
        chosen = "bfloat16" if stated == "bfloat16" and fast else half
        reason = "the checkpoint's" if chosen == stated else f"{name} on this GPU"
    elif stated in ("bfloat16", "float16") or fast:
        chosen = "bfloat16" if fast else "float32"
        reason = "the checkpoint's" if chosen == stated else f"{name} on a CPU {_dot_products(fast)}"
    else:
        chosen, reason = "float32", "the checkpoint's" if stated else f"{name} on this CPU"
    notes.append(f"dtype: {chosen} ({reason})")
    return chosen


def usual_dtype(device: str) -> tuple[str, str]:
    """What dtype=auto is for a bfloat16 checkpoint here, as most are, and why."""
    if device.startswith("cuda"):
        if has_bfloat16(device):
            return "bfloat16", "a checkpoint in bfloat16 stays so on this GPU"
        return "float16", "this GPU has no bfloat16"
    if has_bfloat16(device):
        return "bfloat16", "this CPU has bfloat16 dot products"
    return "float32", "this CPU has no bfloat16 dot products"


def has_bfloat16(device: str) -> bool:
    """True if the device multiplies bfloat16 natively. A CPU's kernels are asked once loaded: a compiler may not know all it can."""
    if device.startswith("cuda"):
        import torch

        return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8
    from infer.kernels.features import BFLOAT16, features

    there = features() & BFLOAT16
    library = sys.modules.get("infer.kernels.cpu.library")  # which imports torch
    if not there or "amx_bf16" in there or library is None or not library.is_loaded():  # products of AMX are a library's
        return bool(there)
    import torch

    from infer.kernels.cpu.gemm import multiplies

    return multiplies(torch.bfloat16)


def _dot_products(fast: bool) -> str:
    """Says of a CPU if it has them, or else if it is the kernels that lack them."""
    from infer.kernels.features import BFLOAT16, features

    if fast:
        return "which has bfloat16 dot products"
    return (
        "whose bfloat16 dot products the compiler of its kernels does not know"
        if features() & BFLOAT16
        else "which has no bfloat16 dot products"
    )


def instruction_set(device: str) -> str:
    """The hardware that the device computes with: two that differ may round differently."""
    import torch

    return str(torch.backends.cpu.get_cpu_capability()) if device == "cpu" else torch.cuda.get_device_name(device)


def _check_dtype(dtype: str, device: str, *, narrow: bool, fast: bool) -> None:
    if dtype == "float16" and narrow:
        raise ConfigError("dtype=float16: this model's activations do not fit float16; use bfloat16 or float32")
    if dtype == "bfloat16" and device.startswith("cuda") and not fast:
        raise ConfigError("dtype=bfloat16: this GPU has no bfloat16 (it needs compute capability 8.0); use float16")
    if dtype == "float16" and device == "cpu":
        import torch

        try:
            torch.nn.functional.linear(torch.zeros(2, 16, dtype=torch.float16), torch.zeros(4, 16, dtype=torch.float16))
        except RuntimeError as error:
            raise ConfigError(f"dtype=float16: torch cannot multiply float16 on this CPU ({error}); use bfloat16 or float32") from None
