"""The processor and the tower of a model that reads images; both are loaded when the first image comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ..media.files import takes_images
from ..media.loader import MediaLoader
from ..media.policy import MediaPolicy
from ..media.store import MediaStore

if TYPE_CHECKING:
    from torch import Tensor

    from ..media.processor import ImageProcessor, Processor
    from ..settings.config import EngineConfig
    from ..spec.model_spec import ModelSpec
    from ..weights.source import ModelSource


def media_store(config: EngineConfig, source: ModelSource, spec: ModelSpec) -> MediaStore | None:
    """The store of its media; None for a model that takes none."""
    images, towers = spec.images, spec.towers
    if not takes_images(config, source, spec):
        return None

    def make_processor() -> Processor | ImageProcessor:
        from ..media.processor import ImageProcessor, Processor

        return ImageProcessor(source.path, source.name) if images is None else Processor(source.path, source.name, images.vision)

    def load_tower() -> Callable[[Mapping[str, Tensor]], Tensor]:
        from infer import kernels

        from ..models.hf import image_tower, tower
        from .generating import DTYPES, device_of

        seed: Any = config.seed if config.load_format == "dummy" else None
        load = tower.load if towers is None else image_tower.load
        return load(source, spec.config, kernels.load(config.kernels), DTYPES[config.dtype], device_of(config, 0), dummy_seed=seed)

    width = spec.hidden_size if towers is None else towers.size(spec.config)
    assert width is not None
    return MediaStore(MediaLoader(MediaPolicy.of(config)), width, make_processor, load_tower)
