"""What a file is, by its first bytes, in words: for messages about files that are not what they were said to be."""

from __future__ import annotations

import re

#: First bytes -> what such a file is.
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"BM", "a BMP image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"%PDF", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript document"),
    (b"PK\x03\x04", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"OggS", "Ogg audio"),
    (b"fLaC", "FLAC audio"),
    (b"ID3", "MP3 audio"),
    (b"\xff\xfb", "MP3 audio"),
    (b"\xff\xf3", "MP3 audio"),
    (b"\xff\xf2", "MP3 audio"),
    (b"FORM", "AIFF audio"),
    (b"\x1a\x45\xdf\xa3", "a WebM or Matroska video"),
    (b"\x93NUMPY", "a .npy file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"#!", "a script"),
    (b"version https://git-lfs", "a pointer of Git LFS, and not the file it points at (git lfs pull fetches that)"),
)
#: Kinds of files in the container of MP4, by its brand.
_BRANDS = {b"avif": "an AVIF image", b"avis": "an AVIF image", b"heic": "an HEIC image", b"heix": "an HEIC image", b"mif1": "an HEIF image"}
_BRANDS |= {b"M4A ": "AAC audio in MP4", b"qt  ": "a QuickTime video"}
_RIFF = {b"WEBP": "a WebP image", b"WAVE": "WAV audio", b"AVI ": "an AVI video"}
_MARKUP = re.compile(rb"<\s*(!doctype\s+html|html|head|body|svg|\?xml|!--)", re.IGNORECASE)


def described(data: bytes) -> str:
    """What a file with these first bytes is: "a PNG image", "an HTML page"; "no known kind of file" where nothing tells."""
    if not data:
        return "an empty file"
    if data[:4] == b"RIFF" and data[8:12] in _RIFF:
        return _RIFF[data[8:12]]
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "an MP4 video")
    for start, what in _STARTS:
        if data.startswith(start):
            return what
    text = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if (markup := _MARKUP.match(text)) is not None:
        if b"<svg" in text.lower():
            return "an SVG drawing, which has no pixels"
        return "an XML file" if markup[1].startswith(b"?") and b"<html" not in text.lower() else "an HTML page"
    if text[:1] in (b"{", b"["):
        return "JSON text"
    if not data.strip(b"\0"):
        return "a file of zero bytes only"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in data[:256]):
        return "a text file"
    return "no known kind of file"
