"""Adapters of a job: how they are declared, and which one a record gets."""

from __future__ import annotations

import base64
import io
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save

from infer.core.errors import ConfigError, RecordError
from infer.core.jobs.jsonl import dumps
from infer.core.jobs.record import Record
from infer.core.jobs.tasks import CompletionOptions, GenerateTask
from infer.core.jobs.tasks.adapters.chooser import Chooser
from infer.core.jobs.tasks.adapters.declared import Adapters, Declared, declared_in
from infer.core.settings.args import EngineArgs

from ...adapters.making import write_adapter
from ...adapters.prompts import write_prompt_adapter

LAYER = "model.layers.0.self_attn.q_proj"


def lora(folder: Path, rank: int = 4) -> Path:
    return write_adapter(folder, {LAYER: (torch.ones(rank, 8), torch.ones(6, rank))}, r=rank)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two LoRA adapters side by side, and something else."""
    lora(tmp_path / "many" / "first")
    lora(tmp_path / "many" / "second", rank=24)
    (tmp_path / "many" / "notes").mkdir()
    return tmp_path / "many"


class TestDeclared:
    def test_names_and_paths(self, folder: Path, tmp_path: Path) -> None:
        third = lora(tmp_path / "third")
        found = Declared.of("--lora", [f"a={third}", str(folder), str(third)], None)
        assert list(found.paths) == ["a", "first", "second", "third"]
        assert found.default is None
        assert [found.request(name).lora_int_id for name in found.paths] == [1, 2, 3, 4]

    def test_the_default(self, folder: Path) -> None:
        one = [str(folder / "first")]
        assert Declared.of("--lora", one, None).default == "first"
        assert Declared.of("--lora", one, "none").default is None
        assert Declared.of("--lora", [str(folder)], "second").default == "second"
        lora(folder.parent / "single" / "only")
        assert Declared.of("--lora", [str(folder.parent / "single")], None).default is None  # of a folder there may be more tomorrow
        with pytest.raises(ConfigError, match=r"--default-lora: .* 'secnd'; did you mean 'second'\? \(declared: first, second\)"):
            Declared.of("--lora", [str(folder)], "secnd")
        with pytest.raises(ConfigError, match="--lora a=PATH declares it"):
            Declared.of("--lora", None, "a")

    def test_what_is_not_there(self, folder: Path) -> None:
        for entry, said in (
            ("a=/nowhere", "there is no folder '/nowhere'"),
            ("a=", "write --lora NAME=PATH"),
            ("/nowhere/b", "no such folder"),
            (str(folder / "notes"), "neither an adapter nor a folder of adapters"),
        ):
            with pytest.raises(ConfigError, match=said):
                Declared.of("--lora", [entry], None)
        lora(folder / os.fsdecode(b"\xff"))
        for entry in (str(folder), str(folder / os.fsdecode(b"\xff")), os.fsdecode(b"a\xff=") + str(folder / "first")):
            with pytest.raises(ConfigError, match="is not UTF-8, and no record can say it; write --lora NAME=PATH"):
                Declared.of("--lora", [entry], None)
        assert list(Declared.of("--lora", ["a=" + str(folder / os.fsdecode(b"\xff"))], None).paths) == ["a"]
        shutil.rmtree(folder / os.fsdecode(b"\xff"))
        with pytest.raises(ConfigError, match="'first' is the name of two adapters"):
            Declared.of("--lora", [str(folder), f"first={folder / 'second'}"], None)

    def test_settings_that_were_not_given_follow(self, folder: Path) -> None:
        given = EngineArgs.from_kwargs(model="m", lora=str(folder))
        args, adapters = declared_in(given, dict.fromkeys(EngineArgs.settings(), "default"))
        assert (args.enable_lora, args.max_loras, args.max_lora_rank) == (True, 2, 24)
        assert list(adapters.lora.paths) == ["first", "second"]
        args, _ = declared_in(given, {"max_loras": "flag", "max_lora_rank": "flag"})
        assert (args.max_loras, args.max_lora_rank) == (1, 16)
        args, _ = declared_in(EngineArgs.from_kwargs(model="m"), {})
        assert not args.enable_lora

    def test_a_mapping_is_a_list_of_names(self, folder: Path) -> None:
        args = EngineArgs.from_kwargs(lora={"a": str(folder / "first")}, prompt_adapter=["b=x"])
        assert (args.lora, args.prompt_adapter) == ([f"a={folder / 'first'}"], ["b=x"])
        assert EngineArgs.settings()["lora"].parse('{"a": "p"}') == ["a=p"]
        assert EngineArgs.settings()["lora"].parse("a=p") == ["a=p"]
        with pytest.raises(ConfigError, match="lora must be NAME=PATH"):
            EngineArgs.from_kwargs(lora=[3])


def chooser(folder: Path, default: str | None = None, **more: Any) -> Chooser:
    return Chooser(Adapters(Declared.of("--lora", [str(folder)], default)), models=frozenset({"base", "/models/base"}), **more)


class TestChoice:
    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"lora": "first"}, "first"),
            ({"lora_name": "first"}, "first"),
            ({"model": "first"}, "first"),
            ({"model": "first", "lora": "second"}, "second"),
            ({"model": "first", "lora": ""}, None),
            ({"model": "base"}, None),
            ({"model": "/models/base"}, None),
            ({"model": "gpt-4"}, "second"),
            ({"lora": None}, "second"),
            ({}, "second"),
        ],
    )
    def test_of_a_record(self, folder: Path, fields: dict[str, Any], name: str | None) -> None:
        found = chooser(folder, "second").lora_of(fields)
        assert (None if found is None else found.lora_name) == name

    def test_a_model_that_is_not_here(self, folder: Path) -> None:
        one = chooser(folder)
        for known in ({}, {"model": "first"}, {"model": "base"}, {"model": ""}, {"model": None}, {"model": 3}):
            assert one.stranger(known) is None
        assert [one.stranger({"model": name}) for name in ("frist", "org/Base")] == ["frist", "org/Base"]
        alone = Chooser(Adapters(), models=frozenset({"base"}))
        assert [alone.stranger({"model": name}) for name in ("org/Base", "gpt-4")] == [None, "gpt-4"]
        assert Chooser(Adapters()).stranger({"model": "gpt-4"}) is None  # nobody knows what it is called

    def test_it_is_told_of(self, folder: Path, byte_tokenizer: Any) -> None:
        """Once for all where no adapters are declared; else each, and an error if strict: an answer of another model than was meant."""

        def said(chosen: Chooser, *names: str, **options: Any) -> tuple[list[str], list[str | None]]:
            told: list[str] = []
            task = GenerateTask(
                CompletionOptions(chooser=chosen, model="base", warn=told.append, **options), byte_tokenizer, max_model_len=256
            )
            lines = [{"custom_id": str(i), "url": "/v1/completions", "body": {"prompt": "a", "model": m}} for i, m in enumerate(names)]
            found = task.prepare([Record.parse(i, i + 1, 1, dumps(line)) for i, line in enumerate(lines)])
            return told, [None if one.error is None else one.error.message for one in found]

        alone = Chooser(Adapters(), models=frozenset({"base"}))
        told = "a record names model 'gpt-4'; base answers all of them, whatever model they name"
        for strict in (False, True):
            assert said(alone, "base", "gpt-4", "gpt-5", strict=strict) == ([told], [None] * 3)
        assert said(alone, "gpt-4", prompt_field="prompt") == ([], [None])  # a column
        frist = "model 'frist' is neither base nor an adapter; did you mean 'first'?"
        assert said(chooser(folder), "frist", "frist", "first") == ([f"{frist}; base answers such records"], [None] * 3)
        assert said(chooser(folder, "first"), "frist")[0] == [f"{frist}; base with 'first' answers such records"]
        assert said(chooser(folder), "frist", "first", strict=True) == ([], [frist, None])

    @pytest.mark.parametrize(
        ("fields", "code", "param", "said"),
        [
            ({"lora": "frist"}, "adapter_not_found", "lora", "did you mean 'first'"),
            ({"lora_name": "../first"}, "adapter_not_found", "lora_name", "declared: first, second"),
            ({"lora": 3}, "invalid_type", "lora", "the name of an adapter"),
            ({"lora": "first", "lora_name": "second"}, "invalid_value", "lora", "lora and lora_name are one field, and differ"),
            ({"lora": "", "lora_name": "first"}, "invalid_value", "lora", "are one field"),
            ({"lora": "second"}, "adapter_invalid", "lora", "rank 24, above max_lora_rank 16"),
            ({"model": "second"}, "adapter_invalid", "model", "rank 24"),
        ],
    )
    def test_errors(self, folder: Path, fields: dict[str, Any], code: str, param: str, said: str) -> None:
        one = chooser(folder, max_rank=16)
        for _ in range(2):
            with pytest.raises(RecordError, match=said) as caught:
                one.lora_of(fields)
            assert (caught.value.code, caught.value.param) == (code, param)

    def test_none_are_declared(self, task: Any, code_of: Any) -> None:
        assert code_of(task(), prompt="a", lora="x") == ("adapter_not_found", "lora")
        assert code_of(task(), prompt="a", prompt_adapter="x") == ("adapter_not_found", "prompt_adapter")

    def test_a_prompt_adapter_stands_before_the_prompt(self, task: Any, prepare: Any, tmp_path: Path) -> None:
        path = write_prompt_adapter(tmp_path / "p", torch.ones(3, 8))
        declared = Adapters(prompt=Declared.of("--prompt-adapter", [f"p={path}"], None), takes_embeds=True)
        made = task(adapters=declared, chooser=Chooser(declared, embeds_size=8))
        request = prepare(made, prompt="ab", prompt_adapter="p").to_request()
        assert request.prompt_token_ids == [0, 0, 0, 256, 97, 98]
        assert request.num_virtual == 3
        own = base64.b64encode(save({"x": torch.zeros(2, 8)})).decode()
        request = prepare(made, prompt_embeds=own).to_request()
        assert request.prompt_token_ids == [0] * 5
        assert request.embeds.values[:, 0].tolist() == [1, 1, 1, 0, 0]
        assert prepare(made, prompt="ab", prompt_adapter="").to_request().embeds is None
        cut = prepare(made, prompt="x" * 500, truncate_prompt_tokens=-1).to_request()
        assert len(cut.prompt_token_ids) == 255  # room for one output token, and for the virtual ones

    def test_a_fingerprint_names_each(self, folder: Path) -> None:
        config: Any = type("Config", (), {"max_lora_rank": 16, "max_prompt_adapter_token": 0, "lora_merge": None})
        before = Adapters(Declared.of("--lora", [str(folder)], "first")).fingerprint(config)
        assert list(before) == ["LoRA adapter 'first'", "LoRA adapter 'second'", "default-lora", "max_lora_rank"]
        (folder / "second" / "adapter_model.safetensors").unlink()
        after = Adapters(Declared.of("--lora", [str(folder)], "first")).fingerprint(config)
        assert [name for name in before if before[name] != after[name]] == ["LoRA adapter 'second'"]
        assert Adapters().fingerprint(config) == {}


class TestEmbeds:
    @pytest.fixture
    def made(self, task: Any) -> Any:
        declared = Adapters(takes_embeds=True)
        return task(adapters=declared, chooser=Chooser(declared))

    def test_each_form(self, made: Any, prepare: Any) -> None:
        values = np.arange(12, dtype=np.float32).reshape(4, 3)
        file = io.BytesIO()
        np.save(file, np.asfortranarray(values))
        tensor = torch.from_numpy(values)
        for data in (file.getvalue(), save({"a": tensor}), save({"b": tensor.bfloat16()}), save({"c": tensor.double()[None]})):
            found = prepare(made, prompt_embeds=base64.b64encode(data).decode())
            assert found.embeds.values.tolist() == values.tolist()
            assert found.to_request().prompt_token_ids == [0] * 4
            assert found.extra == {}

    def test_what_is_wrong(self, made: Any, prepare: Any) -> None:
        pickled, objects, ints, short = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
        torch.save(torch.zeros(2, 3), pickled)
        np.save(objects, np.array([[None]]), allow_pickle=True)
        np.save(ints, np.zeros((2, 3), np.int32))
        np.save(short, np.zeros((2, 3), np.float32))
        bomb = short.getvalue().replace(b"(2, 3), }", b"(9**9,3),}")
        for data, code, said in (
            (b"", "invalid_value", "not a .safetensors or .npy file"),
            (b"abc" * 9, "invalid_value", "not a .safetensors or .npy file"),
            (pickled.getvalue(), "invalid_value", "torch.save, which is a pickle"),
            (objects.getvalue(), "invalid_type", "floating-point numbers, not object"),
            (ints.getvalue(), "invalid_type", "floating-point numbers, not int32"),
            (short.getvalue()[:-1], "invalid_value", "needs 24 bytes and has 23"),
            (short.getvalue().replace(b"(2, 3)", b"(-2,3)"), "invalid_value", "prompt_embeds"),
            (bomb, "invalid_value", "prompt_embeds"),
            (save({"a": torch.zeros(1, 2), "b": torch.zeros(1, 2)}), "invalid_value", "2 tensors; it must have one"),
            (save({"a": torch.zeros(1, 2, dtype=torch.int8)}), "invalid_type", "floating-point numbers, not I8"),
            (save({"a": torch.full((1, 2), torch.inf)}), "invalid_value", "finite"),
            (save({"a": torch.zeros(0, 2)}), "invalid_value", "shape"),
        ):
            with pytest.raises(RecordError, match=said) as caught:
                prepare(made, prompt_embeds=base64.b64encode(data).decode())
            assert (caught.value.code, caught.value.param) == (code, "prompt_embeds")

    def test_beside_other_fields(self, made: Any, task: Any, code_of: Any) -> None:
        text = base64.b64encode(save({"a": torch.zeros(1, 2)})).decode()
        assert code_of(made, prompt_embeds="?") == ("invalid_value", "prompt_embeds")
        assert code_of(made, prompt_embeds=[1.0]) == ("invalid_type", "prompt_embeds")
        assert code_of(made, prompt_embeds=text, prompt="a") == ("invalid_value", "prompt_embeds")
        assert code_of(task(), prompt_embeds=text) == ("unsupported", "prompt_embeds")
        assert code_of(task("chat"), messages=[{"role": "user", "content": "a"}], prompt_embeds=text) == ("unsupported", "prompt_embeds")
