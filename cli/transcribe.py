"""`infer transcribe`: write down what is said in the sounds of a JSONL file."""

from __future__ import annotations

import click

from .job import run_command
from .options import Command, JobOptions, engine_options, io_options
from .options.transcribe import speech_options
from .spec import transcribe_spec


@click.command(cls=Command)
@io_options
@speech_options
@engine_options
def transcribe(*, io: JobOptions) -> int:
    """Write down what is said in the sounds of a JSONL file; one output line per record, in input order.

    IN and OUT are files, or - for stdin and stdout (the default). A record is a JSON object with `audio`: a path under
    --allowed-local-media-path, a data: or http(s) URL, or {"data": base64, "format": "wav"}. It may have an `id`, `language`, `task`
    (transcribe, translate), `prompt`, `temperature`, `response_format` and the options below of its own; other fields come back in
    `extra`. The answer has `text`, `language`, and `segments` with their times; long sounds are read window by window. OpenAI Batch lines
    (/v1/audio/transcriptions, /v1/audio/translations, with `file_url`) are answered in their own form. Several answers to
    a sound (n) are for infer generate. A record that fails has its error in its place, and the exit status is then 3. More: infer help
    transcription.

    \b
    infer transcribe --model ./whisper-small --allowed-local-media-path calls calls.jsonl texts.jsonl
    infer transcribe --model ./whisper-small --language de --response-format srt --allowed-local-media-path . films.jsonl
    """
    return run_command(transcribe_spec(io))
