"""Architectures without a file of ours, through transformers' code: against transformers itself in float32."""

from __future__ import annotations

import gc
import json
import logging
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from infer.core.build.engines import build_engine
from infer.core.build.plan import make_plan
from infer.core.errors import ModelError
from infer.core.memory import kv_cache
from infer.core.models.hf.attention import PagedAttention
from infer.core.models.hf.calls import window_of
from infer.core.models.hf.linear import weights_read
from infer.core.models.hf.loading import explained, load
from infer.core.models.hf.model import HFModel
from infer.core.models.hf.trial import rows_are_alike, warn_if_rows_differ
from infer.core.quant.choice import HEAD
from infer.core.quant.int8 import Int8
from infer.core.settings.args import EngineArgs
from infer.core.types.params import SamplingParams
from infer.core.types.request import Request
from infer.core.weights.folder import FolderSource
from infer.kernels import load as load_kernels
from infer.kernels import usable

from .test_architectures import TINY as SHAPE
from .test_architectures import prompts_of, run

TINY: dict[str, Any] = {**SHAPE, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
ARCHITECTURES: list[tuple[str, dict[str, Any]]] = [
    ("gpt_neox", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}}),
    ("olmo2", {}),
    ("granite", {"logits_scaling": 3.0, "attention_multiplier": 0.2, "residual_multiplier": 0.5, "tie_word_embeddings": True}),
    ("cohere", {"logit_scale": 0.3, "use_qk_norm": True}),
    ("stablelm", {"use_parallel_residual": True}),
    ("gemma2", {"head_dim": 16, "sliding_window": 24, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 4.0}),
    ("phi3", {"sliding_window": 40}),
    ("opt", {"ffn_dim": 80, "word_embed_proj_dim": 48, "do_layer_norm_before": True}),
    ("gpt_bigcode", {"n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 512, "multi_query": True}),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    (
        "deepseek_v3",
        {
            "kv_lora_rank": 16,
            "q_lora_rank": 24,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 16,
            "v_head_dim": 12,
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 6,
        },
    ),
    ("gpt_oss", {"head_dim": 16, "sliding_window": 24, "num_local_experts": 4, "num_experts_per_tok": 2}),
    ("diffllama", {"num_attention_heads": 4}),
]


def saved(kind: str, changes: dict[str, Any], folder: Path) -> Any:
    """A random model of this kind, in `folder` and in memory."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **{**TINY, **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:  # norms are all ones and biases zeros at first: that would hide a missing one
            torch.nn.init.normal_(parameter, 0.5 if "norm" in name else 0.0, 0.3)
    model.save_pretrained(folder)
    return model


def loaded(folder: Path, backend: str = "reference", *, dtype: torch.dtype = torch.float32, **how: Any) -> HFModel:
    source = FolderSource("tiny", folder)
    ops = load_kernels(backend)
    how = {"choose": None, "max_model_len": 512, **how}
    return load(source, source.spec(how.pop("overrides", {})), ops, dtype, torch.device("cpu"), **how)


@pytest.mark.parametrize("backend", usable("cpu"))
@pytest.mark.parametrize(("kind", "changes"), ARCHITECTURES, ids=lambda v: v if isinstance(v, str) else "")
def test_logits_equal_transformers(kind: str, changes: dict[str, Any], backend: str, tmp_path: Path) -> None:
    oracle = saved(kind, changes, tmp_path)
    model = loaded(tmp_path, backend)
    prompts = prompts_of(70, 1, 33, 129)
    with torch.inference_mode():
        ours = run(model, prompts, chunk=48)
        for prompt, got in zip(prompts, ours, strict=True):
            expected = oracle(torch.tensor([prompt])).logits[0]
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=3e-4)


DENSE_AND_MIXED = [row for row in ARCHITECTURES if row[0] in ("gpt_neox", "granite", "stablelm", "mixtral", "gpt_oss")]


@pytest.mark.parametrize(("kind", "changes"), DENSE_AND_MIXED, ids=lambda v: v if isinstance(v, str) else "")
def test_chunks_and_neighbours_do_not_change_a_bit(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    saved(kind, changes, tmp_path)
    model = loaded(tmp_path, usable("cpu")[0])
    prompts = prompts_of(70, 1, 33, 129)
    with torch.inference_mode():
        whole = run(model, prompts, chunk=512)
        for chunk in (7, 64):
            for a, b in zip(whole, run(model, prompts, chunk=chunk), strict=True):
                assert torch.equal(a, b)
        for prompt, expected in zip(prompts, whole, strict=True):
            assert torch.equal(run(model, [prompt], chunk=512)[0], expected)
        assert rows_are_alike(model, torch.float32)


def test_rows_that_differ_are_found_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("gpt_neox", {}, tmp_path)
    model = loaded(tmp_path)
    with torch.inference_mode(), caplog.at_level(logging.WARNING):
        warn_if_rows_differ(model, torch.float32)
        assert not caplog.records
        plain = model.body.forward

        def forward(input_ids: torch.Tensor, **how: Any) -> Any:
            out = plain(input_ids=input_ids, **how)
            out[0].add_(1e-6 * input_ids.shape[1])
            return out

        model.body.forward = forward
        warn_if_rows_differ(model, torch.float32)
    assert "answers may vary with the batch size" in caplog.text


def test_rows_that_are_asked_for_are_those_of_all(tmp_path: Path) -> None:
    saved("cohere", {}, tmp_path)
    model = loaded(tmp_path)
    prompts = prompts_of(70, 1, 33, 129)
    with torch.inference_mode():
        whole = run(model, prompts, chunk=48)
        some = run(model, prompts, chunk=48, wanted=5)
    assert torch.equal(some[3], torch.cat([whole[3][91:96], whole[3][124:129]]))


def test_bfloat16_and_int8_stay_near(tmp_path: Path) -> None:
    oracle = saved("olmo2", {"initializer_range": 0.1}, tmp_path)
    (prompt,) = prompts_of(70)
    expected = oracle(torch.tensor([prompt])).logits[0]
    ops = load_kernels("reference")
    half = loaded(tmp_path, dtype=torch.bfloat16)
    int8 = loaded(tmp_path, choose=lambda name: None if name == HEAD else Int8(ops))
    assert len(list(int8.linears())) == 3 * 7
    with torch.inference_mode():
        for model, dtype in ((half, torch.bfloat16), (int8, torch.float32)):
            caches = kv_cache.allocate(model.ops, kv_cache.KVShape(model.caches, dtype), 5, 16, torch.device("cpu"))
            got = step_of(model, caches, prompt)
            assert got.dtype == dtype
            assert 0 < (got.float() - expected).norm() / expected.norm() < 0.08


def step_of(model: HFModel, caches: list[Any], prompt: list[int]) -> torch.Tensor:
    from infer.kernels.ops import AttentionMeta

    count = len(prompt)
    meta = AttentionMeta(
        torch.tensor([0, count], dtype=torch.int32),
        torch.tensor([count], dtype=torch.int32),
        torch.arange(1, 6, dtype=torch.int32)[None],
        torch.arange(16, 16 + count),
        16,
    )
    pad = [0] * (-count % 16)
    return model.logits(model.forward(torch.tensor(prompt + pad), torch.tensor([*range(count), *pad]), caches, meta))[:count]


@pytest.mark.parametrize("tied", [False, True])
def test_our_own_architectures_run_there_too(tied: bool, tmp_path: Path) -> None:
    oracle = saved("llama", {"tie_word_embeddings": tied, "head_dim": 20}, tmp_path)
    model = loaded(tmp_path, usable("cpu")[0])
    (prompt,) = prompts_of(70)
    with torch.inference_mode():
        torch.testing.assert_close(run(model, [prompt], chunk=16)[0], oracle(torch.tensor([prompt])).logits[0], rtol=1e-4, atol=2e-4)


def test_overrides_and_random_weights(tmp_path: Path) -> None:
    oracle = saved("granite", {"logits_scaling": 2.0}, tmp_path)
    (prompt,) = prompts_of(40)
    with torch.inference_mode():
        (got,) = run(loaded(tmp_path, overrides={"logits_scaling": 8.0}), [prompt], chunk=64)
        torch.testing.assert_close(got, oracle(torch.tensor([prompt])).logits[0] / 4, rtol=1e-4, atol=2e-4)
        (tmp_path / "model.safetensors").unlink()
        random = [run(loaded(tmp_path, dummy_seed=seed), [prompt], chunk=64)[0] for seed in (1, 1, 2)]
    assert torch.equal(random[0], random[1])
    assert not torch.equal(random[0], random[2])


HYBRID = {"layer_types": ["conv", "full_attention", "full_attention"]}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8, "head_dim": 8}
LONGROPE = {
    "rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
    "original_max_position_embeddings": 64,
}
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("mamba", {"state_size": 8}, "does not go through transformers' AttentionInterface"),
    ("bert", {}, "not causal|neither causal"),
    ("lfm2", HYBRID, "in two steps and beside another differs"),
    ("falcon_h1", MAMBA, "in two steps and beside another differs"),
    ("llama4_text", {"attention_chunk_size": 16, "num_local_experts": 2, "head_dim": 8}, "neither causal nor a sliding window"),
    ("bloom", {"n_head": 6, "n_layer": 2}, "does not go through"),
    ("data2vec-text", {"is_decoder": True, "pad_token_id": 1}, "count positions in their own way"),
    ("xlm-roberta-xl", {"is_decoder": True, "pad_token_id": 1}, "count positions in their own way"),
    ("roberta-prelayernorm", {"is_decoder": True, "pad_token_id": 1}, "count positions in their own way"),
    ("phi3", LONGROPE, "leave out --model-impl transformers, or set max_model_len=64"),
    ("doge", {"moe_intermediate_size": 32}, "change the mask"),
    ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}, "max_position_embeddings": 128}, "=128"),
]


@pytest.mark.parametrize(("kind", "changes", "match"), REFUSED, ids=[kind for kind, *_ in REFUSED])
def test_what_a_paged_cache_cannot_do_is_refused(kind: str, changes: dict[str, Any], match: str, tmp_path: Path) -> None:
    saved(kind, changes, tmp_path)
    with pytest.raises(ModelError, match=match) as caught:
        loaded(tmp_path)
    assert str(caught.value).startswith("tiny")


@pytest.mark.parametrize("size", ["intermediate_size", "vocab_size"])
def test_weights_of_another_size_are_told_before_room_is_made_for_them(tmp_path: Path, size: str) -> None:
    saved("gpt_neox", {}, tmp_path)
    with pytest.raises(ModelError, match=r"do not fit its config\.json: .* has shape .*, config\.json makes it .*159"):
        loaded(tmp_path, overrides={size: 159})
    with pytest.raises(ModelError, match=r"config\.json"):
        loaded(tmp_path, overrides={size: 10**7})


def test_short_sequences_keep_their_rope(tmp_path: Path) -> None:
    oracle = saved("phi3", {**LONGROPE, "sliding_window": None}, tmp_path)
    model = loaded(tmp_path, max_model_len=64)
    (prompt,) = prompts_of(60)
    with torch.inference_mode():
        torch.testing.assert_close(run(model, [prompt], chunk=16)[0], oracle(torch.tensor([prompt])).logits[0], rtol=1e-4, atol=2e-4)


def test_damaged_folders_are_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("olmo2", {}, tmp_path)
    from safetensors.torch import load_file, save_file

    path = tmp_path / "model.safetensors"
    good = load_file(path)
    with pytest.raises(ModelError, match=r"tiny is quantized \(awq; config.json: quantization_config\), which is not supported for"):
        loaded(tmp_path, overrides={"quantization_config": {"quant_method": "awq"}})
    save_file({**good, "model.norm.weight": torch.ones(len(good["model.norm.weight"])).long()}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"tiny .*model\.norm\.weight is stored as I64, which is no dtype of weights"):
        loaded(tmp_path)
    save_file({k: v for k, v in good.items() if "q_norm" not in k}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"weights of tiny do not fit its config.json: 3 missing: model.layers.0.self_attn.q_norm"):
        loaded(tmp_path)
    save_file({**good, "more.weight": torch.zeros(3)}, path, metadata={"format": "pt"})
    with caplog.at_level(logging.WARNING):
        loaded(tmp_path)
    assert "1 weight of tiny not used by transformers' model: more.weight" in caplog.text
    save_file({**good, "lm_head.weight": torch.zeros(3, 3)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="tiny"):
        loaded(tmp_path)
    path.unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        loaded(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "model_type": "lama"}))
    with pytest.raises(ModelError, match="tiny: model_type 'lama' is known neither to us nor to this version of transformers"):
        loaded(tmp_path, dummy_seed=0)


def answers(folder: Path, prompts: list[list[int]], **settings: Any) -> list[tuple[Any, ...]]:
    """What each prompt gets, by a whole engine."""
    args = EngineArgs(model=str(folder), device="cpu", skip_tokenizer_init=True, **{"dtype": "float32", "max_model_len": 256, **settings})
    engine = build_engine(make_plan(args))
    params = SamplingParams(temperature=0.8, seed=3, max_tokens=12, logprobs=2, ignore_eos=True)
    for i, prompt in enumerate(prompts):
        engine.add(Request(str(i), prompt, params.clone(), i))
    found: dict[str, tuple[Any, ...]] = {}
    while engine.num_unfinished:
        for output in engine.step():
            choice = output.outputs[0]
            found[output.request_id] = (list(choice.token_ids), choice.logprobs)
    return [found[str(i)] for i in range(len(prompts))]


def test_an_engine_gives_each_record_what_it_gets_alone(tmp_path: Path) -> None:
    saved("stablelm", {}, tmp_path)
    prompts = [*prompts_of(70, 1, 33, 129, 70, 90), prompts_of(70)[0]]
    expected = answers(tmp_path, prompts, num_gpu_blocks_override=80)
    assert answers(tmp_path, prompts, num_gpu_blocks_override=17, max_num_seqs=3, max_num_batched_tokens=40) == expected
    assert answers(tmp_path, prompts, num_gpu_blocks_override=80, enable_prefix_caching=False, max_num_seqs=1) == expected


def test_whose_code_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved("llama", {}, tmp_path)
    prompts = prompts_of(70, 1, 33)
    said = "model code: transformers' (model_type llama)"
    with caplog.at_level(logging.INFO):
        expected = answers(tmp_path, prompts, num_gpu_blocks_override=40)
        assert answers(tmp_path, prompts, num_gpu_blocks_override=40, model_impl="infer") == expected
        assert said not in caplog.text
        got = answers(tmp_path, prompts, num_gpu_blocks_override=40, model_impl="transformers")
    assert said in caplog.text
    assert [tokens for tokens, _ in got] == [tokens for tokens, _ in expected]
    saved("helium", {}, tmp_path)
    with pytest.raises(ModelError, match=r"model_type 'helium' .* is not supported"):
        answers(tmp_path, prompts, model_impl="infer")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("qwen2", {"use_sliding_window": False, "sliding_window": 24}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 24, "layer_types": ["full_attention"] * 3}),
        ("qwen2_moe", {"num_experts": 4, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "sliding_window": 24}),
    ],
    ids=["off", "in no layer", "qwen2_moe"],
)
def test_windows_that_no_layer_uses_are_none(kind: str, changes: dict[str, Any], tmp_path: Path) -> None:
    oracle = saved(kind, changes, tmp_path)
    model = loaded(tmp_path, overrides={"sliding_window": 24})
    assert {call.config.sliding_window for call in model.attention.calls} == {None}
    (prompt,) = prompts_of(70)
    with torch.inference_mode():
        torch.testing.assert_close(run(model, [prompt], chunk=16)[0], oracle(torch.tensor([prompt])).logits[0], rtol=1e-4, atol=2e-4)


def test_experts_in_int8_stay_near(tmp_path: Path) -> None:
    oracle = saved("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 4}, tmp_path)
    ops = load_kernels("reference")
    model = loaded(tmp_path, choose=lambda name: None if name == HEAD else Int8(ops))
    assert len(list(model.linears())) == 3 * (4 + 4 * 2)
    (prompt,) = prompts_of(70)
    with torch.inference_mode():
        expected = oracle(torch.tensor([prompt])).logits[0]
        (got,) = run(model, [prompt], chunk=48)
    assert 0 < (got - expected).norm() / expected.norm() < 0.08


def test_weights_that_a_models_code_multiplies_itself_are_found() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.router, self.plain, self.asked = (torch.nn.Linear(4, 4) for _ in range(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(x, self.router.weight.float()) + self.plain(x.to(self.asked.weight.dtype))

    model = Odd()
    with torch.no_grad(), weights_read(model) as read:
        model(torch.zeros(2, 4))
    assert set(read) == {model.router}


class OddConfig:
    """A config without a key."""


def test_errors_in_code_that_is_not_ours_say_what_to_do(tmp_path: Path) -> None:
    def raised(error: Exception) -> str:
        with pytest.raises(ModelError) as caught, explained(FolderSource("tiny", tmp_path)):
            raise error
        return str(caught.value)

    assert "attention functions of its own" in raised(KeyError("infer_paged_0"))
    assert "looks for 'factor' and finds nothing" in raised(KeyError("factor"))
    with (
        pytest.raises(ModelError, match=r"asks for 'n_head', .* add it there, or by --hf-overrides"),
        explained(FolderSource("t", tmp_path)),
    ):
        OddConfig().n_head  # type: ignore[attr-defined]  # noqa: B018
    assert "ValueError: no" in raised(ValueError("no\nmore"))


def test_a_model_that_is_let_go_is_freed(tmp_path: Path) -> None:
    saved("gpt_neox", {}, tmp_path)
    model = loaded(tmp_path)
    gone = weakref.ref(model.body), weakref.ref(model.attention)
    del model
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


def causal(_: Any, __: Any, q: Any, k: Any) -> Any:
    return k <= q


@pytest.mark.parametrize(
    ("sees", "size", "expected"),
    [
        (causal, None, None),
        (lambda b, h, q, k: (k <= q) & (k > q - 24), 24, 24),
        (lambda b, h, q, k: (k <= q) & (k > q - 1), 1, 1),
        (lambda b, h, q, k: (k <= q) & (k >= q - 24), 24, "neither"),
        (lambda b, h, q, k: (k <= q) & (k // 24 == q // 24), 24, "neither"),
        (lambda b, h, q, k: (k <= q) & (k // 2 == q // 2), 2, "neither"),
        (lambda b, h, q, k: k >= 0, None, "neither"),
        (lambda b, h, q, k: (k <= q) & (k > q - 24), None, "neither"),
        (lambda b, h, q, k: torch.zeros(3)[q] <= k, None, "depends on more than positions"),
    ],
)
def test_windows_are_read_off_mask_functions(sees: Any, size: int | None, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(ModelError, match=expected):
            window_of(sees, size)
    else:
        assert window_of(sees, size) == expected


def test_shapes_that_no_cache_holds_are_refused() -> None:
    def look(*shapes: tuple[int, ...], **options: Any) -> None:
        attention = PagedAttention(load_kernels("reference"))
        with attention.looking():
            attention(None, *(torch.zeros(shape) for shape in shapes), **options)

    q, k = (1, 4, 8, 16), (1, 2, 8, 16)
    look(q, k, k)
    for shapes in ([(2, *q[1:]), k, k], [q, (1, 3, 8, 16), (1, 3, 8, 16)], [q, (1, 2, 8, 12), k], [q, k, (1, 2, 8, 20)]):
        with pytest.raises(ModelError):
            look(*shapes)
    with pytest.raises(ModelError, match="not causal"):
        look(q, k, k, is_causal=False)
    with pytest.raises(ModelError, match=r"more than queries, keys, values and a window \(block_indices\)"):
        look(q, k, k, block_indices=torch.zeros(1, 8, 2))
    hides = torch.full((1, 1, 8, 8), -3e38).triu(1)
    for mask in (hides, hides == 0, None):
        look(q, k, k, attention_mask=mask)
    with pytest.raises(ModelError, match="change the mask"):
        look(q, k, k, attention_mask=hides + 1)
    attention = PagedAttention(load_kernels("reference"))

    def look_twice() -> None:
        with attention.looking():
            for kv in (k, (1, 4, 8, 16)):
                attention(None, *(torch.zeros(shape) for shape in (q, kv, kv)))

    with pytest.raises(ModelError, match="differ in their number of key/value heads"):
        look_twice()


@pytest.mark.real
@pytest.mark.slow
def test_a_real_model_says_the_same_in_either_code(smollm2: Path) -> None:
    prompts = [[504, 3575, 282, 4649, 314], [198, 31, 28, 216, 34, 28, 216, 35, 28], list(range(1000, 1100))]
    ours, theirs = (answers(smollm2, prompts, model_impl=impl, num_gpu_blocks_override=64) for impl in ("infer", "transformers"))
    for (tokens, logprobs), (other_tokens, other_logprobs) in zip(ours, theirs, strict=True):
        assert tokens == other_tokens
        for place, other in zip(logprobs, other_logprobs, strict=True):
            assert {token: one.logprob for token, one in place.items()} == pytest.approx(
                {token: one.logprob for token, one in other.items()}, abs=1e-3
            )
