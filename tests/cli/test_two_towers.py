"""`infer embed` and `infer score` with models that make vectors of texts and images (CLIP, SigLIP)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ..conftest import word_pieces
from ..core.media.test_images import HOSTILE, data_url

Image = pytest.importorskip("PIL.Image")
TEXTS = ["the cat sat on a mat", "rain", "the sun of the dog"]
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 24}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
KINDS = ("clip", "siglip", "siglip2")
GREEN = "green.png"


class Towers:
    """A random model of one family in a folder, and images beside it."""

    def __init__(self, folder: Path, kind: str) -> None:
        import transformers

        folder.mkdir()
        self.kind, self.folder, self.media = kind, folder, folder.parent / "media"
        size = word_pieces(folder)
        more: dict[str, Any] = {"projection_dim": 16} if kind == "clip" else {"projection_size": 32}
        vision = dict(VISION)
        if kind == "siglip2":
            del vision["image_size"]
            vision["num_patches"] = 16
        text = {**TEXT, "vocab_size": size, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, **more}
        config = transformers.AutoConfig.for_model(kind, text_config=text, vision_config={**vision, **more}, **more)
        torch.manual_seed(5)
        self.model = transformers.AutoModel.from_config(config, attn_implementation="eager").eval()
        with torch.no_grad():
            for name, one in self.model.named_parameters():
                one.normal_(std=0.2) if one.dim() else one.fill_(1.5 if name == "logit_scale" else -0.5)
        self.model.save_pretrained(folder)
        sizes = {"size": {"height": 32, "width": 32}}
        if kind == "clip":
            sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
        if kind == "siglip2":
            sizes = {"patch_size": 8, "max_num_patches": 16}  # type: ignore[dict-item]
        name = {"clip": "CLIP", "siglip": "Siglip", "siglip2": "Siglip2"}[kind]
        (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": f"{name}ImageProcessor", **sizes}))
        self.media.mkdir()
        random = np.random.default_rng(0)
        for number, (width, height) in enumerate([(40, 50), (64, 33)]):
            Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(self.media / f"{number}.png")
        self.images = [Image.open(self.media / f"{number}.png").convert("RGB") for number in range(2)]

    @torch.inference_mode()
    def outputs(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features of the texts and of the images, and logits_per_image, as transformers has them."""
        from tokenizers import Tokenizer
        from transformers import AutoImageProcessor

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.enable_padding(length=None if self.kind == "clip" else 24)
        found = tokenizer.encode_batch(TEXTS)
        ids = torch.tensor([one.ids for one in found])
        seen = {"attention_mask": torch.tensor([one.attention_mask for one in found])} if self.kind == "clip" else {}
        pixels = AutoImageProcessor.from_pretrained(str(self.folder), backend="pil")(images=self.images, return_tensors="pt")
        text = self.model.get_text_features(input_ids=ids, **seen, return_dict=True).pooler_output
        image = self.model.get_image_features(**pixels, return_dict=True).pooler_output
        return text, image, self.model(input_ids=ids, **seen, **pixels).logits_per_image


@pytest.fixture(scope="module", params=KINDS)
def towers(request: pytest.FixtureRequest, compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Towers:
    return Towers(tmp_path_factory.mktemp("towers") / "model", request.param)


def flags(towers: Towers) -> list[Any]:
    return ["--model", towers.folder, "--dtype", "float32", "--device", "cpu", "--allowed-local-media-path", towers.media, "--overwrite"]


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_vectors_and_scores_are_those_of_transformers(towers: Towers, call: Any, write_lines: Any, tmp_path: Path) -> None:
    paths = [str(towers.media / f"{number}.png") for number in range(2)]
    text, image, logits = towers.outputs()
    lines: list[dict[str, Any]] = [{"input": one} for one in TEXTS] + [{"image": paths[0]}, {"images": paths}]
    lines.append({"input": [{"text": TEXTS[0]}, {"type": "image_url", "image_url": {"url": paths[1]}}]})
    done = call("embed", *flags(towers), "--no-normalize", "--stats", tmp_path / "stats", write_lines(*lines), tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    rows = rows_of(tmp_path / "out")
    found = np.array([rows[i]["embedding"] for i in range(4)], dtype=np.float32)
    np.testing.assert_allclose(found[:3], text.numpy(), rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(found[3], image[0].numpy(), rtol=2e-4, atol=2e-5)
    assert rows[4]["embeddings"][0] == rows[3]["embedding"]
    assert rows[5]["embeddings"] == [rows[0]["embedding"], rows[4]["embeddings"][1]]
    assert json.loads((tmp_path / "stats").read_bytes())["engine"]["media_encoded"] == 2
    pairs: list[dict[str, Any]] = [{"image": path, "documents": TEXTS, "use_activation": False} for path in paths]
    pairs += [{"image": paths[0], "documents": TEXTS, "use_activation": True, "top_n": 1}, {"image": paths[0], "text": TEXTS[1]}]
    pairs += [{"query": TEXTS[2], "images": paths, "use_activation": False}, {"text_1": TEXTS[0], "text_2": TEXTS[1]}]
    done = call("score", *flags(towers), "--max-num-seqs", "1", write_lines(*pairs), tmp_path / "scores")
    assert done.exit_code == 0, done.stderr
    scored = rows_of(tmp_path / "scores")
    np.testing.assert_allclose([row["scores"] for row in scored[:2]], logits.numpy(), rtol=1e-4, atol=1e-4)
    shares = logits[0].softmax(0) if towers.kind == "clip" else logits[0].sigmoid()
    (best,) = scored[2]["results"]
    assert best == {"index": int(shares.argmax()), "relevance_score": pytest.approx(float(shares.max()), abs=1e-4)}
    one = logits[0, 1] if towers.kind == "clip" else logits[0, 1].sigmoid()
    assert scored[3]["score"] == pytest.approx(float(one), abs=1e-4)
    np.testing.assert_allclose(scored[4]["scores"], logits[:, 2].numpy(), rtol=1e-4, atol=1e-4)
    assert scored[5]["score"] == pytest.approx(float(torch.cosine_similarity(text[0], text[1], dim=0)), abs=1e-5)


@pytest.fixture(scope="module")
def clip(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Towers:
    made = Towers(tmp_path_factory.mktemp("one") / "model", "clip")
    Image.new("RGB", (45, 35), "green").save(made.media / GREEN)
    return made


def test_hostile_images_are_one_error_each_and_a_killed_run_goes_on(clip: Towers, call: Any, launch: Any, tmp_path: Path) -> None:
    good: list[dict[str, Any]] = [{"image": GREEN}, {"input": TEXTS[0]}, {"images": ["0.png", GREEN]}]
    lines, codes = list(good), [None, None, None]
    for i, (data, code, _) in enumerate(HOSTILE.values()):
        (clip.media / f"bad-{i}.png").write_bytes(data)
        lines += [{"image": f"bad-{i}.png" if i % 2 else data_url(data)}, good[i % 3]]
        codes += [code, None]
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"image": "/etc/passwd"}, "media_refused"),
        ({"images": [GREEN, "nothing.png"]}, "media_error"),
        ({"image": GREEN, "input": "a"}, "invalid_value"),
        ({"image": 5}, "invalid_type"),
        ({"image": GREEN, "mm_processor_kwargs": {"size": "?"}}, "media_error"),
        ({"input": [{"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}, "unsupported"),
    ]
    for one, code in wrong:
        lines += [one, good[0]]
        codes += [code, None]
    source = tmp_path / "in.jsonl"
    source.write_text("".join(json.dumps(one) + "\n" for one in lines))
    options = ["-q", *flags(clip)[:-1], "--keep-going"]
    assert call("embed", *options, source, tmp_path / "whole").exit_code == 3
    rows = rows_of(tmp_path / "whole")
    assert [row["error"] and row["error"]["code"] for row in rows] == codes
    answers = [json.dumps([row.get("embedding"), row.get("embeddings")]) for row in rows if row["error"] is None]
    assert len(set(answers)) == 3
    checked = json.loads(call("check", *options[1:-1], "--task", "embed", "--json", source).stdout)
    assert checked["records"]["failed"] == len([code for code in codes if code is not None])
    child = launch("embed", *options, "--max-num-seqs", "2", source, tmp_path / "out", env={"INFER_FAULT": "committed"})
    child.communicate(timeout=300)
    assert child.returncode not in (0, 3)
    assert call("embed", *options, "--resume", source, tmp_path / "out").exit_code == 3
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_the_class_takes_images_too(clip: Towers) -> None:
    from infer.core import LLM

    llm = LLM(str(clip.folder), device="cpu", dtype="float32")
    image, (text, features, logits) = {"prompt": "", "multi_modal_data": {"image": clip.images[1]}}, clip.outputs()
    found = llm.embed([TEXTS[0], image], use_tqdm=False)
    expected = torch.nn.functional.normalize(torch.stack([text[0], features[1]]))
    torch.testing.assert_close(torch.tensor([one.outputs.embedding for one in found]), expected, rtol=1e-4, atol=1e-5)
    scores = llm.score(image, TEXTS, use_tqdm=False)
    assert [one.outputs.score for one in scores] == pytest.approx(logits[1].tolist(), abs=1e-4)
