"""Encoders with a decoder against transformers in float32, and to the bit in any company: a row here is what adding one needs."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from infer.core.api.llm import LLM
from infer.core.errors import ConfigError, ModelError, RecordError
from infer.core.types.beam_params import BeamSearchParams
from infer.core.types.params import SamplingParams

from .pairs import COMMON, LENGTHS, Pair, greedy, pair_of, sources, told

OPTIONS: list[tuple[str, dict[str, Any]]] = [
    *((kind, {}) for kind in COMMON),
    ("t5", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "num_layers": 1}),
    ("t5", {"feed_forward_proj": "gated-silu", "layer_norm_epsilon": 0.1, "d_kv": 7, "num_heads": 3}),
    ("umt5", {"tie_word_embeddings": False, "num_decoder_layers": 3}),
    ("bart", {"scale_embedding": True, "activation_function": "relu", "encoder_layers": 1, "encoder_attention_heads": 2}),
    ("mbart", {"forced_bos_token_id": 9}),
    ("marian", {"share_encoder_decoder_embeddings": False, "scale_embedding": True, "activation_function": "swish"}),
    ("m2m_100", {"pad_token_id": 3, "activation_function": "gelu", "scale_embedding": False}),
]


def ids(value: Any) -> str:
    return value if isinstance(value, str) else ",".join(value)


def prompts(llm_sources: list[list[int]]) -> list[dict[str, Any]]:
    return [{"prompt_token_ids": one} for one in llm_sources]


@pytest.mark.parametrize(("kind", "more"), OPTIONS, ids=ids)
def test_tokens_and_log_probabilities_are_those_of_transformers(
    compiled_kernels: None, tmp_path: Path, kind: str, more: dict[str, Any]
) -> None:
    pair = pair_of(kind, tmp_path, **more)
    llm = pair.llm()
    for source, output in zip(sources(), llm.generate(prompts(sources()), greedy(), use_tqdm=False), strict=True):
        begun = output.prompt_token_ids
        assert output.encoder_prompt_token_ids == source
        assert begun[0] == pair.theirs.generation_config.decoder_start_token_id
        choice = output.outputs[0]
        expected = pair.logprobs(source, [*begun, *choice.token_ids])[len(begun) - 1 :]
        for entries, token, theirs in zip(choice.logprobs or (), choice.token_ids, expected, strict=False):
            assert token == theirs.argmax(), "greedy"
            for i, entry in entries.items():
                assert entry.logprob == pytest.approx(theirs[i].item(), abs=5e-4)


@pytest.fixture(scope="module")
def t5(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return pair_of("t5", tmp_path_factory.mktemp("t5"), seed=1)


@pytest.fixture(scope="module")
def alone(t5: Pair) -> list[Any]:
    """What each input gets by itself."""
    llm = t5.llm(max_num_seqs=1, enable_prefix_caching=False)
    return [told(llm.generate([one], greedy(), use_tqdm=False)[0]) for one in prompts(sources())]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"block_size": 32, "enable_prefix_caching": False},
        {"max_num_batched_tokens": 129, "max_num_seqs": 3},
        {"kernels": "reference"},
        {"num_gpu_blocks_override": 16, "kv_cache_memory_bytes": None},
        {"enable_chunked_prefill": False, "max_num_batched_tokens": 256},
        {"long_prefill_token_threshold": 4},
        {"speculation": "ngram"},
    ],
    ids=",".join,
)
def test_answers_are_the_same_in_any_company(t5: Pair, alone: list[Any], settings: dict[str, Any]) -> None:
    llm = t5.llm(**settings)
    if settings.get("kernels") == "reference":  # whose own bits are others'
        alone = [told(llm.generate([one], greedy(), use_tqdm=False)[0]) for one in prompts(sources())]
    for order in (1, -1):
        outputs = llm.generate(prompts(sources())[::order] * 2, greedy(), use_tqdm=False)
        assert [told(output) for output in outputs] == alone[::order] * 2


@pytest.mark.parametrize("kind", [kind for kind in COMMON if kind != "t5"])
def test_every_family_answers_the_same_in_any_company(compiled_kernels: None, tmp_path: Path, kind: str) -> None:
    pair = pair_of(kind, tmp_path, seed=2)
    llm = pair.llm(max_num_seqs=1, enable_prefix_caching=False)
    alone = [told(llm.generate([one], greedy(), use_tqdm=False)[0]) for one in prompts(sources())]
    outputs = pair.llm(max_num_batched_tokens=129, max_num_seqs=3).generate(prompts(sources())[::-1] * 2, greedy(), use_tqdm=False)
    assert [told(output) for output in outputs] == alone[::-1] * 2


def test_an_input_that_was_read_before_is_not_read_again(t5: Pair, alone: list[Any]) -> None:
    llm, source = t5.llm(), sources()[-1]
    first, again = (llm.generate([{"prompt_token_ids": source}], greedy(), use_tqdm=False)[0] for _ in range(2))
    assert told(first) == told(again) == alone[-1]
    assert (first.num_cached_tokens, again.num_cached_tokens) == (0, 80), "five blocks for 70 tokens"
    longer = llm.generate([{"prompt_token_ids": [*source[:64], 9]}], greedy(), use_tqdm=False)[0]
    assert longer.num_cached_tokens == 0, "what is kept of its first tokens depends on its last"


def test_preempted_ones_end_as_others_do(t5: Pair, alone: list[Any]) -> None:
    llm = t5.llm(num_gpu_blocks_override=12, kv_cache_memory_bytes=None, max_model_len=96, watermark=0.0)
    outputs = llm.generate(prompts(sources()) * 2, greedy(40), use_tqdm=False)
    whole = t5.llm().generate(prompts(sources()), greedy(40), use_tqdm=False)
    assert [told(output) for output in outputs] == [told(output) for output in whole] * 2


def test_choices_seeds_and_log_probabilities_of_the_decoders_prompt(t5: Pair) -> None:
    llm, begun = t5.llm(), [0, 7, 30, 41]
    params = SamplingParams(temperature=1.0, seed=5, n=3, max_tokens=8, logprobs=1, prompt_logprobs=2, ignore_eos=True)
    asked = [{"encoder_prompt": {"prompt_token_ids": one}, "decoder_prompt": begun} for one in sources()]
    together = llm.generate(asked, params, use_tqdm=False)
    single = t5.llm(max_num_seqs=1)
    for one, output in zip(asked, together, strict=True):
        assert told(output) == told(single.generate([one], params, use_tqdm=False)[0])
        assert len({choice.token_ids[0] for choice in output.outputs} | {choice.token_ids[1] for choice in output.outputs}) > 1
        assert output.prompt_token_ids == begun
        assert output.prompt_logprobs is not None
        assert [entries is None for entries in output.prompt_logprobs] == [True, False, False, False]
        theirs = t5.logprobs(one["encoder_prompt"]["prompt_token_ids"], begun)
        for place, entries in enumerate(output.prompt_logprobs[1:]):
            assert entries is not None
            assert entries[begun[place + 1]].logprob == pytest.approx(theirs[place, begun[place + 1]].item(), abs=2e-4)


def test_beams_are_those_of_transformers(t5: Pair) -> None:
    llm = t5.llm()
    beam = BeamSearchParams(beam_width=4, max_tokens=10, scoring="hf", length_penalty=1.0)
    for source, output in zip(sources(), llm.beam_search(prompts(sources()), beam), strict=True):
        theirs = t5.theirs.generate(
            **{"input_ids": torch.tensor([source]), "max_new_tokens": 10, "num_beams": 4, "num_return_sequences": 4},
            **{"do_sample": False, "output_scores": True, "return_dict_in_generate": True, "use_cache": False},
        )
        for mine, tokens, score in zip(output.sequences, theirs.sequences.tolist(), theirs.sequences_scores.tolist(), strict=True):
            ours = list(mine.tokens)
            assert ours == tokens[: len(ours)]
            assert not any(tokens[len(ours) :]), "padding"
            assert mine.score == pytest.approx(score, abs=1e-4)


def test_tokens_that_the_models_files_forbid_are_never_written(compiled_kernels: None, tmp_path: Path) -> None:
    """Marian's padding, which is also what its decoder begins with, has a logit like others."""
    pair = pair_of("marian", tmp_path, decoder_start_token_id=1)
    source = sources()[-1]
    free = pair.llm().generate([{"prompt_token_ids": source}], greedy(), use_tqdm=False)[0].outputs[0].token_ids
    config = pair.theirs.generation_config
    config.bad_words_ids, config.suppress_tokens = [[free[0]], [3, 4]], [free[-1]]
    config.save_pretrained(tmp_path)
    theirs = pair.theirs.generate(torch.tensor([source]), max_new_tokens=12, min_new_tokens=12, do_sample=False, num_beams=1)[0].tolist()
    answer = pair.llm().generate([{"prompt_token_ids": source}], greedy(), use_tqdm=False)[0].outputs[0]
    assert not {free[0], free[-1]} & {*answer.token_ids}
    assert answer.token_ids[:4] == theirs[1:5]
    assert (
        pair.llm(generation_config="none").generate([{"prompt_token_ids": source}], greedy(), use_tqdm=False)[0].outputs[0].token_ids
        == free
    )
    config.bad_words_ids = [[5000]]
    config.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="name 5000, which is no token"):
        pair.llm()


def test_an_input_that_does_not_fit_is_an_error_of_its_own(t5: Pair, alone: list[Any]) -> None:
    llm = t5.llm()
    long = {"prompt_token_ids": [7] * 129}
    outputs = llm.generate([*prompts(sources()), long, {"prompt_token_ids": [500]}], greedy(), use_tqdm=False, on_error="return")
    assert [told(output) for output in outputs[: len(LENGTHS)]] == alone
    assert [output.error.code for output in outputs[len(LENGTHS) :] if output.error is not None] == ["prompt_too_long", "invalid_value"]
    fits = llm.generate([{"prompt_token_ids": [7] * 128}], greedy(200), use_tqdm=False)[0].outputs[0]
    assert (len(fits.token_ids), fits.finish_reason) == (127, "length"), "the decoder has as much room for itself"


def test_what_is_not_done_is_refused_by_name(t5: Pair, tiny_llama: Path) -> None:
    for settings in ({"enable_lora": True}, {"tensor_parallel_size": 2}, {"enable_prompt_embeds": True}):
        with pytest.raises(ConfigError, match="encoder"):
            t5.llm(**settings)
    with pytest.raises(ConfigError, match=r"encoder reads up to 128 tokens in one step; raise it to 129"):
        t5.llm(max_num_batched_tokens=100)
    llama = LLM(model=str(tiny_llama), max_model_len=64)
    with pytest.raises(RecordError, match="decoder_prompt is for models that have an encoder"):
        llama.generate([{"encoder_prompt": "a", "decoder_prompt": "b"}], greedy(), use_tqdm=False)
    with pytest.raises(RecordError, match="encoder_prompt is for models that have an encoder"):
        llama.generate([{"encoder_prompt": "a"}], greedy(), use_tqdm=False)
    with pytest.raises(RecordError, match="a prompt by itself"):
        llama.generate([{"encoder_prompt": {"encoder_prompt": "a"}}], greedy(), use_tqdm=False)


def test_ngrams_do_not_repeat_and_ends_are_forced_as_the_files_say(compiled_kernels: None, tmp_path: Path) -> None:
    pair = pair_of("bart", tmp_path, seed=2)
    told = pair.theirs.generation_config
    told.no_repeat_ngram_size, told.forced_eos_token_id, told.forced_bos_token_id = 2, 2, 9
    told.save_pretrained(tmp_path)
    llm, source = pair.llm(), sources()[3]
    params = SamplingParams(temperature=0, max_tokens=30, logprobs=0)
    (greedy_one,) = llm.generate(prompts([source]), params, use_tqdm=False)
    beams = llm.beam_search(prompts([source]), BeamSearchParams(beam_width=3, max_tokens=20, scoring="hf"))[0]
    given = {"input_ids": torch.tensor([source]), "do_sample": False}
    theirs = pair.theirs.generate(**given, max_length=32, num_beams=1)[0].tolist()
    ours = [*greedy_one.prompt_token_ids, *greedy_one.outputs[0].token_ids]
    assert ours == theirs
    assert ours[1] == 9
    pairs = list(itertools.pairwise(ours))
    assert len(set(pairs)) == len(pairs)
    assert ours[-1] == 2, "forced, if it did not come by itself"
    best = pair.theirs.generate(**given, max_length=22, num_beams=3)[0].tolist()
    assert beams.sequences[0].tokens == best
    free = pair.llm(generation_config="none").generate(prompts([source]), greedy(28), use_tqdm=False)[0].outputs[0].token_ids
    assert free != greedy_one.outputs[0].token_ids
