"""The media that a record or a prompt names: in OpenAI's and vLLM's content parts and those of HF's templates, in the fields of a line, in
vLLM's `multi_modal_data`. Nothing is opened."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import RecordError, nearest
from .media import MEDIA_KINDS, MediaKind, MediaPart

#: Type of a content part -> the kind of its medium, and the keys in which it may stand, the API's own first.
_TYPES: Mapping[str, tuple[MediaKind, tuple[str, ...]]] = {
    "image_url": ("image", ("image_url", "url")),
    "input_image": ("image", ("image_url", "url")),
    "image": ("image", ("image", "url", "path", "image_url", "base64")),
    "image_pil": ("image", ("image_pil",)),
    "input_audio": ("audio", ("input_audio",)),
    "audio_url": ("audio", ("audio_url", "url")),
    "audio": ("audio", ("audio", "url", "path", "audio_url", "base64")),
    "video_url": ("video", ("video_url", "url")),
    "video": ("video", ("video", "url", "path", "video_url", "base64")),
}
#: Those that may stand alone, without a type, as `{"image_url": "…"}`.
_BARE = ("image_url", "image", "input_audio", "audio_url", "audio", "video_url", "video")
#: Fields of a line -> kind.
_FIELDS: Mapping[str, MediaKind] = {
    "images": "image",
    "image": "image",
    "audios": "audio",
    "audio": "audio",
    "videos": "video",
    "video": "video",
}


def kind_of(part: Mapping[str, Any]) -> MediaKind | None:
    """The kind of medium that a content part says it is; None: it is none."""
    said = part.get("type")
    if said is None:
        said = next((name for name in _BARE if name in part), None)
    return _TYPES[said][0] if isinstance(said, str) and said in _TYPES else None


def of_content(part: Mapping[str, Any], where: str) -> MediaPart:
    """The medium of a content part, of which `kind_of` tells the kind. `where`: its place, for messages.

    Raises RecordError (missing_field, invalid_type).
    """
    said = part.get("type") or next(name for name in _BARE if name in part)
    kind, keys = _TYPES[said]
    key = next((name for name in keys if part.get(name) is not None), None)
    if key is None:
        raise RecordError("missing_field", f"{where}: content of type {said!r} has no {keys[0]}", param=where)
    value, where = part[key], f"{where}.{key}"
    if isinstance(value, MediaPart):  # read already, from a field beside the messages
        return value
    detail = part.get("detail")
    if isinstance(value, Mapping):
        if said == "input_audio":
            return _input_audio(value, where)
        detail = value.get("detail", detail)
        value, where = value.get("url"), f"{where}.url"
        if value is None:
            raise RecordError("missing_field", f"{where} is missing", param=where)
    elif said == "input_audio":
        raise _wrong(where, "an object with data and format", value)
    if key == "base64" and isinstance(value, str) and not value.startswith("data:"):
        value = f"data:;base64,{value}"
    return MediaPart(kind, _checked(kind, value, where), where, detail=detail if isinstance(detail, str) else None)


def of_sound(value: Any, name: str) -> MediaPart:
    """The sound in the field `name` of a record: a path, a URL, {"url": …} or {"data", "format"}. Raises RecordError as `of_content`."""
    if isinstance(value, Mapping):
        if "data" in value:
            return replace(_input_audio(value, name), param=name)
        value = value.get("url")
        if value is None:
            raise RecordError("missing_field", f"{name} has no url and no data", param=name)
    return MediaPart("audio", _checked("audio", value, name), name)


def of_messages(messages: Any) -> list[MediaPart]:
    """The media of a conversation, in order. What is wrong with messages otherwise is not looked at. Raises RecordError as `of_content`."""
    found = []
    for i, message in enumerate(messages if isinstance(messages, (list, tuple)) else ()):
        content = message.get("content") if isinstance(message, Mapping) else None
        for j, part in enumerate(content if isinstance(content, (list, tuple)) else ()):
            if isinstance(part, Mapping) and kind_of(part) is not None:
                found.append(of_content(part, f"messages[{i}].content[{j}]"))
    return found


def of_fields(fields: Mapping[str, Any]) -> list[MediaPart]:
    """The media in the fields of a native line: `images`, `image`, `audio`, `audios`, `video`, `videos`, each one or a list, of paths, URLs
    or {"url": …}, and in a list of videos of lists of their frames; images first, then audio, then video. Raises RecordError (invalid_type,
    invalid_value)."""
    found = []
    for names in (("images", "image"), ("audios", "audio"), ("videos", "video")):
        given = [name for name in names if fields.get(name) not in (None, [], "")]
        if len(given) > 1:
            raise RecordError("invalid_value", f"give {' or '.join(given)}, not both", param=given[1])
        for name in given:
            value = fields[name]
            for i, one in enumerate(value if isinstance(value, (list, tuple)) else [value]):
                where = f"{name}[{i}]" if isinstance(value, (list, tuple)) else name
                if isinstance(one, Mapping) and _FIELDS[name] == "audio" and "data" in one:
                    found.append(_input_audio(one, where))
                    continue
                source = one.get("url") if isinstance(one, Mapping) else one
                if (
                    names[1] == "video"
                    and isinstance(source, list)
                    and source
                    and all(isinstance(frame, str) and frame for frame in source)
                ):
                    found.append(MediaPart("video", source, where))
                    continue
                if not isinstance(source, str) or not source:
                    raise _wrong(where, "a path or a URL", one)
                found.append(MediaPart(_FIELDS[name], source, where))
    return found


def with_media(messages: Any, found: Sequence[MediaPart]) -> Any:
    """Messages with media before the text of the last one of the user; what is no such conversation stays as it is."""
    if not found or not isinstance(messages, list):
        return messages
    users = [i for i, message in enumerate(messages) if isinstance(message, dict) and message.get("role") == "user"]
    if not users or not isinstance(content := messages[users[-1]].get("content"), (str, list)):
        return messages
    parts: list[Any] = [{"type": one.kind, one.kind: one} for one in found]
    parts += content if isinstance(content, list) else [{"type": "text", "text": content}]
    return [*messages[: users[-1]], {**messages[users[-1]], "content": parts}, *messages[users[-1] + 1 :]]


def of_data(data: Any) -> list[MediaPart]:
    """The media of vLLM's `multi_modal_data`: kind -> one item or a list of them. Raises RecordError (invalid_type, invalid_value)."""
    if not isinstance(data, Mapping):
        raise _wrong("multi_modal_data", "an object", data)
    found = []
    for kind in data:
        if kind not in MEDIA_KINDS:
            known = ", ".join(MEDIA_KINDS)
            raise RecordError(
                "invalid_value",
                f"multi_modal_data has no {kind!r}{nearest(str(kind), MEDIA_KINDS)}; it has {known}",
                param="multi_modal_data",
            )
    for kind in MEDIA_KINDS:
        for i, one in enumerate(_items(kind, data.get(kind))):
            where = f"multi_modal_data.{kind}[{i}]"
            found.append(MediaPart(kind, _checked(kind, one, where), where))
    return found


def _items(kind: MediaKind, value: Any) -> Iterator[Any]:
    """The items of one kind: one of them, or a list. A video may itself be a list of frames."""
    if value is None:
        return iter(())
    if not isinstance(value, list):
        return iter([value])
    if kind == "video" and value and not isinstance(value[0], (list, str, bytes, bytearray)) and getattr(value[0], "ndim", 0) != 4:
        return iter([value])
    return iter(value)


def _checked(kind: MediaKind, value: Any, where: str) -> Any:
    """A source that may be one. Raises RecordError."""
    if isinstance(value, str):
        if not value:
            raise RecordError("invalid_value", f"{where} is empty", param=where)
        return value
    if isinstance(value, (bytes, bytearray)) or hasattr(value, "__array__") or hasattr(value, "convert"):
        return value
    if kind == "audio" and isinstance(value, (tuple, list)) and len(value) == 2 and hasattr(value[0], "__array__"):
        return tuple(value)
    if kind == "video" and isinstance(value, (list, tuple)) and value:
        return [_checked("image", one, f"{where}[{i}]") for i, one in enumerate(value)]
    wanted = {
        "image": "a URL, a path or an image",
        "audio": "a URL, a path or (samples, rate)",
        "video": "a URL, a path or a list of frames",
    }
    raise _wrong(where, wanted[kind], value)


def _input_audio(value: Mapping[str, Any], where: str) -> MediaPart:
    """OpenAI's `{"data": base64, "format": "wav"}`."""
    data, form = value.get("data"), value.get("format")
    if data is None:
        raise RecordError("missing_field", f"{where}.data is missing", param=f"{where}.data")
    if not isinstance(data, str) or not data:
        raise _wrong(f"{where}.data", "base64 of a file", data)
    if form is not None and not isinstance(form, str):
        raise _wrong(f"{where}.format", "a string such as wav", form)
    source = data if data.startswith("data:") else f"data:audio/{form or ''};base64,{data}"
    return MediaPart("audio", source, f"{where}.data", format=form)


def _wrong(where: str, wanted: str, value: Any) -> RecordError:
    told = {"NoneType": "null", "dict": "an object", "list": "a list", "bool": "true or false", "str": "a string"}
    name = type(value).__name__
    return RecordError("invalid_type", f"{where} must be {wanted}, not {told.get(name, name) if value != '' else 'empty'}", param=where)
