"""What a record with an adapter gets does not depend on others, nor on how steps are cut; adapters come and go."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from infer import LLM, BeamSearchParams, LoRARequest, SamplingParams
from infer.core.errors import ConfigError, RecordError

from .making import random_matrices, write_adapter
from .test_models import model_of, started

NAMES = ["a", "b", "c", "d"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in `model`, and adapters of several ranks and layers beside it."""
    made = tmp_path_factory.mktemp("adapters")
    model = model_of("llama", {"tie_word_embeddings": True})
    model.save_pretrained(made / "model")
    for number, (name, layers) in enumerate(zip(NAMES, (r".*_proj", r".*(q|v)_proj", r".*mlp.*|lm_head", r".*1\.mlp.*"), strict=True)):
        write_adapter(made / name, random_matrices(model, layers, 2 + 3 * number, number, size=1.0))
    return made


def lora(folder: Path, name: str | None) -> LoRARequest | None:
    return None if name is None else LoRARequest(name, 1, str(folder / name))


def work(count: int = 40) -> list[tuple[list[int], str | None]]:
    """Prompts that share beginnings, each with an adapter or none."""
    draw = random.Random(5)
    shared = [[draw.randrange(160) for _ in range(40)] for _ in range(3)]
    made = []
    for _ in range(count):
        prompt = [*draw.choice(shared)[: draw.randrange(1, 40)], *(draw.randrange(160) for _ in range(draw.randrange(1, 12)))]
        made.append((prompt, draw.choice([None, *NAMES])))
    return made


PARAMS = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=12, logprobs=2, ignore_eos=True, seed=11)


def answers(llm: LLM, folder: Path, records: list[tuple[list[int], str | None]], params: SamplingParams = PARAMS) -> list[Any]:
    loras = [lora(folder, name) for _, name in records]
    outputs = llm.generate([prompt for prompt, _ in records], params, lora_request=loras, use_tqdm=False, on_error="return")
    return [[(o.token_ids, o.logprobs) for o in output.outputs] or output.error for output in outputs]


@pytest.fixture(scope="module")
def alone(folder: Path) -> list[Any]:
    """Each record's answer by itself."""
    llm = started(folder / "model", dtype="bfloat16")
    return [answers(llm, folder, [record])[0] for record in work()]


@pytest.mark.parametrize(
    "settings",
    [
        {"max_loras": 4},
        {"max_loras": 1},
        {"max_loras": 2, "max_cpu_loras": 3},
        {"max_loras": 4, "max_num_batched_tokens": 32, "max_num_seqs": 16},
        {"max_loras": 3, "enable_prefix_caching": False},
        {"max_loras": 4, "num_gpu_blocks_override": 14, "max_model_len": 128},
    ],
    ids=["all", "one at a time", "few slots", "chunks", "no cache", "preemption"],
)
def test_no_schedule_changes_an_answer(folder: Path, alone: list[Any], settings: dict[str, Any]) -> None:
    llm = started(folder / "model", dtype="bfloat16", **settings)
    assert answers(llm, folder, work()) == alone
    if settings.get("num_gpu_blocks_override") == 14:
        assert llm.engine.scheduler.num_preemptions
    assert answers(llm, folder, work()) == alone  # with what is in the cache now


def test_without_an_adapter_nothing_changes(folder: Path, alone: list[Any]) -> None:
    plain = started(folder / "model", dtype="bfloat16", enable_lora=False)
    bare = [(prompt, None) for prompt, name in work() if name is None]
    assert answers(plain, folder, bare) == [one for one, (_, name) in zip(alone, work(), strict=True) if name is None]
    with pytest.raises(RecordError, match="LoRA adapters are off; --enable-lora"):
        plain.generate([[1, 2]], PARAMS, lora_request=lora(folder, "a"), use_tqdm=False)


@pytest.mark.parametrize("quantization", [None, "int8"])
def test_choices_and_beams(folder: Path, quantization: str | None) -> None:
    llm = started(folder / "model", dtype="bfloat16", quantization=quantization, max_loras=4)
    records = work(8)
    several = SamplingParams(temperature=1.0, n=3, max_tokens=8, ignore_eos=True, seed=3)
    together = answers(llm, folder, records, several)
    assert [answers(llm, folder, [record], several)[0] for record in records] == together
    beam = BeamSearchParams(beam_width=3, max_tokens=6)
    loras = [lora(folder, name) for _, name in records]
    found = llm.beam_search([{"prompt_token_ids": prompt} for prompt, _ in records], beam, lora_request=loras)
    for one, (prompt, name) in zip(found, records, strict=True):
        again = llm.beam_search([{"prompt_token_ids": prompt}], beam, lora_request=lora(folder, name))
        assert [s.tokens for s in again[0].sequences] == [s.tokens for s in one.sequences]
        assert one.sequences[0].lora_request == lora(folder, name)


def test_a_broken_adapter_fails_its_own_records(folder: Path, alone: list[Any], tmp_path: Path) -> None:
    for name in NAMES:
        shutil.copytree(folder / name, tmp_path / name)
    llm = started(folder / "model", dtype="bfloat16", max_loras=2)
    assert answers(llm, tmp_path, work()) == alone
    weights = tmp_path / "b" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4])
    shutil.rmtree(tmp_path / "c")
    for found, before, (_, name) in zip(answers(llm, tmp_path, work()), alone, work(), strict=True):
        if name in ("b", "c"):
            assert (found.code, found.param) == ("adapter_not_found" if name == "c" else "adapter_invalid", "lora")
        else:
            assert found == before


def test_values_that_the_model_s_dtype_cannot_hold(folder: Path, alone: list[Any], tmp_path: Path) -> None:
    q = "model.layers.0.self_attn.q_proj"
    large = write_adapter(tmp_path / "a", {q: (torch.ones(2, 48), torch.full((48, 2), 1e5))})
    nan = write_adapter(tmp_path / "b", {q: (torch.ones(2, 48), torch.full((48, 2), torch.nan))})
    half, full = started(folder / "model", dtype="float16"), started(folder / "model", dtype="bfloat16", max_loras=2)
    with pytest.raises(RecordError, match="the largest of float16") as caught:
        half.generate([[1]], PARAMS, lora_request=LoRARequest("a", 1, str(large)), use_tqdm=False)
    assert caught.value.code == "adapter_invalid"
    assert full.generate([[1]], PARAMS, lora_request=LoRARequest("a", 1, str(large)), use_tqdm=False)[0].finished
    where = {None: None, **{name: LoRARequest(name, 1, str(nan if name == "b" else folder / name)) for name in NAMES}}
    loras = [where[name] for _, name in work()]
    outputs = full.generate([prompt for prompt, _ in work()], PARAMS, lora_request=loras, use_tqdm=False, on_error="return")
    for output, before, (_, name) in zip(outputs, alone, work(), strict=True):
        if name == "b":
            assert output.error.code == "adapter_invalid"
        else:
            assert [(o.token_ids, o.logprobs) for o in output.outputs] == before


@pytest.mark.parametrize("path", ["a\0b", "\ud800", "~nobody-has-this-name/a", "/" + "x" * 5000])
def test_paths_that_none_can_be(folder: Path, path: str) -> None:
    llm = started(folder / "model")
    found = llm.generate([[1], [2]], PARAMS, lora_request=[LoRARequest("x", 1, path), None], use_tqdm=False, on_error="return")
    assert found[0].error.code in ("adapter_not_found", "adapter_invalid")
    assert found[1].error is None


def test_an_adapter_that_goes_while_records_wait(folder: Path, alone: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when they were added, and is read when the first of them starts."""
    for name in NAMES:
        shutil.copytree(folder / name, tmp_path / name)
    llm = started(folder / "model", dtype="bfloat16", max_loras=2)
    step = llm.engine.step

    def first() -> Any:
        monkeypatch.setattr(llm.engine, "step", step)
        shutil.rmtree(tmp_path / "b")
        return step()

    monkeypatch.setattr(llm.engine, "step", first)
    found = answers(llm, tmp_path, work())
    for one, before, (_, name) in zip(found, alone, work(), strict=True):
        assert one.code == "adapter_invalid" if name == "b" else one == before
    llm.engine.scheduler.check_integrity()


def test_an_adapter_that_is_written_anew_is_another(folder: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        shutil.copytree(folder / name, tmp_path / name)
    llm = started(folder / "model", dtype="bfloat16")
    records = [(list(range(40)), "a")]
    before = answers(llm, tmp_path, records)
    shutil.rmtree(tmp_path / "a")
    shutil.copytree(folder / "b", tmp_path / "a", copy_function=shutil.copy)
    after = answers(llm, tmp_path, records)
    assert after != before
    assert after == answers(llm, tmp_path, [(records[0][0], "b")])


def test_an_adapter_of_another_model_is_refused(folder: Path, tmp_path: Path) -> None:
    llm = started(folder / "model")
    q, missing = "model.layers.0.self_attn.q_proj", "model.layers.9.self_attn.q_proj"
    for layer, said in ((q, "made for another model"), (missing, "does not have"), ("model.norm", "does not have")):
        made = write_adapter(tmp_path / layer, {layer: (torch.ones(2, 48), torch.ones(50, 2))})
        with pytest.raises(RecordError, match=said) as caught:
            llm.generate([[1]], PARAMS, lora_request=LoRARequest("x", 1, str(made)), use_tqdm=False)
        assert caught.value.code == "adapter_invalid"
    with pytest.raises(RecordError, match="rank 11, above max_lora_rank 8"):
        started(folder / "model", max_lora_rank=8).generate([[1]], PARAMS, lora_request=lora(folder, "d"), use_tqdm=False)


def test_arguments(folder: Path) -> None:
    llm = started(folder / "model")
    with pytest.raises(ConfigError, match="2 prompts and 1 lora_request"):
        llm.generate([[1], [2]], PARAMS, lora_request=[None], use_tqdm=False)
    with pytest.raises(ConfigError, match="there is no adapter 'a'"):
        llm.generate([[1]], PARAMS, lora_request="a", use_tqdm=False)
    with pytest.raises(ConfigError, match="max_cpu_loras=1 is below max_loras=2"):
        started(folder / "model", max_cpu_loras=1)


def test_memory_for_adapters_is_not_the_cache_s(folder: Path) -> None:
    runner = started(folder / "model").engine.runner
    rank = 5  # two layers: q, k, v with one input; o; gate and up with one; down
    features = 2 * (3 * (48 + 48 + 2 * 16) + (48 + 48) + 2 * (48 + 160) + (80 + 48))
    assert runner.adapters.bytes_of(rank) == rank * features * 4
