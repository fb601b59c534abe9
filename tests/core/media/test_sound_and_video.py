"""Sound and video out of files and arrays, and the parts of records that name media."""

from __future__ import annotations

import base64
import io
import struct
import wave
from typing import Any

import numpy as np
import pytest

from infer.core.errors import RecordError
from infer.core.media.loader import MediaLoader
from infer.core.media.policy import MediaPolicy
from infer.core.media.resample import resampled
from infer.core.media.video import chosen
from infer.core.types.media import MediaPart, Medium
from infer.core.types.media_parts import kind_of, of_content, of_data, of_fields, of_messages

SINE = np.sin(np.arange(800) / 5)


def load(source: Any, kind: Any = "audio", **policy: Any) -> Medium:
    return MediaLoader(MediaPolicy(**policy)).load(MediaPart(kind, source, "here"))


def wav(values: np.ndarray, rate: int = 8000, channels: int = 1) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as one:
        one.setnchannels(channels)
        one.setsampwidth(values.dtype.itemsize)
        one.setframerate(rate)
        one.writeframes(values.tobytes())
    return file.getvalue()


def riff(code: int, bits: int, body: bytes, *, rate: int = 8000, channels: int = 1, size: int | None = None, more: bytes = b"") -> bytes:
    head = struct.pack("<HHIIHH", code, channels, rate, rate * channels * bits // 8 % 2**32, channels * bits // 8, bits) + more
    chunks = b"fmt " + struct.pack("<I", len(head)) + head + b"LIST" + struct.pack("<I", 3) + b"abc\0"
    chunks += b"data" + struct.pack("<I", len(body) if size is None else size) + body
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


WAVES = {
    "8 bits": (riff(1, 8, (SINE * 127 + 128).astype(np.uint8).tobytes()), 0.02),
    "16 bits": (wav((SINE * 32767).astype("<i2")), 1e-4),
    "24 bits": (riff(1, 24, (SINE * 8388607).astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()), 1e-6),
    "32 bits": (riff(1, 32, (SINE * 2147483647).astype("<i4").tobytes()), 1e-6),
    "float32": (riff(3, 32, SINE.astype("<f4").tobytes()), 1e-7),
    "float64": (riff(3, 64, SINE.astype("<f8").tobytes()), 1e-7),
    "extensible": (riff(0xFFFE, 16, (SINE * 32767).astype("<i2").tobytes(), more=struct.pack("<HHIH14s", 22, 16, 4, 1, b"\0" * 14)), 1e-4),
    "streamed": (riff(1, 16, (SINE * 32767).astype("<i2").tobytes(), size=0xFFFFFFFF), 1e-4),
    "two channels": (riff(3, 32, np.stack([SINE + 1, SINE - 1], 1).astype("<f4").tobytes(), channels=2), 1e-6),
}


@pytest.mark.parametrize("name", WAVES)
def test_wav_files(name: str) -> None:
    data, close = WAVES[name]
    medium = load(data)
    assert (medium.kind, medium.rate, medium.data.dtype, medium.data.shape) == ("audio", 8000.0, np.float32, (800,))
    assert np.abs(medium.data - SINE).max() <= close


@pytest.mark.parametrize("form", ["FLAC", "OGG", "AIFF"])
def test_other_files_are_read_by_soundfile(form: str) -> None:
    soundfile = pytest.importorskip("soundfile")
    if form not in soundfile.available_formats():
        pytest.skip(f"this build of soundfile has no {form}")
    file = io.BytesIO()
    soundfile.write(file, np.stack([SINE, SINE], 1), 8000, format=form)
    medium = load(file.getvalue())
    assert (medium.rate, medium.data.shape) == (8000.0, (800,))
    assert np.abs(medium.data - SINE).max() < 0.1
    for cut in (file.getvalue()[:20], file.getvalue()[:4] + b"\xff" * 60):
        with pytest.raises(RecordError) as caught:
            load(cut)
        assert caught.value.code == "media_error"
    with pytest.raises(RecordError, match="max_audio_seconds") as caught:
        load(file.getvalue(), max_seconds=0.09)
    assert caught.value.code == "media_refused"


HOSTILE = {
    "ends early": (WAVES["16 bits"][0][:-100], "media_error", "ends early"),
    "header alone": (WAVES["16 bits"][0][:20], "media_error", "damaged WAV"),
    "no samples": (wav(np.zeros(0, "<i2")), "media_error", "no samples"),
    "no format": (b"RIFF\x10\0\0\0WAVEdata\x02\0\0\0ab", "media_error", "nothing says how"),
    "compressed": (riff(85, 16, b"ab" * 40), "media_error", "format 85"),
    "nan": (riff(3, 32, np.full(9, np.nan, "<f4").tobytes()), "media_error", "finite"),
    "rate of zero": (riff(1, 16, b"ab" * 40, rate=0), "media_error", "no rate of sound"),
    "rate of four thousand million": (riff(1, 16, b"ab" * 40, rate=2**32 - 1), "media_error", "no rate of sound"),
    "no channels": (riff(1, 16, b"ab" * 40, channels=0), "media_error", "0 channels"),
    "too long": (wav(np.zeros(80_001, "<i2")), "media_refused", "max_audio_seconds"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + b"\0" * 30, "media_error", "but a PNG image"),
    "html": (b"<html></html>", "media_error", "but an HTML page"),
    "nothing": (b"", "media_error", "is empty"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_sound(name: str) -> None:
    data, code, told = HOSTILE[name]
    with pytest.raises(RecordError, match=told) as caught:
        load(data, max_seconds=10)
    assert (caught.value.code, caught.value.param) == (code, "here")


def test_arrays_of_samples() -> None:
    wanted = SINE.astype(np.float32)
    for values in (SINE, wanted, np.stack([SINE, SINE]), np.stack([SINE, SINE], 1), SINE[None]):
        assert np.abs(load((values, 16000)).data - wanted).max() < 1e-6
    for kind in ("i2", "i4"):
        whole = (SINE * np.iinfo(kind).max).astype(kind)
        for values in (whole, np.stack([whole, whole])):
            assert np.abs(load((values, np.int64(16000))).data - wanted).max() < 1e-3
    assert load((SINE, 16000)).hash != load((SINE, 8000)).hash
    for source, told in {"rate": SINE, "samples are numbers": (np.zeros((2, 2, 2)), 8000), "no rate of": (SINE, -1)}.items():
        with pytest.raises(RecordError, match=source):
            load(told)


def test_openais_audio_part() -> None:
    data = base64.b64encode(WAVES["16 bits"][0]).decode()
    part = of_content({"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, "m")
    assert MediaLoader(MediaPolicy()).load(part).data.shape == (800,)
    assert (part.kind, part.format, part.param) == ("audio", "wav", "m.input_audio.data")


# --- video


def test_frames_are_evenly_spaced() -> None:
    assert chosen(100, 5) == [0, 24, 49, 74, 99]
    assert chosen(3, 5) == chosen(3, -1) == [0, 1, 2]


def test_animations_are_videos() -> None:
    module = pytest.importorskip("PIL.Image")
    frames = [module.new("RGB", (8, 6), (20 * i, 0, 0)) for i in range(9)]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], duration=100, lossless=True)
    medium = load(file.getvalue(), "video", num_frames=3)
    assert [frame.getpixel((0, 0)) for frame in medium.data] == [(0, 0, 0), (80, 0, 0), (160, 0, 0)]
    whole = load(file.getvalue(), "video", num_frames=-1)
    assert (len(whole.data), whole.rate, whole.hash != medium.hash) == (9, 10.0, True)
    given = load(frames, "video", num_frames=3)
    assert [frame.getpixel((0, 0)) for frame in given.data] == [(0, 0, 0), (80, 0, 0), (160, 0, 0)]
    stacked = load(np.stack([np.asarray(frame) for frame in frames]), "video", num_frames=3)
    assert stacked.hash == given.hash
    jpegs = []
    for frame in frames[:2]:
        one = io.BytesIO()
        frame.save(one, "JPEG")
        jpegs.append(base64.b64encode(one.getvalue()).decode())
    assert len(load(f"data:video/jpeg;base64,{','.join(jpegs)}", "video").data) == 2
    for bad, told in ((file.getvalue()[:60], "damaged"), (b"<html>", "HTML"), (b"%PDF-1", "PDF")):
        with pytest.raises(RecordError, match=told):
            load(bad, "video")


def test_video_files_are_read_by_pyav() -> None:
    pytest.importorskip("PIL.Image")
    av = pytest.importorskip("av")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 16, "yuv420p"
        for i in range(20):
            image = np.full((16, 32, 3), 10 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    medium = load(file.getvalue(), "video", num_frames=4)
    assert [frame.size for frame in medium.data] == [(32, 16)] * 4
    assert all(abs(frame.getpixel((5, 5))[0] - 10 * i) < 12 for frame, i in zip(medium.data, [0, 6, 12, 19], strict=True))
    with pytest.raises(RecordError, match="max_image_pixels"):
        load(file.getvalue(), "video", max_pixels=511)
    for cut in (file.getvalue()[:200], file.getvalue()[:40] + b"\xff" * 100):
        with pytest.raises(RecordError) as caught:
            load(cut, "video")
        assert caught.value.code == "media_error"


# --- parts


@pytest.mark.parametrize(
    ("part", "kind", "source", "param"),
    [
        ({"type": "image_url", "image_url": {"url": "u", "detail": "low"}}, "image", "u", "m.image_url.url"),
        ({"type": "image_url", "image_url": "u"}, "image", "u", "m.image_url"),
        ({"image_url": "u"}, "image", "u", "m.image_url"),
        ({"type": "input_image", "image_url": "u"}, "image", "u", "m.image_url"),
        ({"type": "image", "image": "u"}, "image", "u", "m.image"),
        ({"type": "image", "url": "u"}, "image", "u", "m.url"),
        ({"type": "image", "path": "u"}, "image", "u", "m.path"),
        ({"type": "image", "base64": "QQ=="}, "image", "data:;base64,QQ==", "m.base64"),
        ({"type": "audio_url", "audio_url": {"url": "u"}}, "audio", "u", "m.audio_url.url"),
        ({"type": "audio", "audio": "u"}, "audio", "u", "m.audio"),
        ({"type": "video_url", "video_url": {"url": "u"}}, "video", "u", "m.video_url.url"),
        ({"type": "video", "video": ["a", "b"]}, "video", ["a", "b"], "m.video"),
    ],
)
def test_content_parts(part: dict[str, Any], kind: str, source: Any, param: str) -> None:
    found = of_content(part, "m")
    assert (kind_of(part), found.kind, found.source, found.param) == (kind, kind, source, param)
    (same,) = of_messages([{"role": "user", "content": ["text", {"type": "text", "text": "x"}, part]}])
    assert same.param.startswith("messages[0].content[2].")


@pytest.mark.parametrize("part", [{"type": "text", "text": "x"}, {"type": "file"}, {"text": "x"}, {}, {"type": 3}])
def test_parts_that_are_no_media(part: dict[str, Any]) -> None:
    assert kind_of(part) is None


@pytest.mark.parametrize(
    ("part", "code"),
    [
        ({"type": "image_url"}, "missing_field"),
        ({"type": "image_url", "image_url": {}}, "missing_field"),
        ({"type": "image_url", "image_url": {"url": None}}, "missing_field"),
        ({"type": "image_url", "image_url": {"url": 3}}, "invalid_type"),
        ({"type": "image_url", "image_url": ""}, "invalid_value"),
        ({"type": "image", "image": ["a"]}, "invalid_type"),
        ({"type": "input_audio", "input_audio": "u"}, "invalid_type"),
        ({"type": "input_audio", "input_audio": {}}, "missing_field"),
        ({"type": "input_audio", "input_audio": {"data": 3}}, "invalid_type"),
        ({"type": "video", "video": []}, "invalid_type"),
        ({"type": "video", "video": ["a", 3]}, "invalid_type"),
    ],
)
def test_wrong_content_parts(part: dict[str, Any], code: str) -> None:
    with pytest.raises(RecordError, match="m") as caught:
        of_content(part, "m")
    assert caught.value.code == code
    assert (caught.value.param or "").startswith("m")


def test_fields_of_lines() -> None:
    found = of_fields({"audio": "x.wav", "images": ["a.png", {"url": "b.png"}], "video": "v", "prompt": "p"})
    assert [(one.kind, one.source, one.param) for one in found] == [
        ("image", "a.png", "images[0]"),
        ("image", "b.png", "images[1]"),
        ("audio", "x.wav", "audio"),
        ("video", "v", "video"),
    ]
    assert of_fields({"images": [], "audio": None, "image": ""}) == []
    for fields, code in (({"images": [3]}, "invalid_type"), ({"images": ["a"], "image": "b"}, "invalid_value"), ({"audio": ""}, None)):
        if code is None:
            assert of_fields(fields) == []
            continue
        with pytest.raises(RecordError) as caught:
            of_fields(fields)
        assert caught.value.code == code


def test_multi_modal_data() -> None:
    samples = (SINE, 16000)
    found = of_data({"audio": samples, "image": ["a.png", np.zeros((2, 2, 3), np.uint8)], "video": [np.zeros((2, 2, 3), np.uint8)] * 3})
    assert [(one.kind, one.param) for one in found] == [
        ("image", "multi_modal_data.image[0]"),
        ("image", "multi_modal_data.image[1]"),
        ("audio", "multi_modal_data.audio[0]"),
        ("video", "multi_modal_data.video[0]"),
    ]
    assert of_data({"image": None}) == []
    for wrong in ({"images": []}, {"image": 3}, 3):
        with pytest.raises(RecordError):
            of_data(wrong)


def test_numbers_of_media_are_limited() -> None:
    policy = MediaPolicy(most={"image": 1, "audio": 0})
    policy.check_count([MediaPart("image", "a", "x"), MediaPart("video", "a", "y")])
    for parts, param in (([MediaPart("image", "a", "x"), MediaPart("image", "a", "y")], "y"), ([MediaPart("audio", "a", "z")], "z")):
        with pytest.raises(RecordError, match="limit_mm_per_prompt") as caught:
            policy.check_count(parts)
        assert (caught.value.code, caught.value.param) == ("media_refused", param)


@pytest.mark.parametrize(("rate", "wanted"), [(8000, 16000), (44100, 16000), (48000, 16000), (22051, 16000)])
def test_resampling_keeps_what_both_rates_hold_and_nothing_else(rate: int, wanted: int) -> None:
    low = min(rate, wanted)

    def sines(at: int, *frequencies: float) -> np.ndarray:
        time = np.arange(int(0.5 * at)) / at
        return sum(np.sin(2 * np.pi * one * time + one) for one in frequencies).astype(np.float32)

    kept = (0.01 * low, 0.21 * low, 0.44 * low)
    made, inside = resampled(sines(rate, *kept), rate, wanted), slice(400, -400)
    expected = sines(wanted, *kept)
    assert len(made) == len(expected)
    assert np.abs(made - expected)[inside].max() < 1e-3
    assert np.abs(resampled(np.ones(rate, np.float32), rate, wanted)[inside] - 1).max() < 1e-5
    if rate > wanted:
        assert np.abs(resampled(sines(rate, 0.53 * wanted), rate, wanted)[inside]).max() < 1e-3, "nothing is folded back"
    assert resampled(made, wanted, wanted) is made
