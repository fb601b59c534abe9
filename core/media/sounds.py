"""Windows of sounds for a model's tower: log-mel features by transformers' own extractor, and what the tower makes of each window.

Medium ── features ──> [mel bins, frames] of the whole sound, kept by content
       ── embeds ────> hidden states [positions, features] of one window, the last used as far as they fit
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from ..types.media import MediaPart, Medium
from ..types.placed import Placed, media_key
from .kept import Kept
from .resample import resampled
from .store import MediaStore

if TYPE_CHECKING:
    from torch import Tensor

    from .loader import MediaLoader

#: Bytes of features that are kept: a sound is read again for a window whose features were let go.
MOST_FEATURES = 256 << 20
#: The option of a placed sound that says at which frame its window begins.
_START = "first_frame"


class SoundFeatures:
    """
    Args:
        folder: the model's, whose preprocessor_config.json is read.
        name: the model as the user knows it.
        window, bins: frames that the tower reads at once, and the features of each.

    Raises ModelError where transformers cannot make an extractor of the file, or it does not fit the model.
    """

    def __init__(self, folder: Path, name: str, *, window: int, bins: int) -> None:
        from transformers import WhisperFeatureExtractor

        try:
            self._extractor = WhisperFeatureExtractor.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # each class reads its files in its own way
            raise ModelError(f"{name}: transformers cannot make its WhisperFeatureExtractor: {error}") from error
        if self._extractor.nb_max_frames != window or self._extractor.feature_size != bins:
            made = f"{self._extractor.feature_size} bins and windows of {self._extractor.nb_max_frames} frames"
            raise ModelError(f"{name}: preprocessor_config.json makes {made}, and config.json says {bins} and {window}")
        self.window, self.bins = window, bins
        self.rate = int(self._extractor.sampling_rate)
        self.hop = int(self._extractor.hop_length)

    def num_frames(self, medium: Medium) -> int:
        """Frames of a sound without what a window is filled up with, at least 1."""
        assert medium.rate is not None
        return max(1, -(-len(medium.data) * self.rate // int(medium.rate)) // self.hop)

    def __call__(self, medium: Medium) -> NDArray[np.float32]:
        """float32 [bins, frames] of a whole sound, one that is shorter than a window filled up with silence to one."""
        assert medium.rate is not None
        samples = resampled(medium.data, int(medium.rate), self.rate)
        short = len(samples) <= self.window * self.hop
        made = self._extractor(
            samples, sampling_rate=self.rate, truncation=False, padding="max_length" if short else "longest", return_tensors="np"
        )
        features: NDArray[np.float32] = made["input_features"][0]
        return features


class SoundStore(MediaStore):
    """
    Args:
        make_features: called when the first sound comes. Raises ModelError.
        positions: hidden states that the tower gives of a window.
    """

    def __init__(
        self,
        loader: MediaLoader,
        width: int,
        make_features: Callable[[], SoundFeatures],
        load_tower: Callable[[], Callable[[Mapping[str, Tensor]], Tensor]],
        *,
        positions: int,
    ) -> None:
        super().__init__(loader, width, _none, load_tower)
        self.kinds = ("audio",)
        self.positions = positions
        self._make_features = make_features
        self._extract: SoundFeatures | None = None
        self._features: Kept[str, NDArray[np.float32]] = Kept(MOST_FEATURES)

    @property
    def features(self) -> SoundFeatures:
        """Raises ModelError."""
        with self._lock:
            if self._extract is None:
                self._extract = self._make_features()
            return self._extract

    def measured(self, part: MediaPart) -> tuple[Medium, int]:
        """A sound and its frames; without its samples where reading it again gives the same. Raises RecordError, ModelError."""
        self.loader.policy.check_count([part])
        medium = self.loader.load(part)
        may_change = isinstance(part.source, str) and part.source[:8].lower().startswith(("http://", "https://"))
        return medium if may_change else replace(medium, data=None), self.features.num_frames(medium)

    def window(self, part: MediaPart, medium: Medium, start: int, *, held: Medium | None = None) -> Placed:
        """The window of a sound that begins at frame `start`, as the input of a request. `held`: see `Placed.medium`."""
        options = {_START: start, "content": medium.hash}
        return Placed(media_key(medium, options), np.arange(self.positions), part, held, options)

    def prepare(self) -> None:
        with self._lock:
            if self._tower is None:
                self._tower = self._load_tower()

    def _largest(self, most_tokens: int, options: Mapping[str, Any]) -> Mapping[str, Tensor] | None:
        """All windows are as large."""
        import torch

        return {"input_features": torch.zeros(1, self.features.bins, self.features.window)}

    def _encoded(self, placed: Placed) -> NDArray[np.float32]:
        import torch

        content: str = placed.options["content"]
        features = self._features.get(content)
        if features is None:
            features = self.features(self.again(placed))
            self._features.put(content, features, features.nbytes)
        window, start = self.features.window, int(placed.options[_START])
        cut = features[:, start : start + window]
        cut = np.pad(cut, ((0, 0), (0, window - cut.shape[1])))  # as transformers fills up the last one
        assert self._tower is not None
        self.encoded()
        return self._tower({"input_features": torch.from_numpy(np.ascontiguousarray(cut))[None]}).numpy()


def _none() -> Any:
    raise AssertionError("sounds have no processor of prompts")
