"""`infer score` with models that score tokens: one entry for each end of a step, from the command line to the bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from .test_score_from_tokens import SIZES, tokens

CONFIG = {"pooling_type": "STEP", "step_tag_id": 1, "returned_token_ids": [5, 6]}


@pytest.fixture
def folder(compiled_kernels: None, tmp_path: Path) -> tuple[Path, Any]:
    import transformers

    folder = tmp_path / "model"
    folder.mkdir()
    size = tokens(folder).get_vocab_size()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(vocab_size=size, initializer_range=0.3, max_position_embeddings=64, bos_token_id=3, **SIZES)
    model = transformers.LlamaForCausalLM(config).eval()
    model.save_pretrained(folder)
    return folder, model


def test_steps(call: Any, write_lines: Any, folder: tuple[Path, Any], tmp_path: Path) -> None:
    where, model = folder
    tagged = [9, 8, 1, 40, 41, 42, 1]
    lines = [
        {"id": "a", "input": tagged},
        {"text": "no<|im_start|>yes"},
        {"text": ["no", "<|im_start|>"]},
        {"input": tagged, "returned_token_ids": [6], "use_activation": False},
        {"input": tagged, "returned_token_ids": [7]},
        {"query": "a", "documents": ["b"]},
    ]
    out = tmp_path / "out"
    flags = ["--model", str(where), "--dtype", "float32", "--device", "cpu", "--pooler-config", json.dumps(CONFIG)]
    done = call("score", *flags, write_lines(*lines), out)
    assert done.exit_code == 3, done.stderr
    rows = [json.loads(line) for line in out.read_bytes().splitlines()]
    with torch.inference_mode():
        logits = model(torch.tensor([tagged])).logits[0, [2, 6]]
    torch.testing.assert_close(torch.tensor(rows[0]["scores"]), logits[:, [5, 6]].softmax(-1), rtol=1e-4, atol=1e-5)
    assert [len(rows[1]["scores"]), [len(one) for one in rows[2]["scores"]]] == [1, [0, 1]]
    torch.testing.assert_close(torch.tensor(rows[3]["scores"]), logits[:, 6], rtol=1e-4, atol=1e-5)
    assert [row["error"] and row["error"]["code"] for row in rows] == [None, None, None, None, "invalid_value", "missing_field"]


def test_what_it_has_no_use_for(call: Any, write_lines: Any, folder: tuple[Path, Any], tmp_path: Path) -> None:
    flags = ["--model", str(folder[0]), "--pooler-config", json.dumps(CONFIG), "--device", "cpu"]
    done = call("score", *flags, "--query-prefix", "q: ", write_lines({"input": "no"}), tmp_path / "out")
    assert done.exit_code == 2
    assert "scores the tokens of a text, and knows no queries" in done.stderr
    done = call("embed", *flags, write_lines({"input": "no"}), tmp_path / "out")
    assert done.exit_code != 0
    assert "is a classifier, it makes no embeddings" in done.stderr
