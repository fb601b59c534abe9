"""Sound out of files and arrays: float32 samples of one channel, and how many there are a second."""

from __future__ import annotations

import importlib
import io
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RecordError
from .signatures import described

#: Codes of WAV formats.
_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
#: Rates that sound has, in samples a second.
_LOWEST, _HIGHEST = 1000, 768_000
#: Frames that are decoded at a time, where the file does not say how many it has.
_BLOCK = 1 << 18


@dataclass(frozen=True, eq=False)
class Sound:
    """`samples`: float32 [n]; `rate`: of them a second."""

    samples: NDArray[np.float32]
    rate: int


def decode_audio(data: bytes, *, max_seconds: float, what: str, param: str) -> Sound:
    """The sound of a file: WAV by our own reader, whatever else soundfile reads (FLAC, Ogg, Opus, MP3, AIFF). Channels are averaged.

    Raises RecordError: media_refused for more seconds than may be (before they are decoded where the file says how many it has),
    media_error for what cannot be decoded, unsupported where that needs soundfile and it is not installed.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return _wav(data, max_seconds, what, param)
    kind = described(data)
    if not any(word in kind for word in ("audio", "MP4", "WebM", "no known")):
        raise RecordError("media_error", f"{what} is no sound that can be read, but {kind}", param=param)
    try:
        soundfile = importlib.import_module("soundfile")
    except (ImportError, OSError):
        message = f"{what} is {kind}, and without soundfile only WAV is read: pip install 'infer-jsonl[media]'"
        raise RecordError("unsupported", message, param=param) from None
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            _check_rate(file.samplerate, what, param)
            most = int(max_seconds * file.samplerate)
            if 0 < file.frames < 1 << 62 and file.frames > most:
                raise _too_long(file.frames / file.samplerate, max_seconds, what, param)
            blocks, count = [], 0
            while len(block := file.read(_BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1, dtype=np.float32))
                if (count := count + len(block)) > most:
                    raise _too_long(count / file.samplerate, max_seconds, what, param)
            rate = file.samplerate
    except RecordError:
        raise
    except Exception as error:  # soundfile has errors of its own, which are RuntimeErrors, and others
        told = str(error).strip().removeprefix("Error opening <_io.BytesIO object>: ").splitlines() or [type(error).__name__]
        raise RecordError(
            "media_error", f"{what} is damaged, or no sound that can be read ({kind}): {told[0][:200]}", param=param
        ) from None
    return _checked(np.concatenate(blocks) if blocks else np.zeros(0, np.float32), rate, what, param)


def sound_of_array(values: Any, rate: Any, *, max_seconds: float, what: str, param: str) -> Sound:
    """Samples as numbers: [n], or [channels, n] or [n, channels] of which the shorter axis is the channels; integers are scaled to -1 to 1.

    Raises RecordError (media_error, media_refused).
    """
    values = np.asarray(values)
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
        raise RecordError("media_error", f"{what} has no rate; give (samples, samples a second)", param=param)
    rate = float(rate)
    _check_rate(rate, what, param)
    if values.ndim == 2:
        values = values.mean(axis=0 if values.shape[0] <= values.shape[1] else 1, dtype=np.float64) * (
            1 / np.iinfo(values.dtype).max if values.dtype.kind == "i" else 1
        )
    if values.ndim != 1 or values.dtype.kind not in "fi":
        message = f"{what} is {values.dtype} {list(values.shape)}; samples are numbers [n] or [channels, n]"
        raise RecordError("media_error", message, param=param)
    if values.dtype.kind == "i":
        values = values / -float(np.iinfo(values.dtype).min)
    if len(values) > max_seconds * rate:
        raise _too_long(len(values) / rate, max_seconds, what, param)
    return _checked(values.astype(np.float32), int(rate), what, param)


def _wav(data: bytes, max_seconds: float, what: str, param: str) -> Sound:
    """Of a WAV file: PCM of 8, 16, 24 or 32 bits, or floating-point numbers of 32 or 64."""
    head: tuple[int, ...] | None = None
    at = 12
    while at + 8 <= len(data):
        name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = memoryview(data)[at + 8 : at + 8 + size]
        if name == b"fmt ":
            if len(body) < 16:
                raise RecordError("media_error", f"{what} is a damaged WAV file: its header is cut off", param=param)
            head = struct.unpack_from("<HHIIHH", body)
            if head[0] == _EXTENSIBLE and len(body) >= 26:
                head = (int.from_bytes(body[24:26], "little"), *head[1:])
        if name == b"data":
            if head is None:
                raise RecordError("media_error", f"{what} is a damaged WAV file: nothing says how its samples are written", param=param)
            streamed = size in (0, 0xFFFFFFFF)  # by a program that did not know how long it would be
            rest = memoryview(data)[at + 8 :] if streamed else body
            if not streamed and len(body) < size:
                message = f"{what} is a WAV file that ends early: it has {len(body):,} of {size:,} bytes of samples"
                raise RecordError("media_error", message, param=param)
            return _samples(rest, head, max_seconds, what, param)
        at += 8 + size + size % 2
    raise RecordError("media_error", f"{what} is a damaged WAV file: it has no samples", param=param)


def _samples(body: memoryview, head: tuple[int, ...], max_seconds: float, what: str, param: str) -> Sound:
    code, channels, rate, _, _, bits = head
    _check_rate(rate, what, param)
    if (code, bits) not in ((_PCM, 8), (_PCM, 16), (_PCM, 24), (_PCM, 32), (_FLOAT, 32), (_FLOAT, 64)) or not 1 <= channels <= 64:
        message = f"{what} is a WAV file of format {code} with {bits} bits and {channels} channels, which is not read; PCM and floats are"
        raise RecordError("media_error", message, param=param)
    width = bits // 8
    count = len(body) // (width * channels)
    if count > max_seconds * rate:
        raise _too_long(count / rate, max_seconds, what, param)
    raw = np.frombuffer(body, np.uint8, count * channels * width)
    values: NDArray[np.floating]
    if code == _FLOAT:
        values = raw.view(f"<f{width}").astype(np.float32)
    elif bits == 24:
        wide = np.zeros((count * channels, 4), np.uint8)
        wide[:, 1:] = raw.reshape(-1, 3)
        values = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(1 << 31)
    elif bits == 8:
        values = (raw.astype(np.float32) - 128) / 128
    else:
        values = raw.view(f"<i{width}").astype(np.float32) / np.float32(1 << (bits - 1))
    return _checked(values.reshape(count, channels).mean(axis=1, dtype=np.float32), rate, what, param)


def _check_rate(rate: float, what: str, param: str) -> None:
    if not _LOWEST <= rate <= _HIGHEST:
        message = f"{what} says it has {rate:g} samples a second; that is no rate of sound ({_LOWEST:,} to {_HIGHEST:,})"
        raise RecordError("media_error", message, param=param)


def _checked(samples: NDArray[np.float32], rate: int, what: str, param: str) -> Sound:
    if not len(samples):
        raise RecordError("media_error", f"{what} has no samples", param=param)
    if not np.isfinite(samples).all():
        raise RecordError("media_error", f"{what} has samples that are no finite numbers", param=param)
    return Sound(np.ascontiguousarray(samples), rate)


def _too_long(seconds: float, most: float, what: str, param: str) -> RecordError:
    return RecordError("media_refused", f"{what} lasts {seconds:,.1f} s or more, and max_audio_seconds is {most:g}", param=param)
