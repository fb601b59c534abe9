"""Videos: frames by our own hands against transformers' model and the layout of its processors of videos, which need torchvision."""

from __future__ import annotations

import importlib.util
import io
import json
from typing import Any

import numpy as np
import pytest
import torch

from infer.core.api.llm import LLM

from .families import FAMILIES, Maker, Tiny, picture
from .test_families import PARAMS, SETTINGS, told

COUNT = 5
#: Sides are multiples of what a token covers and within the limits, so that nothing is resized.
WIDE, HIGH = 32, 16


def frames(count: int) -> list[Any]:
    return [picture(10 + i, WIDE, HIGH) for i in range(count)]


def animation(count: int, seconds: float) -> bytes:
    file, (first, *more) = io.BytesIO(), frames(count)
    first.save(file, "WEBP", save_all=True, append_images=more, duration=round(1000 * seconds), lossless=True)
    return file.getvalue()


def patches(tiny: Tiny, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels and grid of the frames, as transformers' processor of videos lays them out (`patches.permute` there)."""
    settings = tiny.processor.image_processor
    patch, merge, together = settings.patch_size, settings.merge_size, settings.temporal_patch_size
    each = frames(count)
    each += [each[-1]] * (-count % together)
    mean, std = (np.array(x, dtype=np.float32) for x in (settings.image_mean, settings.image_std))
    pixels = np.stack([(np.asarray(one, dtype=np.float32) / 255 - mean) / std for one in each]).transpose(0, 3, 1, 2)
    t, h, w = len(each) // together, HIGH // patch, WIDE // patch
    parts = torch.from_numpy(pixels).view(t, together, 3, h // merge, merge, patch, w // merge, merge, patch)
    return parts.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1), torch.tensor([[t, h, w]])


def writes(tiny: Tiny, text: str, given: dict[str, Any]) -> tuple[list[int], list[int], list[list[float]]]:
    """As `Tiny.writes`, of a prompt with all its tokens and the tensors of its media."""
    ids = tiny.processor.tokenizer([text], return_tensors="pt", add_special_tokens=True)["input_ids"]
    kinds = torch.zeros_like(ids)
    for kind, token in ((1, tiny.model.config.image_token_id), (2, getattr(tiny.model.config, "video_token_id", None))):
        if token is not None:
            kinds[ids == token] = kind
    if "image_grid_thw" in given or "video_grid_thw" in given:
        given = {**given, "mm_token_type_ids": kinds}
    with torch.inference_mode():
        out = tiny.model.generate(
            input_ids=ids, max_new_tokens=COUNT, do_sample=False, output_logits=True, return_dict_in_generate=True, **given
        )
    return ids[0].tolist(), out.sequences[0, ids.shape[1] :].tolist(), [x[0].log_softmax(-1).tolist() for x in out.logits]


def expected(tiny: Tiny, kind: str, count: int, seconds: float | None) -> tuple[str, dict[str, Any]]:
    """What stands for a video of so many frames, and the tensors."""
    if kind == "internvl":
        pixels = tiny.processor.image_processor(images=frames(count), crop_to_patches=False, return_tensors="pt")["pixel_values"]
        return "\n".join(f"Frame{i + 1}: <img>{'<IMG_CONTEXT>' * 4}</img>" for i in range(count)), {"pixel_values": pixels}
    pixels, grid = patches(tiny, count)
    given: dict[str, Any] = {"pixel_values_videos": pixels, "video_grid_thw": grid}
    tokens = "<|video_pad|>" * int(grid[0, 1:].prod() // 4)
    if kind == "qwen2_5_vl":
        given["second_per_grid_ts"] = torch.tensor([1.0 if seconds is None else 2 * seconds])
    if kind != "qwen3_vl":
        return f"<|vision_start|>{tokens * int(grid[0, 0])}<|vision_end|>", given
    times = [i * (1 / 24 if seconds is None else seconds) for i in range(count)]
    times += [times[-1]] * (count % 2)
    pairs = [(a + b) / 2 for a, b in zip(times[::2], times[1::2], strict=True)]
    # A prompt has one pair of the marks around a video's place, and each patch of frames one more.
    inner = "".join(f"<{time:.1f} seconds><|vision_start|>{tokens}<|vision_end|>" for time in pairs)
    return f"<|vision_start|>{inner}<|vision_end|>", given


@pytest.mark.parametrize("kind", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_videos_are_what_transformers_makes_of_them(tiny_family: Maker, kind: str) -> None:
    """Of frames and of files, beside an image, in steps that cut through them and in company."""
    tiny = tiny_family(kind)
    if kind == "qwen3_vl":  # of all frames together
        (tiny.folder / "video_preprocessor_config.json").write_text(json.dumps({"size": {"shortest_edge": 512, "longest_edge": 4096}}))
    at, image = tiny.placeholder, picture(1, WIDE, HIGH)
    holder = "<video>" if kind == "internvl" else "<|vision_start|><|video_pad|><|vision_end|>"
    shown = tiny.processor(text=[at], images=[image], return_tensors="pt")
    of_image = tiny.processor.tokenizer.decode(shown["input_ids"][0])
    pixels = {name: shown[name] for name in ("pixel_values", "image_grid_thw") if name in shown}
    prompts, wanted = [], []
    for count, seconds in ((5, None), (4, 0.7), (1, None)):
        text, given = expected(tiny, kind, count, seconds)
        medium: Any = frames(count) if seconds is None else animation(count, seconds)
        prompts.append({"prompt": f"Look: {holder} and?", "multi_modal_data": {"video": [medium]}})
        wanted.append(writes(tiny, f"Look: {text} and?", given))
        if count == 4:
            prompts.append({"prompt": f"{holder} or {at}!", "multi_modal_data": {"image": [image], "video": [medium]}})
            both = {**given, **pixels}
            if kind == "internvl":
                both = {"pixel_values": torch.cat([given["pixel_values"], pixels["pixel_values"]])}
            wanted.append(writes(tiny, f"{text} or {of_image}!", both))
    prompts.append("Text alone.")
    with LLM(str(tiny.folder), **SETTINGS, max_num_batched_tokens=16, max_num_seqs=3) as llm:
        outputs = llm.generate(prompts, {**PARAMS, "max_tokens": COUNT}, use_tqdm=False)
        again = llm.generate(prompts[:1], {**PARAMS, "max_tokens": COUNT}, use_tqdm=False)
    for output, (ids, tokens, logprobs) in zip(outputs, wanted, strict=False):
        found, written, steps = told(output)
        assert found == ids
        assert written == tokens
        for step, all_of_them in zip(steps, logprobs, strict=True):
            for token, logprob in step.items():
                assert logprob == pytest.approx(all_of_them[token], abs=2e-4)
    assert told(again[0]) == told(outputs[0])


@pytest.mark.skipif(importlib.util.find_spec("num2words") is None, reason="num2words is not there")
def test_smolvlm_tells_the_time_of_frames(tiny_family: Maker) -> None:
    tiny = tiny_family("smolvlm")
    with LLM(str(tiny.folder), **SETTINGS) as llm:
        (output,) = llm.generate(
            {"prompt": "<video>What?", "multi_modal_data": {"video": [animation(3, 30)]}}, {**PARAMS, "max_tokens": COUNT}, use_tqdm=False
        )
    text = tiny.processor.tokenizer.decode(output.prompt_token_ids)
    assert text.startswith("You are provided the following series of three frames from a 0:01:00 [H:MM:SS] video.\n")
    assert text.count("<image>") == 3 * FAMILIES["smolvlm"].settings["image_seq_len"]
    assert [f"from {time}:" in text for time in ("00:00", "00:30", "01:00")] == [True] * 3
    shown = tiny.processor.image_processor(images=[frames(3)], do_image_splitting=False, return_tensors="pt")
    pixels = {name: shown[name] for name in ("pixel_values", "pixel_attention_mask")}
    ids, written, _ = writes(tiny, text, pixels)
    assert (output.prompt_token_ids, output.outputs[0].token_ids) == (ids, written)


def test_what_is_wrong_with_a_video_is_its_records_error(tiny_family: Maker) -> None:
    tiny, holder = tiny_family("qwen2_vl"), "<|video_pad|>"
    good, sizes = animation(2, 0.5), [picture(1, 32, 16), picture(1, 16, 32)]
    videos = [good[: len(good) // 2], sizes, b"<html></html>", good, [np.zeros((0, 4, 3), np.uint8)]]
    prompts: list[Any] = [{"prompt": holder, "multi_modal_data": {"video": [video]}} for video in videos]
    prompts += [{"prompt": f"{holder}{holder}", "multi_modal_data": {"video": [good]}}]
    with LLM(str(tiny.folder), **SETTINGS) as llm:
        outputs = llm.generate(prompts, {**PARAMS, "max_tokens": 2}, use_tqdm=False, on_error="return")
    codes = [output.error.code if output.error else None for output in outputs]
    assert codes == ["media_error", "media_error", "media_error", None, "media_error", "invalid_value"]
    assert "of one size" in str(outputs[1].error)
    assert "2 places for videos (<|video_pad|>), and 1 is given" in str(outputs[5].error)
