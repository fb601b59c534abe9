"""Writes any model as a plain Hugging Face folder in bfloat16: what is run of it in float32 then has weights rounded to that."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from .source import ModelSource

SMALL_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_folder(source: ModelSource, folder: Path) -> None:
    """Writes `source` into the empty `folder`. Raises ModelError if it cannot be read, OSError if it cannot be written."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    from .formats.values import as_tensor

    for name in SMALL_FILES:
        if (content := source.read(name)) is not None:
            (folder / name).write_bytes(content)
    tensors = {name: as_tensor(tensor, torch.bfloat16).to(torch.bfloat16).contiguous() for name, tensor in source.stream()}
    path = folder / "model.safetensors"
    try:
        save_file(tensors, path, metadata={"format": "pt"})  # transformers wants to read "pt" there
    except SafetensorError as e:  # it hides the system's error in its text
        code = re.search(r"os error (\d+)", str(e))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number), str(path)) from e
