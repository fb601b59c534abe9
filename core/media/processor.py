"""A model's processor: transformers' own code for its images, with Pillow and NumPy and so without torchvision.

transformers' faster processors need torchvision, and their pixels differ from these in the last bits; so all runs use the same ones.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, RecordError
from ..spec.vision import Vision
from ..types.media import MediaKind, Medium
from .video_processor import VideoProcessor, needs_number_words

#: What a processor makes of text, which is not the tower's.
_OF_TEXT = frozenset({"input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "text_replacement_offsets", "labels"})


@dataclass(frozen=True, eq=False)
class Processed:
    """One image or video, ready for the tower.

    Args:
        text: what stands in a prompt in the place of its placeholder.
        inputs: tensors by the names of the tower's arguments.
        seconds: from one patch of a video's frames to the next, where that is known.
    """

    text: str
    inputs: Mapping[str, Any]
    seconds: float | None = None

    @property
    def num_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.inputs.values())

    @property
    def grid(self) -> tuple[int, int, int] | None:
        """Patches in time, height and width, of families that count so."""
        found = self.inputs.get("image_grid_thw", self.inputs.get("video_grid_thw"))
        if found is None:
            return None
        frames, height, width = found[0].tolist()
        return frames, height, width


class Processor:
    """
    Args:
        folder: the model's; processor_config.json or preprocessor_config.json and its tokenizer are read.
        name: the model as the user knows it.

    Raises ModelError where transformers cannot make one of the files.
    """

    def __init__(self, folder: Path, name: str, vision: Vision) -> None:
        module, _, class_name = vision.processor.rpartition(".")
        package = _module(module)
        self._lacks_words = needs_number_words(package)
        if getattr(package, "num2words", True) is None:
            package.num2words = str  # SmolVLM's spells numbers with it in prompts of videos, and is not made without
        kind = getattr(package, class_name)
        try:
            self._processor = _made(kind, str(folder))
        except Exception as error:  # each class reads its files in its own way
            raise ModelError(f"{name}: transformers cannot make its {class_name}: {_first_line(error)}") from error
        self.placeholder: str = self._processor.image_token
        """What stands for an image in the text of a prompt."""
        self._videos = VideoProcessor(self._processor, folder, vision.video) if vision.video else None

    def placeholder_of(self, kind: MediaKind) -> str:
        """What stands for a medium of this kind in the text of a prompt."""
        return self._videos.placeholder if kind == "video" and self._videos is not None else self.placeholder

    def of(self, medium: Medium, options: Mapping[str, Any]) -> Processed:
        """Of an image or a video. Raises RecordError (media_error, unsupported)."""
        if medium.kind != "video":
            return self(medium.data, options)
        assert self._videos is not None, "others are refused"
        if self._lacks_words is not None:
            raise self._lacks_words
        try:
            return Processed(*self._videos(medium.data, medium.times, options))
        except MemoryError:
            raise
        except Exception as error:
            raise _refused(error, options, "a video") from error

    def framed(self, prompt: str, images: Sequence[Any]) -> str:
        """A prompt with what the family puts around its text, and a placeholder for each image. Raises RecordError (media_error)."""
        try:
            _, texts, *_ = self._processor.prepare_inputs_layout(images=[list(images)], text=[prompt])
        except (TypeError, ValueError) as error:
            raise RecordError("media_error", f"the model's processor refuses the prompt: {_first_line(error)}") from error
        return str(texts[0])

    def __call__(self, image: Any, options: Mapping[str, Any]) -> Processed:
        """Of a PIL image. Raises RecordError (media_error) for what the model's processor refuses.

        Args:
            options: more arguments of transformers' processor (`mm_processor_kwargs`).
        """
        told = {**options, "return_tensors": "pt", "return_text_replacement_offsets": True}
        try:
            made = self._processor(images=[image], text=[self.placeholder], **told)
        except MemoryError:
            raise
        except Exception as error:  # their classes check options in ways of their own
            raise _refused(error, options) from error
        (replaced,) = made["text_replacement_offsets"][0]
        return Processed(replaced["replacement"], {key: value for key, value in made.items() if key not in _OF_TEXT})


class ImageProcessor:
    """The processor of a model whose images stand in no prompt. Arguments and errors as of `Processor`."""

    def placeholder_of(self, kind: MediaKind) -> str:
        """Nothing stands for media."""
        return ""

    def of(self, medium: Medium, options: Mapping[str, Any]) -> Processed:
        """Of an image."""
        return self(medium.data, options)

    def framed(self, prompt: str, images: Sequence[Any]) -> str:
        """The prompt itself."""
        return prompt

    def __init__(self, folder: Path, name: str) -> None:
        from transformers import AutoImageProcessor

        try:
            self._processor = AutoImageProcessor.from_pretrained(str(folder), backend="pil", local_files_only=True, trust_remote_code=False)
        except Exception as error:  # each class reads its files in its own way
            raise ModelError(f"{name}: transformers cannot make its image processor: {_first_line(error)}") from error

    def __call__(self, image: Any, options: Mapping[str, Any]) -> Processed:
        try:
            made = self._processor(images=[image], **{**options, "return_tensors": "pt"})
        except MemoryError:
            raise
        except Exception as error:  # their classes check options in ways of their own
            raise _refused(error, options) from error
        return Processed("", dict(made.items()))


def _refused(error: BaseException, options: Mapping[str, Any], what: str = "an image") -> RecordError:
    more = f" (mm_processor_kwargs: {', '.join(options)})" if options else ""
    return RecordError("media_error", f"the model's processor refuses {what}{more}: {_first_line(error)}")


def _module(name: str) -> Any:
    """transformers' module of a processor. Pixtral's asks a module that needs torchvision for a function, which its twin has too."""
    wanted = f"transformers.models.{name}"
    try:
        return importlib.import_module(f"{wanted}.processing_{name}")
    except ModuleNotFoundError as error:
        if error.name != "torchvision":
            raise
    needs, twin = f"{wanted}.image_processing_{name}", f"{wanted}.image_processing_pil_{name}"
    sys.modules[needs] = importlib.import_module(twin)
    try:
        return importlib.import_module(f"{wanted}.processing_{name}")
    finally:
        del sys.modules[needs]


def _made(kind: Any, folder: str) -> Any:
    """As `from_pretrained` does, but for video: what reads that needs torchvision, and is not asked here."""
    from transformers import AutoImageProcessor, AutoTokenizer

    arguments, _ = kind.get_processor_dict(folder, local_files_only=True)
    parts: dict[str, Any] = {}
    for attribute in kind.get_attributes():
        if attribute == "image_processor":
            parts[attribute] = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True, trust_remote_code=False)
        elif attribute == "tokenizer":
            parts[attribute] = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        else:
            parts[attribute] = None

    class WithoutVideo(kind):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    WithoutVideo.__name__ = kind.__name__
    WithoutVideo.get_attributes = kind.get_attributes
    return WithoutVideo.from_args_and_dict([parts[name] for name in kind.get_attributes()], arguments)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
