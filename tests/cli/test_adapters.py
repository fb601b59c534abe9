"""Adapters on the command line: the one that a record names answers it, and one that is broken is the error of its records."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save

from ..core.adapters.making import merge, random_matrices, write_adapter
from ..core.adapters.prompts import write_prompt_adapter


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def prompts(folder: Path) -> list[str]:
    """Options with two prompt adapters that work, and one that is another model's."""
    torch.manual_seed(0)
    for name, shape in (("one", (5, 64)), ("two", (20, 64)), ("other", (5, 63))):
        write_prompt_adapter(folder / name, torch.randn(shape) * 0.4)
    return ["--prompt-adapter", str(folder)]


def job(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps({"max_tokens": 8, "temperature": 0, **line}) + "\n" for line in lines))
    return path


TEXT = "It was the best of times"
EMBEDS = base64.b64encode(save({"x": torch.arange(640).reshape(10, 64).float().sin()})).decode()
LINES: list[dict[str, Any]] = [
    {"prompt": TEXT},
    {"prompt": TEXT, "prompt_adapter": "one"},
    {"prompt": TEXT, "prompt_adapter": "two", "n": 2, "temperature": 1},
    {"prompt": TEXT, "prompt_adapter": "other"},
    {"prompt": TEXT, "prompt_adapter": "three"},
    {"prompt_embeds": EMBEDS},
    {"prompt_embeds": EMBEDS, "prompt_adapter": "one"},
    {
        "custom_id": "x",
        "method": "POST",
        "url": "/v1/completions",
        "body": {"prompt": TEXT, "model": "two", "max_tokens": 8, "temperature": 0},
    },
    {"prompt": TEXT, "prompt_adapter": "two"},
]


def test_records_with_prompt_adapters(call: Any, tiny: list[str], tmp_path: Path) -> None:
    options = [*tiny, *prompts(tmp_path / "adapters"), "--enable-prompt-embeds"]
    result = call("generate", "-q", *options, "--stats", tmp_path / "stats", job(tmp_path / "in", LINES), tmp_path / "out")
    assert result.exit_code == 3, result.stderr
    assert json.loads((tmp_path / "stats").read_text())["adapters"] == {"one": 2, "two": 3}
    found = rows(tmp_path / "out")
    batch = found.pop(7)["response"]["body"]
    codes = [row["error"] and row["error"]["code"] for row in found]
    assert codes == [None, None, None, "adapter_invalid", "adapter_not_found", None, None, None]
    assert "features a token" in found[3]["error"]["message"]
    counts = [row["usage"]["prompt_tokens"] for row in found if row["error"] is None]
    assert counts == [24, 29, 44, 10, 15, 44]
    texts = [row["choices"][0]["text"] for row in found if row["error"] is None]
    assert len(set(texts)) == 6
    assert batch["model"] == "two"
    assert batch["choices"][0]["text"] == texts[5]
    assert batch["usage"]["prompt_tokens"] == 44
    for i in (1, 2, 5):  # alone as beside others; the noise of one with a seed of its own does not depend on its place
        line = {**LINES[i], "seed": 4}
        both = job(tmp_path / "in2", [line]), job(tmp_path / "in3", [LINES[8], line, {"prompt": TEXT}])
        for source, out in zip(both, ("alone", "beside"), strict=True):
            assert call("generate", "-q", *options, "--overwrite", source, tmp_path / out).exit_code == 0
        assert rows(tmp_path / "alone")[0]["choices"] == rows(tmp_path / "beside")[1]["choices"]


def test_echo_and_lists_of_prompts(call: Any, tiny: list[str], tmp_path: Path) -> None:
    """What is echoed is the prompt's tokens, without the virtual ones; each prompt of a list has them before it."""
    lines = [{"prompt": ["ab", TEXT], "prompt_adapter": "one", "echo": True, "logprobs": 1}]
    options = [*tiny, *prompts(tmp_path / "adapters")]
    assert call("generate", "-q", *options, job(tmp_path / "in", lines), tmp_path / "out").exit_code == 0
    (row,) = rows(tmp_path / "out")
    assert row["usage"]["prompt_tokens"] == 2 + 24 + 2 * 5
    assert [choice["text"][:2] for choice in row["choices"]] == ["ab", TEXT[:2]]
    told = row["choices"][0]["logprobs"]["token_logprobs"]
    assert len(told) == 2 + 8
    assert None not in told  # the first token has one: that after the virtual tokens


def test_the_only_one_is_the_default_and_that_is_said(call: Any, tiny: list[str], tmp_path: Path) -> None:
    prompts(tmp_path / "adapters")
    source = job(tmp_path / "in", [{"prompt": TEXT}])
    only = ["--prompt-adapter", f"mine={tmp_path / 'adapters' / 'one'}"]
    said = call("generate", *tiny, *only, source, tmp_path / "a")
    assert "records that name no adapter are answered with 'mine', the only one of --prompt-adapter" in said.stderr
    assert rows(tmp_path / "a")[0]["usage"]["prompt_tokens"] == 29
    assert call("generate", "-q", *tiny, *only, "--default-prompt-adapter", "none", source, tmp_path / "b").exit_code == 0
    assert rows(tmp_path / "b")[0]["usage"]["prompt_tokens"] == 24


def test_a_changed_one_is_not_gone_on_with(call: Any, tiny: list[str], tmp_path: Path) -> None:
    options, source = [*tiny, *prompts(tmp_path / "adapters")], job(tmp_path / "in", [LINES[1], LINES[8]])
    assert call("generate", "-q", *options, "--limit", "1", source, tmp_path / "out").exit_code == 0
    write_prompt_adapter(tmp_path / "adapters" / "two", torch.ones(20, 64))
    result = call("generate", "-q", *options, "--resume", source, tmp_path / "out")
    assert result.exit_code == 2
    assert "prompt adapter 'two' was" in result.stderr
    assert "prompt adapter 'one'" not in result.stderr


def test_what_is_not_there_is_told_before_anything_is_loaded(call: Any, tiny: list[str], tmp_path: Path) -> None:
    for option in ("--lora", "--prompt-adapter"):
        result = call("generate", "-q", *tiny, option, "a=/nowhere", job(tmp_path / "in", [{"prompt": "x"}]), tmp_path / "out")
        assert result.exit_code == 2
        assert f"{option} a=/nowhere: there is no folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_check_knows_what_a_run_would_refuse(call: Any, tiny: list[str], tmp_path: Path) -> None:
    options = [*tiny, *prompts(tmp_path / "adapters"), "--enable-prompt-embeds"]
    lines = [*LINES, {"prompt_embeds": base64.b64encode(save({"x": torch.ones(2, 3)})).decode()}]
    result = call("check", "-q", "--json", *options, job(tmp_path / "in", lines))
    assert result.exit_code == 3
    told = json.loads(result.stdout)
    assert {code: one["line"] for code, one in told["errors"].items()} == {
        "adapter_invalid": 4,
        "adapter_not_found": 5,
        "invalid_value": 10,
    }
    assert told["prompt_tokens"]["total"] == 24 + 29 + 44 + 10 + 15 + 44 + 44


@pytest.mark.parametrize("setting", ["env", "yaml"])
def test_where_settings_come_from(call: Any, tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    prompts(tmp_path / "adapters")
    where, more = {"a": str(tmp_path / "adapters" / "one")}, []
    if setting == "env":
        monkeypatch.setenv("INFER_PROMPT_ADAPTER", json.dumps(where))
    else:
        (tmp_path / "job.yaml").write_text(f"prompt_adapter:\n  a: {where['a']}\n")
        more = ["--config", str(tmp_path / "job.yaml")]
    assert call("generate", "-q", *tiny, *more, job(tmp_path / "in", [{"prompt": TEXT}]), tmp_path / "out").exit_code == 0
    assert rows(tmp_path / "out")[0]["usage"]["prompt_tokens"] == 29


def loras(model: Path, folder: Path) -> list[str]:
    """Options with two LoRA adapters that work, one of a rank of its own, and one that is another model's."""
    from transformers import AutoModelForCausalLM

    made = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    write_adapter(folder / "first", random_matrices(made, r".*_proj", 4, 1))
    write_adapter(folder / "second", random_matrices(made, r".*mlp.*|lm_head", 20, 2))
    write_adapter(folder / "other", {"model.layers.0.self_attn.q_proj": (torch.ones(4, 32), torch.ones(64, 4))})
    return ["--lora", str(folder)]


LORA_LINES: list[dict[str, Any]] = [
    {"prompt": TEXT},
    {"prompt": TEXT, "lora": "first"},
    {"prompt": TEXT, "lora_name": "second"},
    {"prompt": TEXT, "lora": "other"},
    {"prompt": TEXT, "lora": "frist"},
    {"custom_id": "x", "url": "/v1/completions", "body": {"prompt": TEXT, "model": "first", "max_tokens": 8, "temperature": 0}},
    {"prompt": TEXT, "lora": "first", "temperature": 1, "seed": 3, "n": 2},
    {"prompt": TEXT, "lora": "second", "temperature": 1, "seed": 3},
]


def test_records_with_lora_adapters(call: Any, tiny: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    options = [*tiny, *loras(tiny_llama, tmp_path / "adapters")]
    source = job(tmp_path / "in", LORA_LINES)
    result = call("generate", "-q", *options, "--stats", tmp_path / "stats", source, tmp_path / "out")
    assert result.exit_code == 3, result.stderr
    assert json.loads((tmp_path / "stats").read_text())["adapters"] == {"first": 3, "second": 2}
    found = rows(tmp_path / "out")
    batch = found.pop(5)["response"]["body"]
    assert [row["error"] and row["error"]["code"] for row in found] == [None] * 3 + ["adapter_invalid", "adapter_not_found", None, None]
    assert "it was made for another model" in found[3]["error"]["message"]
    texts = [row["choices"][0]["text"] for row in found[:3]]
    assert len(set(texts)) == 3
    assert (batch["model"], batch["choices"][0]["text"]) == ("first", texts[1])
    for i in (1, 7):
        assert call("generate", "-q", *options, "--overwrite", job(tmp_path / "in1", [LORA_LINES[i]]), tmp_path / "alone").exit_code == 0
        assert rows(tmp_path / "alone")[0]["choices"] == found[i if i < 5 else i - 1]["choices"]
    checked = call("check", "-q", "--json", *options, source)
    assert {code: one["line"] for code, one in json.loads(checked.stdout)["errors"].items()} == {
        "adapter_invalid": 4,
        "adapter_not_found": 5,
    }


def test_a_job_with_adapters_that_is_killed_and_goes_on(launch: Any, tiny: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    options = [*tiny, *loras(tiny_llama, tmp_path / "adapters"), "--max-loras", "1"]
    source = job(tmp_path / "in", LORA_LINES * 3)

    def attempt(out: Path, fault: str) -> int:
        child = launch("generate", "-q", *options, "--resume", source, out, env={"INFER_FAULT": fault} if fault else {})
        child.communicate(timeout=300)
        code: int = child.returncode
        return code

    assert attempt(tmp_path / "whole", "") == 3
    assert attempt(tmp_path / "out", "committed") not in (0, 3)
    assert (tmp_path / "out.partial").exists()
    write_prompt_adapter(tmp_path / "adapters" / "first", torch.ones(3, 64))  # another adapter by this name
    assert attempt(tmp_path / "out", "") == 2
    loras(tiny_llama, tmp_path / "adapters")
    assert attempt(tmp_path / "out", "") == 3
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


def test_broken_adapters_beside_sound_ones(call: Any, tiny: list[str], tiny_llama: Path, tmp_path: Path) -> None:
    """Each is the error of its records, to a run and to `infer check`; what others get is what they get without them."""
    options = [*tiny, *loras(tiny_llama, tmp_path / "adapters")]
    source = job(tmp_path / "in", [LORA_LINES[0], LORA_LINES[1]])
    assert call("generate", "-q", *options, source, tmp_path / "before").exit_code == 0
    q = "model.layers.0.self_attn.q_proj"
    one, made = torch.ones(4, 64), tmp_path / "adapters"
    write_adapter(made / "nan", {q: (one, one.T * torch.nan)})
    write_adapter(made / "wide", {q: (torch.ones(10**12, 0), torch.ones(0, 10**12))}, r=10**12)
    write_adapter(made / "alpha", {q: (one, one.T)}, lora_alpha=10**400)
    write_adapter(made / "text", {q: (one[:, 1:], one.T)}, base_model_name_or_path="half a pair: \ud800")
    write_adapter(made / "pipe", {q: (one, one.T)})
    (made / "pipe" / "adapter_model.safetensors").unlink()
    os.mkfifo(made / "pipe" / "adapter_model.safetensors")
    broken = ["nan", "wide", "alpha", "text", "pipe"]
    source = job(tmp_path / "in", [LORA_LINES[0], LORA_LINES[1], *({"prompt": TEXT, "lora": name} for name in broken)])
    result = call("generate", "-q", *options, source, tmp_path / "out")
    assert result.exit_code == 3, result.stderr
    found = rows(tmp_path / "out")
    assert found[:2] == rows(tmp_path / "before")
    assert [row["error"]["code"] for row in found[2:]] == ["adapter_invalid"] * 5
    assert "half a pair: \\ud800" in found[5]["error"]["message"]
    told = json.loads(call("check", "-q", "--json", *options, source).stdout)["errors"]
    assert told["adapter_invalid"]["count"] == 5


def test_vectors_and_scores_with_lora_adapters(call: Any, tiny_bert: Path, tmp_path: Path) -> None:
    """Of an adapter's record they are those of a model that it was merged into; the others' do not change."""
    from transformers import BertModel

    model = BertModel.from_pretrained(tiny_bert).eval()
    matrices = random_matrices(model, r".*(query|value)", 4, 1)
    write_adapter(tmp_path / "mine", matrices)
    shutil.copytree(tiny_bert, tmp_path / "merged")
    merge(model, matrices, 2.0).save_pretrained(tmp_path / "merged")
    more = ["--lora", f"mine={tmp_path / 'mine'}", "--default-lora", "none"]
    for command, line, key in (
        ("embed", {"input": "the cat sits"}, "embedding"),
        ("score", {"text_1": "the cat", "text_2": "a dog"}, "score"),
    ):
        source = tmp_path / f"{command}.jsonl"
        lines = [line, {**line, "lora": "mine"}, {**line, "lora": "nobody"}, line]
        source.write_text("".join(json.dumps(one) + "\n" for one in lines))
        found = []
        for name, options, code in (("base", [], 3), ("merged", [], 3), ("base", more, 3)):
            where = tiny_bert if name == "base" else tmp_path / "merged"
            out = tmp_path / "out"
            result = call(command, "-q", "--overwrite", "-m", where, "--dtype", "float32", "--device", "cpu", *options, source, out)
            assert result.exit_code == code, result.stderr
            found.append([torch.tensor(row[key]) if row["error"] is None else row["error"]["code"] for row in rows(out)])
        base, merged, mixed = found
        assert (base[1], mixed[2]) == ("adapter_not_found", "adapter_not_found")
        assert torch.equal(mixed[0], base[0])
        assert torch.equal(mixed[3], base[3])
        assert torch.allclose(mixed[1], merged[0], atol=1e-5)
        assert not torch.allclose(mixed[1], base[0], atol=1e-2)
