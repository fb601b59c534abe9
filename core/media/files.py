"""Files of a model's folder that say how its images are processed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..settings.config import EngineConfig
    from ..spec.model_spec import ModelSpec
    from ..weights.source import ModelSource

#: One of which is there.
FILES = ("processor_config.json", "preprocessor_config.json")
#: What says how videos are, in some folders.
VIDEO_FILE = "video_preprocessor_config.json"


def takes_sounds(config: EngineConfig, source: ModelSource, spec: ModelSpec) -> bool:
    """True if records may have sounds to transcribe."""
    ours = spec.tower_positions > 0 and spec.in_our_code(config.model_impl)
    return ours and source.path.is_dir() and any((source.path / name).is_file() for name in FILES)


def takes_images(config: EngineConfig, source: ModelSource, spec: ModelSpec) -> bool:
    """True if images may go into prompts, or stand beside texts. A folder without the files of a processor is used for text alone."""
    ours = spec.towers is not None or (spec.images is not None and spec.in_our_code(config.model_impl))
    return ours and source.path.is_dir() and any((source.path / name).is_file() for name in FILES)
