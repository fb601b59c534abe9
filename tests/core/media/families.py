"""Tiny models of every family that reads images, with random weights, their processors and transformers' answers."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from infer.core.spec.architectures import wrapper_of, wrappers

Image = pytest.importorskip("PIL.Image")

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
#: A template in the form of those that such models have: a content part of an image becomes the placeholder.
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}"
    "{% if p.type == 'image' %}PLACEHOLDER{% elif p.type == 'video' %}VIDEO{% else %}{{ p.text }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
CLIP = {**SMALL, "model_type": "clip_vision_model", "projection_dim": 16}
TEXT = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 2048,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MEAN = {"image_mean": [0.5, 0.4, 0.6], "image_std": [0.2, 0.3, 0.25]}


@dataclass(frozen=True)
class Family:
    """
    Args:
        specials: tokens of its own; the first stands for a piece of an image.
        processor, images: module and class of the processor, and module, class and settings of that of images.
        config, text: of the model, and of the language model in it.
        settings: of the processor.
        placeholder, video: what stands for an image and for a video in a prompt; no video: it reads none.
        tokens: names of tokens that the tokenizer knows.
        kind: its model_type, where that is not its name here.
        most_together: tokens of one of `cases` that are computed in one step, at most.
    """

    specials: Sequence[str]
    processor: tuple[str, str]
    images: tuple[str, str, Mapping[str, Any]]
    config: Mapping[str, Any]
    text: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    placeholder: str = "<image>"
    tokens: Mapping[str, str] = field(default_factory=dict)
    kind: str = ""
    video: str = ""
    most_together: int = 1


TILES = ["<image>", "<fake_token_around_image>", "<end_of_utterance>", "<global-img>"]
TILES += [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
CROPPED = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}, **MEAN}
TILED = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}
FAMILIES: dict[str, Family] = {
    "llava": Family(
        ["<image>"],
        ("llava", "LlavaProcessor"),
        ("clip", "CLIPImageProcessorPil", CROPPED),
        {"vision_config": CLIP},
        settings={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "llava_next": Family(
        ["<image>"],
        ("llava_next", "LlavaNextProcessor"),
        ("llava_next", "LlavaNextImageProcessorPil", {**CROPPED, "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]}),
        {"vision_config": CLIP, "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]]},
        {"model_type": "mistral", "sliding_window": None},
        settings={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
    ),
    "idefics3": Family(
        TILES,
        ("idefics3", "Idefics3Processor"),
        ("idefics3", "Idefics3ImageProcessorPil", TILED),
        {"vision_config": SMALL, "scale_factor": 2},
        settings={"image_seq_len": 4},
    ),
    "smolvlm": Family(
        TILES,
        ("smolvlm", "SmolVLMProcessor"),
        ("smolvlm", "SmolVLMImageProcessorPil", TILED),
        {"vision_config": SMALL, "scale_factor": 2},
        settings={"image_seq_len": 4},
    ),
}


QWEN = ["<|image_pad|>", "<|vision_start|>", "<|vision_end|>", "<|video_pad|>"]
QWEN_TOWER = {"depth": 3, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "patch_size": 4, "temporal_patch_size": 2}
QWEN_IMAGES = {"patch_size": 4, "temporal_patch_size": 2, "merge_size": 2, "min_pixels": 16 * 16, "max_pixels": 40 * 40, **MEAN}


def qwen(kind: str, name: str, tower: Mapping[str, Any], text: Mapping[str, Any]) -> Family:
    return Family(
        QWEN,
        (kind.removesuffix("_moe"), f"{name}Processor"),
        ("qwen2_vl", "Qwen2VLImageProcessorPil", QWEN_IMAGES),
        {"vision_config": {**QWEN_TOWER, **tower}, "vision_start_token_id": 4, "vision_end_token_id": 5, "video_token_id": 6},
        {"model_type": f"{kind}_text", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 3, 3]}, **text},
        placeholder="<|vision_start|><|image_pad|><|vision_end|>",
        video="<|vision_start|><|video_pad|><|vision_end|>",
    )


FAMILIES |= {
    "qwen2_vl": qwen("qwen2_vl", "Qwen2VL", {"embed_dim": 32, "hidden_size": 64}, {}),
    "qwen2_5_vl": qwen("qwen2_5_vl", "Qwen2_5_VL", {"out_hidden_size": 64, "fullatt_block_indexes": [1], "window_size": 32}, {}),
    "qwen3_vl": qwen("qwen3_vl", "Qwen3VL", {"out_hidden_size": 64, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64}, {}),
    "qwen3_vl_moe": qwen(
        "qwen3_vl_moe",
        "Qwen3VL",
        {"out_hidden_size": 64, "deepstack_visual_indexes": [0, 2], "num_position_embeddings": 64},
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True, "mlp_only_layers": []},
    ),
    "mistral3": Family(
        ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        ("pixtral", "PixtralProcessor"),
        ("pixtral", "PixtralImageProcessorPil", {"size": {"longest_edge": 64}, "patch_size": 8, **MEAN}),
        {"vision_config": {**SMALL, "model_type": "pixtral", "head_dim": 16, "image_size": 64}, "spatial_merge_size": 2},
        {"model_type": "mistral", "sliding_window": None},
        settings={"patch_size": 8, "spatial_merge_size": 2},
        placeholder="[IMG]",
    ),
    "internvl": Family(
        ["<IMG_CONTEXT>", "<img>", "</img>", "<video>"],
        ("internvl", "InternVLProcessor"),
        ("got_ocr2", "GotOcr2ImageProcessorPil", {"size": {"height": 32, "width": 32}, "min_patches": 1, "max_patches": 4, **MEAN}),
        {
            "vision_config": {**SMALL, "model_type": "internvl_vision", "image_size": [32, 32], "patch_size": [8, 8]},
            "downsample_ratio": 0.5,
        },
        {"model_type": "qwen2", "use_sliding_window": False},
        settings={"image_seq_length": 4},
        placeholder="<IMG_CONTEXT>",
        video="<video>",
        tokens={
            "context_image_token": "<IMG_CONTEXT>",
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "video_token": "<video>",
        },
    ),
}


#: Windows are shorter than images.
GEMMA = {"sliding_window": 8, "query_pre_attn_scalar": 16, "tie_word_embeddings": False, "attn_implementation": "eager"}
GEMMA["layer_types"] = ["sliding_attention", "full_attention", "sliding_attention"]
SIGLIP = {**SMALL, "model_type": "siglip_vision_model", "vision_use_head": False}
FAMILIES |= {
    "gemma3": Family(
        ["<image_soft_token>", "<start_of_image>", "<end_of_image>"],
        ("gemma3", "Gemma3Processor"),
        ("gemma3", "Gemma3ImageProcessorPil", {"size": {"height": 32, "width": 32}, **MEAN}),
        {"vision_config": SIGLIP, "mm_tokens_per_image": 16},
        {"model_type": "gemma3_text", **GEMMA},
        settings={"image_seq_length": 16},
        placeholder="<start_of_image>",
        tokens={"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        most_together=16,
    ),
    "paligemma": Family(
        ["<image>"],
        ("paligemma", "PaliGemmaProcessor"),
        ("siglip", "SiglipImageProcessorPil", {"size": {"height": 32, "width": 32}, "image_seq_length": 16, **MEAN}),
        {"vision_config": {**SIGLIP, "projection_dim": 64}, "projection_dim": 64, "hidden_size": 64, "vocab_size": 261},
        {"model_type": "gemma2", **GEMMA},
        tokens={"image_token": "<image>"},
        most_together=80,
    ),
    "llava with a tower of Pixtral": Family(
        ["[IMG]", "[IMG_BREAK]", "[IMG_END]"],
        ("pixtral", "PixtralProcessor"),
        ("pixtral", "PixtralImageProcessorPil", {"size": {"longest_edge": 64}, "patch_size": 8, **MEAN}),
        {
            "vision_config": {**SMALL, "model_type": "pixtral", "head_dim": 16, "image_size": 64},
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
        },
        {"model_type": "mistral", "sliding_window": None},
        settings={"patch_size": 8},
        placeholder="[IMG]",
        kind="llava",
    ),
}


def with_towers() -> list[str]:
    """The families whose images are read."""
    return [kind for kind in wrappers() if (found := wrapper_of(kind)) is not None and found.vision is not None]


@dataclass(frozen=True)
class Tiny:
    """A family's folder, and transformers' processor and model of it."""

    kind: str
    folder: Path
    processor: Any
    model: Any

    @property
    def placeholder(self) -> str:
        return FAMILIES[self.kind].placeholder

    def inputs(self, text: str, images: Sequence[Any], **more: Any) -> dict[str, Any]:
        """What transformers makes of a prompt; `more`: arguments of its processor."""
        if self.kind == "paligemma" and not images:  # its processor takes none without
            return dict(self.processor.tokenizer([text], return_tensors="pt", return_token_type_ids=False))
        made = self.processor(text=[text], images=list(images) or None, return_tensors="pt", add_special_tokens=True, **more)
        return {key: value for key, value in made.items() if key != "labels"}

    @torch.inference_mode()
    def writes(self, text: str, images: Sequence[Any], count: int, **more: Any) -> tuple[list[int], list[int], list[list[float]]]:
        """(token ids of the prompt, ids that it writes greedily, the log-probabilities of all tokens where each was drawn)."""
        given = self.inputs(text, images, **more)
        size = given["input_ids"].shape[1]
        out = self.model.generate(
            **given, max_new_tokens=count, do_sample=False, output_logits=True, return_dict_in_generate=True, use_cache=True
        )
        return given["input_ids"][0].tolist(), out.sequences[0, size:].tolist(), [x[0].log_softmax(-1).tolist() for x in out.logits]


def tokenizer(folder: Path, family: Family) -> int:
    """Writes a tokenizer of bytes; returns the size of its vocabulary."""
    specials = [*SPECIALS, *family.specials]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    vocab["ĊĊ"] = len(vocab)
    made = Tokenizer(models.BPE(vocab=vocab, merges=[("Ċ", "Ċ")]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(token, special=True) for token in specials])
    made.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "extra_special_tokens": dict(family.tokens),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("PLACEHOLDER", family.placeholder).replace("VIDEO", family.video))
    return len(vocab)


def _class(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"transformers.models.{module}"), name)


def _processor(folder: Path, family: Family) -> Any:
    module, name = family.processor
    with pytest.MonkeyPatch.context() as patch:
        if importlib.util.find_spec("torchvision") is None and module == "pixtral":
            twin = importlib.import_module("transformers.models.pixtral.image_processing_pil_pixtral")
            patch.setitem(sys.modules, "transformers.models.pixtral.image_processing_pixtral", twin)
        package = importlib.import_module(f"transformers.models.{module}.processing_{module}")
    kind = getattr(package, name)

    class Quiet(kind):  # type: ignore[valid-type, misc]
        """Videos are read by torchvision, which need not be there."""

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    Quiet.__name__ = name
    Quiet.get_attributes = kind.get_attributes
    module, name, settings = family.images
    images = getattr(importlib.import_module(f"transformers.models.{module}.image_processing_pil_{module}"), name)(**settings)
    parts = {"image_processor": images, "tokenizer": transformers.AutoTokenizer.from_pretrained(folder)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "num2words", str, raising=False)
        return Quiet(*(parts.get(one) for one in kind.get_attributes()), **family.settings)


def make(kind: str, folder: Path) -> Tiny:
    """Writes a tiny model of a family."""
    family = FAMILIES[kind]
    size = tokenizer(folder, family)
    made = _processor(folder, family)
    whole = {"image_processor": made.image_processor.to_dict(), "processor_class": family.processor[1], **family.settings}
    (folder / "processor_config.json").write_text(json.dumps(whole))
    torch.manual_seed(0)
    token = len(SPECIALS)
    config = transformers.AutoConfig.for_model(
        family.kind or kind,
        **family.config,
        text_config={**TEXT, **family.text, "vocab_size": size},
        image_token_id=token,
        tie_word_embeddings=False,
    )
    model = transformers.AutoModelForImageTextToText.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, 0.0, 0.15)
        elif "norm" not in name:
            torch.nn.init.normal_(parameter, 0.0, 0.1)
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = None
    return Tiny(kind, folder, made, model)


@cache
def picture(seed: int, width: int, height: int) -> Any:
    """An image of colours that change slowly, and a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.integers(-12, 13, (height, width, 3))
    return Image.fromarray((np.asarray(coarse).astype(int) + noise).clip(0, 255).astype(np.uint8))


Maker = Callable[[str], Tiny]


@pytest.fixture(scope="session")
def tiny_family(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """A family's tiny model, made when it is asked for first."""
    made: dict[str, Tiny] = {}

    def find(kind: str) -> Tiny:
        if kind not in made:
            made[kind] = make(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return find
