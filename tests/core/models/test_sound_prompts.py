"""One window of sound through `generate` and `beam_search` on a tiny Whisper, beside transformers' own generation in float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from infer.core.api.llm import LLM
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.params import SamplingParams

from .whispers import FIRST_TIME, RATE, SUPPRESSED, TOKEN, VOCABULARY, Whisper, as_read, sound, wav, whisper_of

SECONDS = (0.6, 1.0, 0.3)
GREEDY = SamplingParams(temperature=0, max_tokens=12, logprobs=2)
START, PROMPT = "<|startoftranscript|>", "<|startoftranscript|><|de|><|transcribe|><|notimestamps|>"


@pytest.fixture(scope="module")
def whisper(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Whisper:
    """One that never says times: transformers would go on behind them."""
    made = whisper_of(tmp_path_factory.mktemp("whisper"), seed=3)
    made.theirs.generation_config.suppress_tokens = [*SUPPRESSED, *range(FIRST_TIME, VOCABULARY)]
    made.theirs.generation_config.save_pretrained(made.folder)
    (made.folder / "a.wav").write_bytes(wav(sound(SECONDS[0], 0)))
    return made


@pytest.fixture(scope="module")
def llm(whisper: Whisper) -> LLM:
    return LLM(str(whisper.folder), dtype="float32", kv_cache_memory_bytes="4M", allowed_local_media_path=str(whisper.folder))


def samples(number: int) -> Any:
    return as_read(sound(SECONDS[number], number))


def heard(number: int) -> dict[str, Any]:
    return {"multi_modal_data": {"audio": (samples(number), RATE)}}


def theirs(whisper: Whisper, number: int, **options: Any) -> Any:
    read = whisper.extractor(samples(number), sampling_rate=RATE, return_tensors="pt", padding="max_length")["input_features"]
    with torch.inference_mode():
        return whisper.theirs.generate(read, max_new_tokens=12, output_scores=True, return_dict_in_generate=True, **options)


def told(output: Any) -> Any:
    return [(one.token_ids, one.logprobs, one.text) for one in output.outputs]


def test_tokens_and_log_probabilities_are_those_of_transformers(whisper: Whisper, llm: LLM) -> None:
    asked = [{"encoder_prompt": {"prompt": "", **heard(i)}, "decoder_prompt": PROMPT} for i in range(3)]
    asked += [{"prompt": START, **heard(i)} for i in range(3)]
    outputs = llm.generate(asked, GREEDY, use_tqdm=False)
    said = set()
    for place, output in enumerate(outputs):
        choice, found = output.outputs[0], theirs(whisper, place % 3, language="de" if place < 3 else None)
        whole = [*output.prompt_token_ids, *choice.token_ids]
        behind = 4 - len(output.prompt_token_ids)  # tokens of the language and what follows it, if they are a part of the output
        expected = found["sequences"][0].tolist()[: len(whole)]
        assert whole == expected
        assert output.encoder_prompt_token_ids is None
        assert [next(iter(entries.values())).logprob for entries in (choice.logprobs or ())[:behind]] == [0.0] * behind
        for entries, scores in zip((choice.logprobs or ())[behind:], found["scores"], strict=False):
            row = scores[0].log_softmax(-1)
            for token, entry in entries.items():
                assert entry.logprob == pytest.approx(row[token].item(), abs=5e-4)
        said.add(tuple(choice.token_ids))
    assert len(said) > 3, "the sounds and the languages matter"
    assert outputs[0].prompt_token_ids == [TOKEN[name] for name in ("startoftranscript", "de", "transcribe", "notimestamps")]


def test_beams_are_those_of_transformers(whisper: Whisper, llm: LLM) -> None:
    beam = BeamSearchParams(beam_width=3, num_return=1, max_tokens=12, scoring="hf", length_penalty=1.0)
    asked = [{"prompt": "", **heard(i), "target_language": "german"} for i in range(3)]
    for number, output in enumerate(llm.beam_search(asked, beam)):
        found = theirs(whisper, number, language="de", num_beams=3)
        ours = list(output.sequences[0].tokens)
        assert ours == found["sequences"][0].tolist()[: len(ours)]
        assert output.sequences[0].score == pytest.approx(found["sequences_scores"][0].item(), abs=1e-4)


def test_choices_that_are_drawn_are_the_same_in_any_company_and_form(whisper: Whisper, llm: LLM) -> None:
    params = SamplingParams(temperature=1.5, seed=5, n=3, max_tokens=8, logprobs=0)
    asked = [{"prompt": PROMPT, **heard(i)} for i in range(3)]
    together = [told(output) for output in llm.generate(asked, params, use_tqdm=False)]
    assert together == [told(llm.generate([one], params, use_tqdm=False)[0]) for one in asked]
    assert len({tuple(one[0]) for one in together[0]}) > 1
    same = [
        {"prompt": "", "multi_modal_data": {"audio": str(whisper.folder / "a.wav")}, "target_language": "de"},
        {"prompt": "", "multi_modal_data": {"audio": samples(0)}, "decoder_prompt": PROMPT.removeprefix(START)},
    ]
    assert [told(output) for output in llm.generate(same, params, use_tqdm=False)] == together[:1] * 2


def test_what_is_no_window_of_sound_is_an_error_of_its_own(llm: LLM) -> None:
    good = {"prompt": START, **heard(0)}
    structured = SamplingParams(structured_outputs={"choice": ["a", "b"]}, max_tokens=4, temperature=0)
    wrong: list[tuple[Any, str]] = [
        ({"prompt": "", "multi_modal_data": {"audio": np.zeros(17_000, np.float32)}}, "infer transcribe"),
        ("hello", 'no "audio"'),
        ({"prompt": "", "multi_modal_data": {"audio": [samples(0), samples(1)]}}, "one sound"),
        ({**good, "decoder_prompt": PROMPT}, "give one of them"),
        ({**good, "prompt": PROMPT, "target_language": "de"}, "give one of them"),
        ({**good, "target_language": "klingon"}, "klingon"),
        ({**good, "source_language": "de"}, "source_language"),
    ]
    outputs = llm.generate([good, *(one for one, _ in wrong), good], GREEDY, use_tqdm=False, on_error="return")
    assert told(outputs[0]) == told(outputs[-1]) == told(llm.generate(good, GREEDY, use_tqdm=False)[0])
    for output, (_, words) in zip(outputs[1:-1], wrong, strict=True):
        assert output.error is not None
        assert words in output.error.message
    (refused,) = llm.generate(good, structured, use_tqdm=False, on_error="return")
    assert refused.error is not None
    assert "target_language" in refused.error.message
    (chosen,) = llm.generate({"prompt": PROMPT, **heard(0)}, structured, use_tqdm=False)
    assert chosen.outputs[0].text in ("a", "b")
