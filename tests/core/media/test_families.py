"""Every family that reads images: against transformers' whole model, from text and images to tokens and log-probabilities."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.api.llm import LLM
from infer.core.models.hf.tower import Tower
from infer.core.types.outputs import RequestOutput

from .families import FAMILIES, SPECIALS, Maker, Tiny, picture, with_towers

COUNT = 8
SETTINGS: dict[str, Any] = {"dtype": "float32", "device": "cpu", "max_model_len": 1024, "seed": 0}
PARAMS = {"max_tokens": COUNT, "temperature": 0, "logprobs": 3, "ignore_eos": True}


def cases(tiny: Tiny) -> list[tuple[str, list[Any]]]:
    """Prompts with one image and with several, the same image in other words, other images in the same, and text alone."""
    wide, tall, small = picture(1, 90, 40), picture(2, 40, 75), picture(3, 33, 32)
    at = tiny.placeholder
    return [
        (f"What is in {at}?", [wide]),
        ("No picture at all.", []),
        (f"{at}\nAnd {at} or {at}", [tall, wide, small]),
        (f"What is in {at}?", [tall]),
        (f"Tell me: {at}", [wide]),
    ]


def answers(tiny: Tiny, some: list[tuple[str, list[Any]]], **settings: Any) -> list[RequestOutput]:
    with LLM(str(tiny.folder), **{**SETTINGS, **settings}) as llm:
        prompts: list[Any] = [{"prompt": text, "multi_modal_data": {"image": images}} if images else text for text, images in some]
        return llm.generate(prompts, PARAMS, use_tqdm=False, on_error="return")


def told(output: RequestOutput) -> Any:
    """All that an output says."""
    (choice,) = output.outputs
    assert choice.logprobs is not None
    return output.prompt_token_ids, choice.token_ids, [{t: one.logprob for t, one in step.items()} for step in choice.logprobs]


def test_every_family_has_a_row() -> None:
    assert {family.kind or name for name, family in FAMILIES.items()} == set(with_towers())


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_family_writes_what_transformers_does(tiny_family: Maker, kind: str) -> None:
    tiny = tiny_family(kind)
    some = cases(tiny)
    outputs = answers(tiny, some)
    for (text, images), output in zip(some, outputs, strict=True):
        ids, written, logprobs = tiny.writes(text, images, COUNT)
        assert output.prompt_token_ids == ids
        (choice,) = output.outputs
        assert choice.token_ids == written
        assert choice.logprobs is not None
        for step, expected in zip(choice.logprobs, logprobs, strict=True):
            for token, one in step.items():
                assert one.logprob == pytest.approx(expected[token], abs=2e-4)


@pytest.mark.parametrize("kind", FAMILIES)
def test_no_answer_depends_on_the_schedule(tiny_family: Maker, kind: str) -> None:
    """Alone, in chunks that cut through images, with little memory so that some are begun anew, and with cached prefixes."""
    tiny = tiny_family(kind)
    some = cases(tiny)
    expected = [told(one) for one in answers(tiny, some)]
    assert [told(one) for one in answers(tiny, some[:3], max_num_seqs=1, enable_prefix_caching=False)] == expected[:3]
    cut = answers(tiny, [*some, *some], max_num_batched_tokens=max(16, FAMILIES[kind].most_together), max_num_seqs=3)
    assert [told(one) for one in cut] == expected * 2
    scarce = answers(tiny, some, num_gpu_blocks_override=28, block_size=16, max_model_len=400, enable_prefix_caching=False)
    assert [told(one) for one in scarce] == expected


def test_stages_answer_as_one_rank(tiny_family: Maker, forked_ranks: None) -> None:
    """Images whose tokens see each other both ways, so that a step never ends in one: where they are goes to every stage."""
    tiny = tiny_family("gemma3")
    alone, cut = answers(tiny, cases(tiny)), answers(tiny, cases(tiny), pipeline_parallel_size=2, max_num_batched_tokens=32, max_num_seqs=3)
    assert [told(one) for one in cut] == [told(one) for one in alone]


def test_an_image_that_the_tower_fails_on_fails_those_who_have_it(tiny_family: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = tiny_family("idefics3")
    some = cases(tiny)
    expected = [told(one) for one in answers(tiny, some)]
    run, calls = Tower.__call__, [0]

    def fail_once(tower: Tower, inputs: Any) -> Any:
        calls[0] += 1
        if calls[0] == 1:
            raise MemoryError("no room\nfor it")
        return run(tower, inputs)

    monkeypatch.setattr(Tower, "__call__", fail_once)
    outputs = answers(tiny, some, max_num_seqs=1)
    (failed,) = (i for i, output in enumerate(outputs) if output.error is not None)
    assert outputs[failed].error.code == "media_error"
    assert "the model cannot read this image (MemoryError: no room)" in str(outputs[failed].error)
    assert all(told(one) == expected[i] for i, one in enumerate(outputs) if i != failed), "asked for again, the same image was read"


def test_pan_and_scan_and_too_small_steps(tiny_family: Maker) -> None:
    """Crops of Gemma 3 are images of their own in a prompt; an image that no step has room for is its record's error."""
    tiny = tiny_family("gemma3")
    prompt, images = f"What is in {tiny.placeholder}?", [picture(1, 90, 40)]
    cropped = {"do_pan_and_scan": True, "pan_and_scan_min_crop_size": 16, "pan_and_scan_max_num_crops": 4}
    cropped["pan_and_scan_min_ratio_to_activate"] = 1.2
    ids, written, _ = tiny.writes(prompt, images, COUNT, **cropped)
    given = {"prompt": prompt, "multi_modal_data": {"image": images}}
    with LLM(str(tiny.folder), **SETTINGS, max_num_batched_tokens=16, max_num_seqs=2) as llm:
        first, plain = llm.generate([{**given, "mm_processor_kwargs": cropped}, given], PARAMS, use_tqdm=False)
    assert (first.prompt_token_ids, first.outputs[0].token_ids) == (ids, written)
    assert ids.count(len(SPECIALS)) > plain.prompt_token_ids.count(len(SPECIALS)) == 16
    alone, refused = answers(tiny, [("No picture.", []), (prompt, images)], max_num_batched_tokens=15, max_num_seqs=2)
    assert (alone.error, refused.error.code) == (None, "prompt_too_long")
    assert "--max-num-batched-tokens 16 would be enough" in str(refused.error)
