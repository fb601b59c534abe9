"""Messages to another engine arrive as they were sent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from infer.core.errors import RecordError
from infer.core.fleet import codec
from infer.core.fleet.media import Asking, frame_of
from infer.core.parallel.wire import Closed
from infer.core.sampling.model_rules import ForcedEnd, NoRepeatedNgrams
from infer.core.text.speech.opening import Opening
from infer.core.text.speech.rules import SpeechRules
from infer.core.text.speech.tokens import SpeechTokens
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.media import MediaPart, Medium
from infer.core.types.outputs import CompletionOutput, Logprob, RequestMetrics, RequestOutput
from infer.core.types.params import SamplingParams
from infer.core.types.placed import Placed
from infer.core.types.prompt_embeds import PromptEmbeds
from infer.core.types.request import Request
from infer.core.types.spans import Spans
from infer.core.types.structured import StructuredOutputsParams

PARAMS = [
    SamplingParams(),
    SamplingParams(
        n=3, temperature=0.1 + 0.2, logit_bias={12: 3.5, 7: -100.0}, stop=("a", "\u2028"), allowed_token_ids=(1, 2), seed=2**63 - 1
    ),
    SamplingParams(structured_outputs=StructuredOutputsParams(choice=("x", "y")), logprobs=-1, prompt_logprobs=2, max_tokens=None),
]


@pytest.mark.parametrize("params", PARAMS)
def test_a_request(params: SamplingParams) -> None:
    request = Request("7", [1, 2, 3], params, 7, "text", -5, BeamSearchParams(4, 9, early_stopping="never"), continuations=((1,), (2, 3)))
    got = codec.loads(codec.dumps(["add", [request]]))[1][0]
    assert type(got) is Request
    for name in Request.__slots__:
        assert getattr(got, name) == getattr(request, name), name


def test_rules_of_a_model_go_with_its_requests() -> None:
    tokens = SpeechTokens(
        **{"start": 1, "end": 0, "languages": {"en": 2}, "tasks": {}, "forced": (None, 4), "no_timestamps": 5, "previous": None},
        **{"suppressed": (7, 8), "begin_suppressed": (), "max_initial": 50, "vocab_size": 99, "positions": 448, "max_length": 448},
    )
    rules = SpeechRules(tokens, timestamps=True)
    params = SamplingParams(logits_processors=(NoRepeatedNgrams(3), ForcedEnd(2, 9), rules, Opening(rules)))
    assert codec.loads(codec.dumps(params)) == params


def test_embeddings_of_a_request() -> None:
    values = np.array([[0.1, -2.5], [1e-30, 3e38]], dtype=np.float32)
    got = codec.loads(codec.dumps(Request("7", [0, 0, 5], SamplingParams(), 7, embeds=PromptEmbeds(values))))
    assert got.num_virtual == 2
    assert np.array_equal(got.embeds.values, values)


def test_an_answer() -> None:
    entries = {5: Logprob(-0.1, 1, "a"), 9: Logprob(-math.inf, 400, None)}
    choice = CompletionOutput(0, "text", [5, 9], "stop", "\n", -1e-300, [entries, {}], score=math.nan)
    output = RequestOutput("7", None, [1], [choice], prompt_logprobs=[None, entries], metrics=RequestMetrics(1.5, finished_time=2.25))
    got = codec.loads(codec.dumps(output))
    assert math.isnan(got.outputs[0].score)
    got.outputs[0].score = choice.score = None
    assert got == output
    assert list(got.prompt_logprobs[1]) == [5, 9]  # token ids stay numbers, likeliest first


def test_an_error_and_what_cannot_be_sent() -> None:
    error = codec.loads(
        codec.dumps(RequestOutput("1", None, [], error=RecordError("kv_capacity", "too long", param="prompt", retryable=True)))
    ).error
    assert error.to_json() == {"code": "kv_capacity", "message": "too long", "param": "prompt", "retryable": True}
    with pytest.raises(TypeError, match="function"):
        codec.dumps(SamplingParams(logits_processors=(lambda ids, logits: logits,)))


def test_what_json_libraries_do_not_hold() -> None:
    """No number and no text ends a run because of how it travels."""
    request = Request("7", [2**63 - 1, 10**30], SamplingParams(stop=("\ud800",)), 7, "half a pair: \udfff", 10**30)
    got = codec.loads(codec.dumps(request))
    assert [getattr(got, name) for name in Request.__slots__] == [getattr(request, name) for name in Request.__slots__]


def test_values_of_a_frame_stay_apart() -> None:
    good = RequestOutput("1", "text", [1, 2])
    frame = codec.frame(["add", None], [("1", codec.dumps(good)), ("2", b'{"":"NoSuchClass","v":[]}'), ("3", codec.dumps(10**30))])
    head, values = codec.unframe(frame)
    assert head == ["add", None]
    assert [name for name, _ in values] == ["1", "2", "3"]
    assert codec.decode(values[0][1]) == good
    with pytest.raises(KeyError):
        codec.decode(values[1][1])
    assert codec.decode(values[2][1]) == 10**30
    assert codec.unframe(codec.frame([[1, 2], None])) == ([[1, 2], None], [])


def test_media_go_by_their_key_and_come_when_they_are_asked_for() -> None:
    image = pytest.importorskip("PIL.Image").effect_noise((9, 5), 50).convert("RGB")
    sound = np.linspace(-1, 1, 7, dtype=np.float32)
    media = [
        Medium("image", image, "a", "x.png", num_bytes=135),
        Medium("video", [image, image.resize((3, 2))], "b", rate=2.0, times=(0.0, 0.5)),
        Medium("audio", sound, "c", rate=16000.0),
    ]
    parts = [MediaPart(medium.kind, medium.data, f"messages[{i}]") for i, medium in enumerate(media)]
    placed = tuple(
        Placed(bytes([i]) * 16, np.arange(i, i + 3), part, medium, {"a": [1, None]})
        for i, (part, medium) in enumerate(zip(parts, media, strict=True))
    )
    request = Request("1", [1, 2], SamplingParams(), 0, media=placed, positions=np.arange(6).reshape(3, 2))
    request.spans = Spans(((0, 2),), windowed=True)
    there = codec.loads(codec.dumps(request))
    assert there.spans == request.spans
    assert (there.positions == request.positions).all()
    asked: list[bytes] = []
    asking = Asking(asked.append)
    for one, medium, sent in zip(there.media, media, placed, strict=True):
        assert (one.key, one.rows.tolist(), one.options, one.part.param, one.medium) == (
            *(sent.key, sent.rows.tolist(), sent.options, sent.part.param),
            None,
        )
        asking.take(frame_of(b"other" * 4, RecordError("media_error", "gone")))
        asking.take(frame_of(one.key, medium))
        came = asking.load(one.part)
        assert asked[-1] == one.key
        assert (came.kind, came.hash, came.rate, came.times) == (medium.kind, medium.hash, medium.rate, medium.times)
        assert np.array_equal(came.data, sound) if medium.kind == "audio" else came.data == medium.data
    asking.take(frame_of(there.media[0].key, RecordError("media_error", "gone", param="messages[0]", retryable=True)))
    with pytest.raises(RecordError, match="gone") as caught:
        asking.load(there.media[0].part)
    assert (caught.value.code, caught.value.param, caught.value.retryable) == ("media_error", "messages[0]", True)
    for _ in range(2):
        asking.take(Closed("over"))
        with pytest.raises(Closed):
            asking.load(there.media[0].part)
