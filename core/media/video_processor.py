"""Videos for a model's tower: frames by the family's image processor, and text by its processor, both transformers'.

transformers' own processors of videos need torchvision, and make the same of frames but for the last bits of pixels.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..errors import ModelError, RecordError
from .files import VIDEO_FILE

if TYPE_CHECKING:
    from torch import Tensor

#: Files that say how videos are processed, and the key they stand under, the newest first.
_FILES = (("processor_config.json", "video_processor"), (VIDEO_FILE, ""), ("preprocessor_config.json", ""))
#: Frames a second of videos that nothing is known of, as in transformers.
_RATE = 24.0


class VideoProcessor:
    """
    Args:
        processor: transformers' processor of the model, with an image processor.
        folder: the model's.
        kind: see `Vision.video`.

    Raises ModelError.
    """

    def __init__(self, processor: Any, folder: Path, kind: str) -> None:
        self._kind, self._images = kind, processor.image_processor
        self.placeholder: str = processor.video_token
        """What stands for a video in the text of a prompt."""
        settings = _settings(folder)
        self._size = settings.get("size") or dict(self._images.size)
        low, high = settings.get("min_pixels"), settings.get("max_pixels")
        if low is not None and high is not None:
            self._size = {"shortest_edge": low, "longest_edge": high}
        if (sampling := settings.get("video_sampling")) is not None:
            self._size = sampling["video_size"]
        self._together = int(settings.get("temporal_patch_size", getattr(self._images, "temporal_patch_size", 1)))
        self._writer = copy.copy(processor)  # it writes what stands for a video, and asks what processes videos for these two
        merge = int(settings.get("merge_size", getattr(self._images, "merge_size", 1)))
        self._writer.video_processor = SimpleNamespace(merge_size=merge, temporal_patch_size=self._together)

    def __call__(
        self, frames: Sequence[Any], times: Sequence[float] | None, options: Mapping[str, Any]
    ) -> tuple[str, dict[str, Any], float | None]:
        """(what stands in a prompt in the place of its placeholder, tensors by the names of the tower's arguments, seconds from one
        patch of frames to the next if that is known).

        Args:
            frames: PIL images.
            times: of each, in seconds.
            options: more arguments of transformers' image processor.

        Raises what transformers' code raises, and ValueError for frames of several sizes.
        """
        if len({frame.size for frame in frames}) > 1:
            raise ValueError("the frames of a video have to be of one size")
        inputs = self._patches(frames, options) if "grid" in self._kind else self._whole(frames, options)
        when = [i / _RATE for i in range(len(frames))] if times is None else list(times)
        metadata = SimpleNamespace(fps=1.0, frames_indices=list(when), timestamps=when, duration=None)
        text = self._writer.replace_video_token({**inputs, "video_metadata": [metadata]}, 0)
        if self._kind == "frames":
            inputs["pixel_values"] = inputs.pop("pixel_values_videos")[0]
        apart = (times[-1] - times[0]) / (len(times) - 1) if times is not None and len(times) > 1 else None
        return text, inputs, None if apart is None else self._together * apart

    def _patches(self, frames: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Patches of as many frames each as the tower takes together; the last frame stands for those that are missing."""
        import torch

        together = self._together
        frames = [*frames, *([frames[-1]] * (-len(frames) % together))]
        size = dict(self._size)
        if self._kind == "shared grid":  # limits are of all frames
            size = {name: max(1, int(pixels) // len(frames)) for name, pixels in size.items()}
        made = self._images(images=frames, return_tensors="pt", **{"size": size, **options})
        grid = made["image_grid_thw"]
        count = int(grid[0, 1] * grid[0, 2])
        # [frames, patches, channels, frames together, pixels]: what one image is made of has itself in all places of the fourth.
        each = made["pixel_values"].view(len(frames), count, -1, together, self._images.patch_size**2)
        several = each[:, :, :, 0].unflatten(0, (-1, together)).permute(0, 2, 3, 1, 4)
        several = several.reshape(len(frames) // together * count, -1).contiguous()
        return {"pixel_values_videos": several, "video_grid_thw": torch.tensor([[len(frames) // together, *grid[0, 1:].tolist()]])}

    def _whole(self, frames: Sequence[Any], options: Mapping[str, Any]) -> dict[str, Tensor]:
        """Each frame as an image in one piece."""
        told = {"size": self._size, **options}
        if self._kind == "frames":
            made = self._images(images=list(frames), return_tensors="pt", crop_to_patches=False, **told)
            return {"pixel_values_videos": made["pixel_values"][None]}
        made = self._images(images=[list(frames)], return_tensors="pt", do_image_splitting=False, **told)
        return {name: made[name] for name in ("pixel_values", "pixel_attention_mask") if name in made}


def _settings(folder: Path) -> Mapping[str, Any]:
    """What the first of the files says. Raises ModelError."""
    for name, key in _FILES:
        try:
            found = json.loads((folder / name).read_bytes())
            found = found[key] if key else found
        except (FileNotFoundError, KeyError):
            continue
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder / name} cannot be read: {error}") from error
        if isinstance(found, Mapping):
            return found
    return {}


def needs_number_words(package: Any) -> RecordError | None:
    """The error of a video where its processor spells numbers and cannot; `package`: the module of that, before it is told otherwise."""
    if getattr(package, "num2words", True) is not None:
        return None
    return RecordError("unsupported", "this model's prompts for videos spell numbers with num2words: pip install num2words")
