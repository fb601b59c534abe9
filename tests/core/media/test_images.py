"""Images out of files: what they look like afterwards, and what is said of those that are none."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infer.core.errors import RecordError
from infer.core.media.loader import MediaLoader
from infer.core.media.placing import PromptMedia
from infer.core.media.policy import MediaPolicy
from infer.core.types.media import MediaPart

Image = pytest.importorskip("PIL.Image")

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def data_url(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def saved(image: Any, form: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **how)
    return file.getvalue()


def load(source: Any, **policy: Any) -> Any:
    """The pixels [height, width, 3] of a file's bytes, or of whatever else is given."""
    medium = MediaLoader(MediaPolicy(**policy)).load(MediaPart("image", data_url(source) if isinstance(source, bytes) else source, "here"))
    assert medium.data.mode == "RGB"
    assert medium.num_bytes == 3 * medium.data.width * medium.data.height
    return np.asarray(medium.data)


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, *, more: bytes = b"", pixels: bytes | None = None) -> bytes:
    """A PNG file of grey pixels whose header says what it likes."""
    body = zlib.compress(b"\0\0" if pixels is None else pixels)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + more + chunk(b"IDAT", body) + chunk(b"IEND", b"")


HALVES = Image.new("RGB", (8, 4), BLUE)
HALVES.paste(RED, (0, 0, 4, 4))  # red on the left
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("form", "mode"),
    [("PNG", "RGB"), ("PNG", "P"), ("PNG", "RGBA"), ("BMP", "RGB"), ("GIF", "P"), ("TIFF", "RGB"), ("TIFF", "CMYK"), ("PPM", "RGB")],
)
def test_lossless_formats_give_their_colours(form: str, mode: str) -> None:
    image = HALVES.quantize(4) if mode == "P" else HALVES.convert(mode)
    found = load(saved(image, form))
    assert found.shape == (4, 8, 3)
    assert (found[0, 0].tolist(), found[0, 7].tolist()) == (list(RED), list(BLUE))


@pytest.mark.parametrize(("form", "mode"), [("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L"), ("WEBP", "RGB")])
def test_lossy_formats_come_close(form: str, mode: str) -> None:
    large = HALVES.resize((64, 32), 0)
    found = load(saved(large.convert(mode), form, quality=95)).astype(int)
    wanted = np.asarray(large.convert(mode).convert("RGB")).astype(int)
    assert found.shape == (32, 64, 3)
    assert abs(found - wanted)[:, [4, 60]].max() < 24


@pytest.mark.parametrize("angle", [1, 2, 3, 4, 5, 6, 7, 8])
def test_images_are_turned_as_exif_says(angle: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = angle
    data = saved(HALVES, "PNG", exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = load(data)
    assert found.shape == ((4, 8, 3) if angle < 5 else (8, 4, 3))
    assert (found == np.asarray(wanted)).all()
    assert (load(Image.open(io.BytesIO(data))) == found).all()  # the same where Python hands it in


def test_broken_exif_is_no_reason_to_refuse_an_image() -> None:
    assert load(saved(HALVES, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + b"\xff" * 40)).shape == (4, 8, 3)


def test_what_is_transparent_is_laid_on_white() -> None:
    clear = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((1, 0), (0, 0, 255, 255))
    assert load(saved(clear)).tolist() == [[list(WHITE), list(BLUE)]]
    grey = Image.new("LA", (1, 1), (0, 0))
    assert load(saved(grey)).tolist() == [[list(WHITE)]]
    palette = Image.new("P", (1, 1))
    palette.putpalette([255, 0, 0])
    assert load(saved(palette, transparency=0)).tolist() == [[list(WHITE)]]
    assert load(saved(Image.new("RGB", (1, 1), RED), transparency=RED)).tolist() == [[list(WHITE)]]
    half = load(saved(Image.new("RGBA", (1, 1), (0, 0, 0, 128))))
    assert abs(int(half[0, 0, 0]) - 127) <= 1


def test_sixteen_bits_become_eight() -> None:
    ramp = np.array([[0, 257, 0x8000, 0xFFFF]], dtype=np.uint16)
    assert load(saved(Image.fromarray(ramp)))[0, :, 0].tolist() == [0, 1, 127, 255]
    assert load(saved(Image.fromarray(np.array([[0, 255]], dtype=np.int32)), "TIFF"))[0, :, 0].tolist() == [0, 255]
    assert load(saved(Image.new("1", (1, 1), 1))).tolist() == [[list(WHITE)]]


def test_of_an_animation_the_first_frame_is_taken() -> None:
    for form in ("GIF", "WEBP", "PNG", "TIFF"):
        data = saved(Image.new("RGB", (4, 4), RED), form, save_all=True, append_images=[Image.new("RGB", (4, 4), BLUE)], **LOSSLESS[form])
        assert load(data)[0, 0].tolist() == list(RED), form


LOSSLESS: dict[str, dict[str, Any]] = {"GIF": {}, "WEBP": {"lossless": True}, "PNG": {}, "TIFF": {}}


def test_one_pixel_is_an_image() -> None:
    assert load(saved(Image.new("RGB", (1, 1), RED))).tolist() == [[list(RED)]]


def huge(width: int, height: int) -> bytes:
    """A whole PNG of one colour: large in pixels, small in bytes."""
    return saved(Image.new("1", (width, height)), "PNG", optimize=False)


HOSTILE: dict[str, tuple[bytes, str, str]] = {
    "nothing": (b"", "media_error", "is empty"),
    "one byte": (b"\x89", "media_error", "no image that can be read, but no known kind of file"),
    "truncated png": (saved(NOISE)[:-2000], "media_error", "is damaged"),
    "truncated jpeg": (saved(NOISE, "JPEG")[:-800], "media_error", "is damaged"),
    "truncated gif": (saved(NOISE, "GIF")[:-1500], "media_error", "is damaged"),
    "truncated webp": (saved(NOISE, "WEBP")[:-400], "media_error", "is damaged"),
    "truncated tiff": (saved(NOISE, "TIFF")[:-4000], "media_error", "is damaged"),
    "truncated bmp": (saved(NOISE, "BMP")[:-4000], "media_error", "is damaged"),
    "head of a jpeg": (saved(NOISE, "JPEG")[:4], "media_error", "begins as a JPEG image and cannot be read"),
    "wrong checksum": (saved(NOISE)[:100] + b"\xaa" * 8 + saved(NOISE)[108:], "media_error", "is damaged"),
    "20,000 x 20,000": (huge(20_000, 20_000), "media_refused", "too large an image"),
    "10,000 x 10,000": (huge(10_000, 10_000), "media_refused", "has 10,000 x 10,000 pixels, more than the 67,108,864 of max_image_pixels"),
    "1 x 2,000,000,000": (png(1, 2_000_000_000), "media_refused", "too large an image"),
    "no pixels": (png(0, 10), "media_error", "is damaged"),
    "a header of 50 MB": (png(4, 4, more=chunk(b"iTXt", b"x\0\1\0\0\0" + zlib.compress(b"a" * 50_000_000))), "media_error", "damaged"),
    "fewer pixels than it says": (png(5000, 5000), "media_error", "is damaged"),
    "svg": (
        b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        "media_error",
        "SVG",
    ),
    "svg without a head": (b"<svg onload='x()'></svg>", "media_error", "SVG drawing"),
    "html": (b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "media_error", "but an HTML page"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "media_error", "but a PostScript document"),
    "pdf": (b"%PDF-1.7\n", "media_error", "but a PDF document"),
    "zip": (b"PK\x03\x04" + b"\0" * 40, "media_error", "but a ZIP archive"),
    "gzip": (zlib.compress(b"", wbits=31), "media_error", "but a gzip archive"),
    "json": (b'{"error": "not found"}', "media_error", "but JSON text"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0\x8c\x02os\x94.", "media_error", "no known kind of file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "media_error", "a pointer of Git LFS"),
    "wav": (b"RIFF\x24\0\0\0WAVEfmt ", "media_error", "but WAV audio"),
    "mp4": (b"\0\0\0\x18ftypisom\0\0\2\0", "media_error", "but an MP4 video"),
    "zeros": (b"\0" * 5000, "media_error", "but a file of zero bytes only"),
    "floats": (saved(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF"), "media_error", "floating-point"),
    "text": (b"just words", "media_error", "but a text file"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_have_one_error_each(name: str) -> None:
    data, code, told = HOSTILE[name]
    with pytest.raises(RecordError, match=told) as caught:
        load(data)
    assert (caught.value.code, caught.value.param, caught.value.retryable) == (code, "here", False)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 400


def test_hostile_files_do_not_change_what_is_loaded_beside_them() -> None:
    loader = MediaLoader(MediaPolicy())
    good = MediaPart("image", data_url(saved(NOISE)), "good")
    wanted = MediaLoader(MediaPolicy()).load(good)
    for data, code, _ in HOSTILE.values():
        with pytest.raises(RecordError) as caught:
            loader.load(MediaPart("image", data_url(data), "bad"))
        assert caught.value.code == code
        found = loader.load(good)
        assert (found.hash, found.data.tobytes()) == (wanted.hash, wanted.data.tobytes())


def test_pixels_are_refused_before_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded(*_: Any) -> None:
        raise AssertionError("it was decoded")

    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", decoded)
    for source in (huge(4000, 4000), Image.open(io.BytesIO(huge(4000, 4000)))):
        with pytest.raises(RecordError, match="max_image_pixels"):
            load(source, max_pixels=15_999_999)


def test_bytes_are_limited() -> None:
    data = saved(NOISE)
    assert load(data, max_bytes=len(data)).shape == (64, 64, 3)
    for source in (data, data_url(data), MediaPart):
        part = MediaPart("image", source if source is not MediaPart else data, "here")
        with pytest.raises(RecordError, match="max_media_bytes") as caught:
            MediaLoader(MediaPolicy(max_bytes=len(data) - 1)).load(part)
        assert caught.value.code == "media_refused"


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("data:image/png;base64", "without a comma"),
        ("data:image/png;base64,@@@@", "is not base64"),
        ("data:image/png;base64,A", "is not base64"),
        ("data:image/png;base64,", "is empty"),
        ("data:,", "is empty"),
    ],
)
def test_damaged_data_urls(url: str, told: str) -> None:
    with pytest.raises(RecordError, match=told) as caught:
        load(url)
    assert caught.value.code == "media_error"


def test_the_ways_to_write_a_data_url() -> None:
    data = saved(HALVES)
    text = base64.b64encode(data).decode()
    from urllib.parse import quote

    ways = [text, text.rstrip("="), text[:30] + "\n " + text[30:], quote(text, safe=""), text.replace("+", "-").replace("/", "_")]
    urls = [f"data:image/png;base64,{way}" for way in ways]
    urls += [f"DATA:IMAGE/PNG;charset=x;BASE64,{text}", f"data:,{quote(data)}", f"data:;base64,{text}"]
    loader = MediaLoader(MediaPolicy())
    assert len({loader.load(MediaPart("image", url)).hash for url in urls}) == 1


def test_a_hash_is_that_of_the_content(tmp_path: Path) -> None:
    loader = MediaLoader(MediaPolicy(local_path=str(tmp_path.resolve())))
    (tmp_path / "a.png").write_bytes(saved(HALVES))
    (tmp_path / "b.jpg").write_bytes(saved(HALVES))
    one, other, third = (loader.load(MediaPart("image", s)).hash for s in ("a.png", "b.jpg", data_url(saved(HALVES))))
    assert one == other == third
    (tmp_path / "a.png").write_bytes(saved(NOISE))
    assert loader.load(MediaPart("image", "a.png")).hash != one
    given = [loader.load(MediaPart("image", s)).hash for s in (HALVES, HALVES.copy(), np.asarray(HALVES), HALVES.convert("RGBA"))]
    assert len(set(given)) == 1


def test_what_was_fetched_is_held_as_its_file(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"http://a/1.png": saved(HALVES), "http://a/2.png": saved(NOISE)}
    monkeypatch.setattr("infer.core.media.loader.fetch", lambda url, **_: files[url])
    loader = MediaLoader(MediaPolicy(domains=("a",)))
    parts = [MediaPart("image", url, "here") for url in (*files, data_url(saved(NOISE)))]
    media = [loader.load(part) for part in parts]
    held = [loader.sealed(part, medium) for part, medium in zip(parts, media, strict=True)]
    assert [part.source for part in held] == [*files.values(), parts[2].source]
    files.clear()  # whoever asks again would fail
    again = MediaLoader(loader.policy)
    assert [again.load(part).hash for part in held] == [medium.hash for medium in media]
    assert loader.sealed(parts[0], media[1]) is parts[0]  # another file had that address by then
    given = PromptMedia(tuple(held[:2]), media=((b"", None), (b"", media[2])))
    assert given.num_held == len(held[0].source) + len(held[1].source) + media[2].num_bytes


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (np.zeros((2, 2, 5), np.uint8), "has the shape"),
        (np.zeros((2,), np.uint8), "has the shape"),
        (np.zeros((0, 2, 3), np.uint8), "has the shape"),
        (np.zeros((2, 2, 3), np.int32), "holds int32"),
        (np.full((2, 2), 2.0), "outside of 0 to 1"),
        (np.full((2, 2), np.nan), "outside of 0 to 1"),
    ],
)
def test_arrays_that_are_no_images(values: Any, told: str) -> None:
    with pytest.raises(RecordError, match=told) as caught:
        load(values)
    assert caught.value.code == "media_error"


def test_arrays_that_are_images() -> None:
    assert load(np.array([[0.0, 1.0]]))[0, :, 0].tolist() == [0, 255]
    assert load(np.array([[True, False]]))[0, :, 0].tolist() == [255, 0]
    assert load(np.zeros((2, 3, 4), np.uint8)).tolist() == [[[255] * 3] * 3] * 2
    assert load(np.zeros((2, 3, 1), np.uint8)).shape == (2, 3, 3)
