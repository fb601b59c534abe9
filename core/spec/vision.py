"""Vision: how images enter a family's language model, or stand beside its texts, beside what its config.json says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from ..errors import ModelError

#: Keys of the token that stands for a piece of an image, newest first.
_TOKEN_KEYS = ("image_token_id", "image_token_index")
#: Tensors beside the layers of the text tower of a model of two: its projection, the other tower, and what makes scores of cosines.
BESIDE = ("vision_model.", "visual_projection.", "text_projection.", "text_model.head.", "head.", "logit_scale", "logit_bias")
_VIDEO_KEYS = ("video_token_id", "video_token_index")


@dataclass(frozen=True, kw_only=True)
class Vision:
    """Said by the file of a wrapper.

    Args:
        processor: transformers' processor of it, "module.Class" within `transformers.models`.
        token: of the tokens that stand for images, where config.json names none.
        rope: parameters of rotation that config.json may leave out, of families whose images have a grid of positions in three parts.
        video: as what it takes the frames of a video: "", it takes none; "grid", patches of neighbouring frames, each as large as an image;
            "shared grid", those of all frames together as large as that; "frames", images that are not cut into tiles, one after the other;
            "batch", such images side by side.
        video_token: as `token`, of videos; None: their pieces are those of images.
        pace: positions in time that a second takes, where config.json does not say (`tokens_per_second`); 0: a patch takes one.
        processors: others than `processor`, by the model_type of a tower.
        sees: the tokens that see each other in both directions: those of each "image", or in prompts with images all of the "prompt".
        frames_text: its processor puts more than images into a prompt, special tokens among it.
    """

    processor: str
    token: int | None = None
    rope: Mapping[str, Any] = field(default_factory=dict)
    video: Literal["", "grid", "shared grid", "frames", "batch"] = ""
    video_token: int | None = None
    pace: float = 0.0
    processors: Mapping[str, str] = field(default_factory=dict)
    sees: Literal["", "image", "prompt"] = ""
    frames_text: bool = False


@dataclass(frozen=True, kw_only=True)
class Images:
    """What a model with a tower takes of images.

    Args:
        vision: of its family.
        token: the id of the tokens in whose places their embeddings go.
        merge: patches of a side that become one token, where images have grids.
        video_token: the same as `token` of videos.
        pace: positions in time that a second of a video takes; 0: a patch takes one.
    """

    vision: Vision
    token: int
    merge: int = 1
    video_token: int = -1
    pace: float = 0.0

    def token_of(self, kind: str) -> int:
        """Of media of a kind."""
        return self.video_token if kind == "video" else self.token


def images_of(hf: Mapping[str, Any], vision: Vision | None) -> Images | None:
    """None for a model without a tower, as far as config.json tells."""
    tower = hf.get("vision_config")
    if vision is None or not isinstance(tower, Mapping):
        return None
    token = next((value for key in _TOKEN_KEYS if type(value := hf.get(key)) is int), vision.token)
    if token is None:
        return None
    layers = (hf.get("text_config") or hf).get("num_hidden_layers")
    if isinstance(deep := tower.get("deepstack_visual_indexes"), list) and isinstance(layers, int) and len(deep) >= layers:
        raise ModelError(f"config.json: deepstack_visual_indexes has {len(deep)} entries, and the language model {layers} layers")
    if (other := vision.processors.get(str(tower.get("model_type")))) is not None:
        vision = replace(vision, processor=other)
    merge = tower.get("spatial_merge_size", 2)
    video_token = next((value for key in _VIDEO_KEYS if type(value := hf.get(key)) is int), vision.video_token)
    pace = tower.get("tokens_per_second", vision.pace) if vision.pace else 0
    return Images(
        vision=vision,
        token=token,
        merge=merge if type(merge) is int and merge > 0 else 1,
        video_token=token if vision.video_token is None or video_token is None else video_token,
        pace=float(pace) if isinstance(pace, (int, float)) else vision.pace,
    )


@dataclass(frozen=True, kw_only=True)
class TwoTowers:
    """Of a model that makes vectors of texts and of images, which are compared with each other.

    Args:
        projection: prefix of the tensors that make a vector of a text's pooled state.
        projection_bias: it has a bias.
        size_key: the key of the vectors' size in config.json, or else in its text_config (hidden_size where that says nothing).
        fills: texts are filled up to the longest one with padding tokens, which are seen like all others.
        activation: what makes probabilities of scores, "softmax" among several texts or "sigmoid" of each.
    """

    projection: str
    projection_bias: bool
    size_key: str
    fills: bool
    activation: str

    def size(self, hf: Mapping[str, Any]) -> int:
        """Length of vectors. Raises ModelError."""
        text = hf.get("text_config") or {}
        found = hf.get(self.size_key) or text.get(self.size_key) or (text.get("hidden_size", 768) if self.fills else 512)
        if type(found) is not int or found < 1:
            raise ModelError(f"config.json: {self.size_key} is {found!r}, not a size")
        return found


def num_image_tokens(hf: Mapping[str, Any]) -> int:
    """Pieces that the tower of images cuts one into, about: what an image counts as in limits of steps and in usage."""
    vision = hf.get("vision_config") or {}
    if type(pieces := vision.get("num_patches")) is int and pieces > 0:
        return pieces
    size, patch = vision.get("image_size", 224), vision.get("patch_size", 16)
    good = type(size) is int and type(patch) is int and size >= patch > 0
    return (size // patch) ** 2 if good else 256
