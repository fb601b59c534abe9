"""EngineArgs.resolve: device, dtype, length and limits are decided once, with a reason."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch

from infer.core.errors import ConfigError
from infer.core.settings import args as args_module
from infer.core.settings import hardware
from infer.core.settings.args import EngineArgs
from infer.core.settings.config import EngineConfig
from infer.core.settings.setting import presets
from infer.core.settings.threads import Threads
from infer.core.spec.hf_config import apply_hf_overrides
from infer.core.spec.read import read_spec
from infer.kernels import features
from infer.kernels.cpu import gemm, library

REAL = hardware.has_bfloat16
TINY = {"model_type": "llama", "max_position_embeddings": 512, "torch_dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def cpu_with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine these tests think they run on."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: True)
    monkeypatch.setattr(library, "library", lambda: SimpleNamespace(digest="abc"))
    monkeypatch.setattr(gemm, "instructions", lambda: SimpleNamespace(compiler="GCC 12"))
    monkeypatch.setattr(args_module, "choose_threads", lambda asked: Threads(asked or 3, 3))


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise library.BuildError("there is no C++ compiler; install g++")

    monkeypatch.setattr(library, "library", refuse)


@pytest.fixture
def slow_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_bfloat16", lambda device: False)
    monkeypatch.setattr(features, "features", frozenset)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Toy GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=24 << 30))
    monkeypatch.setattr("infer.kernels.cuda.build.lacking", lambda: "")


@pytest.mark.parametrize(
    ("there", "loaded", "compiled", "expected"),
    [
        ({"avx2"}, True, True, False),
        ({"avx512_bf16"}, False, False, True),
        ({"avx512_bf16"}, True, False, False),
        ({"avx512_bf16"}, True, True, True),
        ({"amx_bf16"}, True, False, True),
    ],
)
def test_bfloat16_is_what_the_kernels_have(
    monkeypatch: pytest.MonkeyPatch, there: set[str], loaded: bool, compiled: bool, expected: bool
) -> None:
    monkeypatch.setattr(features, "features", lambda: frozenset(there))
    monkeypatch.setattr(library, "is_loaded", lambda: loaded)
    monkeypatch.setattr(gemm, "multiplies", lambda dtype: compiled)
    assert REAL("cpu") is expected


def resolve(hf_config: dict[str, Any] | None = None, **given: Any) -> EngineConfig:
    return EngineArgs.from_kwargs(model="m", **given).resolve(
        read_spec({**TINY, **(hf_config or {})}, given.get("hf_overrides")), given=given
    )


def test_the_plain_case() -> None:
    config = resolve()
    assert (config.device, config.dtype, config.kernels, config.kernel_build) == ("cpu", "bfloat16", "cpu", "GCC 12, abc")
    assert config.threads == 3
    assert (config.max_model_len, config.max_model_len_given) == (512, False)
    assert (config.max_num_seqs, config.max_num_batched_tokens, config.block_size) == (256, 2048, 16)
    assert (config.chunked_prefill, config.enable_prefix_caching, config.max_logprobs) == (True, True, 20)
    assert config.notes == ("device: cpu (torch sees no GPU)", "dtype: bfloat16 (the checkpoint's)")


def test_frozen_and_jsonable_without_the_token() -> None:
    config = resolve(hf_token="hf_abc", hf_overrides={"a": 1})
    with pytest.raises(AttributeError):
        config.seed = 1  # type: ignore[misc]
    told = json.dumps(config.to_dict())
    assert "hf_abc" not in told + repr(config)
    assert json.loads(told)["hf_overrides"] == {"a": 1}
    assert config.hf_token == "hf_abc"


def test_the_tokenizer_is_the_models_unless_given() -> None:
    config = resolve(revision="v2")
    assert (config.tokenizer, config.tokenizer_revision) == ("m", "v2")
    config = resolve(revision="v2", tokenizer="t")
    assert (config.tokenizer, config.tokenizer_revision) == ("t", "v2")


class TestDevice:
    def test_no_gpu(self) -> None:
        assert resolve(device="cpu").device == "cpu"
        with pytest.raises(ConfigError, match=r"device=cuda: torch cannot use a GPU here: .*; try device=cpu"):
            resolve(device="cuda")

    def test_gpu(self, gpu: None) -> None:
        config = resolve()
        assert (config.device, config.max_num_batched_tokens) == ("cuda:0", 8192)
        assert config.notes[0] == "device: cuda:0 (Toy GPU)"
        assert resolve(device="cuda:1").device == "cuda:1"
        assert resolve(device="cpu").device == "cpu"
        with pytest.raises(ConfigError, match="device=cuda:2: there are 2 GPUs"):
            resolve(device="cuda:2")

    def test_too_few_gpus(self, gpu: None) -> None:
        assert resolve(tensor_parallel_size=2).tensor_parallel_size == 2
        assert resolve(device="cpu", tensor_parallel_size=2, data_parallel_size=2).data_parallel_size == 2
        with pytest.raises(
            ConfigError, match="tensor_parallel_size=2 and data_parallel_size=2 take 4 GPUs, and from cuda:0 on there are 2"
        ):
            resolve(tensor_parallel_size=2, data_parallel_size=2)
        with pytest.raises(ConfigError, match="take 2 GPUs, and from cuda:1 on there are 1"):
            resolve(device="cuda:1", data_parallel_size=2)


class TestDtype:
    @pytest.mark.parametrize(
        ("stated", "chosen", "reason"),
        [
            ("bfloat16", "bfloat16", "the checkpoint's"),
            ("torch.bfloat16", "bfloat16", "the checkpoint's"),
            ("float16", "bfloat16", "a float16 checkpoint on a CPU which has bfloat16 dot products"),
            ("float32", "bfloat16", "a float32 checkpoint on a CPU which has bfloat16 dot products"),
            (None, "bfloat16", "a checkpoint that states no dtype on a CPU which has bfloat16 dot products"),
            ("uint8", "bfloat16", "a checkpoint that states no dtype on a CPU which has bfloat16 dot products"),
        ],
    )
    def test_auto_on_a_cpu_with_bfloat16(self, stated: str | None, chosen: str, reason: str) -> None:
        config = resolve({"torch_dtype": stated})
        assert config.dtype == chosen
        assert config.notes[-1] == f"dtype: {chosen} ({reason})"

    @pytest.mark.parametrize(
        ("stated", "reason"),
        [
            ("bfloat16", "a bfloat16 checkpoint on a CPU which has no bfloat16 dot products"),
            ("float16", "a float16 checkpoint on a CPU which has no bfloat16 dot products"),
            ("float32", "the checkpoint's"),
            (None, "a checkpoint that states no dtype on this CPU"),
        ],
    )
    def test_auto_on_another_cpu(self, slow_cpu: None, stated: str | None, reason: str) -> None:
        config = resolve({"torch_dtype": stated})
        assert config.dtype == "float32"
        assert config.notes[-1] == f"dtype: float32 ({reason})"

    @pytest.mark.parametrize(
        ("stated", "kind", "chosen"),
        [
            ("bfloat16", "llama", "bfloat16"),
            ("float16", "llama", "float16"),
            ("float32", "llama", "float16"),
            (None, "llama", "float16"),
            ("float32", "gemma2", "bfloat16"),
        ],
    )
    def test_auto_on_a_gpu(self, gpu: None, stated: str | None, kind: str, chosen: str) -> None:
        assert resolve({"torch_dtype": stated, "model_type": kind}).dtype == chosen

    def test_auto_on_an_old_gpu(self, gpu: None, slow_cpu: None) -> None:
        assert resolve({"torch_dtype": "bfloat16"}).dtype == "float16"
        assert resolve({"torch_dtype": "bfloat16", "model_type": "gemma2"}).dtype == "float32"
        with pytest.raises(ConfigError, match="this GPU has no bfloat16"):
            resolve(dtype="bfloat16")

    @pytest.mark.parametrize(("name", "chosen"), [("half", "float16"), ("float", "float32"), ("bfloat16", "bfloat16")])
    def test_given(self, name: str, chosen: str) -> None:
        assert resolve(dtype=name).dtype == chosen

    def test_auto_where_the_compiler_knows_less_than_the_cpu(self, slow_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(features, "features", lambda: frozenset({"avx512f", "avx512_bf16"}))
        config = resolve({"torch_dtype": "bfloat16"})
        assert config.dtype == "float32"
        assert any("whose bfloat16 dot products the compiler of its kernels does not know" in note for note in config.notes)

    def test_given_is_kept_and_told(self, slow_cpu: None) -> None:
        assert "dtype: bfloat16 is slow on this CPU, which has no bfloat16 dot products" in resolve(dtype="bfloat16").notes
        assert "dtype: float32 (the checkpoint has bfloat16)" in resolve(dtype="float32").notes

    def test_float16_where_the_model_overflows(self) -> None:
        with pytest.raises(ConfigError, match="do not fit float16"):
            resolve({"model_type": "gemma3_text"}, dtype="half")

    def test_newer_key_and_text_config(self) -> None:
        assert read_spec({"dtype": "float32", "torch_dtype": "bfloat16"}).dtype == "float32"
        assert read_spec({"torch_dtype": "float32", "text_config": {"dtype": "float16"}}).dtype == "float16"


class TestMaxModelLen:
    @pytest.mark.parametrize(
        ("hf_config", "length"),
        [
            ({}, None),
            ({"n_positions": 1024}, 1024),
            ({"max_position_embeddings": 4096, "seq_length": 2048}, 2048),
            ({"text_config": {"max_position_embeddings": 100}}, 100),
            ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
            ({"max_position_embeddings": 2048, "rope_scaling": {"rope_type": "dynamic", "factor": 2}}, 4096),
            ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 131072),
            ({"max_position_embeddings": 131072, "rope_scaling": {"rope_type": "longrope", "factor": 32.0}}, 131072),
            ({"max_position_embeddings": 131072, "rope_scaling": {"type": "su"}}, 131072),
            (
                {
                    "max_position_embeddings": 163840,
                    "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096},
                },
                163840,
            ),
            ({"max_position_embeddings": 32768, "rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 131072),
            ({"max_position_embeddings": 2048, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}, 2048),
            ({"max_position_embeddings": 2048, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 2}}}, 4096),
            ({"model_type": "gemma3", "max_position_embeddings": 2048, "rope_scaling": {"rope_type": "linear", "factor": 8}}, 2048),
        ],
    )
    def test_derived(self, hf_config: dict[str, Any], length: int | None) -> None:
        assert read_spec(hf_config).max_length == length

    def test_none_stated(self) -> None:
        assert (
            "max_model_len: 2048 (config.json states no length)" in resolve({"model_type": "helium", "max_position_embeddings": None}).notes
        )
        assert resolve({"model_type": "helium", "max_position_embeddings": None}, max_model_len=9000).max_model_len == 9000

    def test_given(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("INFER_ALLOW_LONG_MAX_MODEL_LEN", raising=False)
        config = resolve(max_model_len=100)
        assert (config.max_model_len, config.max_model_len_given) == (100, True)
        with pytest.raises(ConfigError, match="max_model_len=513 is more than the 512 this model was made for"):
            resolve(max_model_len=513)
        monkeypatch.setenv("INFER_ALLOW_LONG_MAX_MODEL_LEN", "1")
        assert resolve(max_model_len=513).max_model_len == 513

    def test_up_to_what_the_model_states_elsewhere(self) -> None:
        hf_config = {"max_position_embeddings": 512, "max_seq_len": 256, "model_max_length": 1024}
        assert resolve(hf_config, max_model_len=1000).max_model_len == 1000


class TestLimits:
    @pytest.mark.parametrize(
        ("given", "seqs", "tokens", "note"),
        [
            ({"max_num_batched_tokens": 64}, 64, 64, "max_num_seqs: 64, lowered to max_num_batched_tokens"),
            ({"max_num_batched_tokens": 1024}, 256, 1024, None),
            ({"max_num_seqs": 4096}, 4096, 4096, "max_num_batched_tokens: 4096, raised to max_num_seqs"),
            ({"max_num_seqs": 7, "max_num_batched_tokens": 7}, 7, 7, None),
        ],
    )
    def test_a_default_gives_way(self, given: dict[str, int], seqs: int, tokens: int, note: str | None) -> None:
        config = resolve(**given)
        assert (config.max_num_seqs, config.max_num_batched_tokens) == (seqs, tokens)
        assert config.notes[2:] == ((note,) if note else ())

    def test_two_given_values_that_contradict(self) -> None:
        with pytest.raises(ConfigError, match=r"^max_num_batched_tokens=64 is below max_num_seqs=256; raise the one or lower the other$"):
            resolve(max_num_batched_tokens=64, max_num_seqs=256)

    def test_the_sources_are_named_when_known(self) -> None:
        args, origin = EngineArgs.load(config="throughput", env={}, flags={"max_num_batched_tokens": 64})
        told = r"max_num_batched_tokens=64 \(flag --max-num-batched-tokens\) is below max_num_seqs=512 \(throughput\.yaml\)"
        with pytest.raises(ConfigError, match=told):
            args.resolve(read_spec(TINY), given=origin)

    def test_without_given_a_default_value_counts_as_a_default(self) -> None:
        assert EngineArgs(model="m", max_num_batched_tokens=64, max_num_seqs=256).resolve(read_spec(TINY)).max_num_seqs == 64

    def test_no_chunked_prefill(self) -> None:
        long = {"max_position_embeddings": 4096}
        config = resolve(long, enable_chunked_prefill=False)
        assert (config.chunked_prefill, config.max_num_batched_tokens, config.max_model_len) == (False, 4096, 4096)
        config = resolve(long, enable_chunked_prefill=False, max_num_batched_tokens=1000)
        assert (config.max_num_batched_tokens, config.max_model_len, config.max_model_len_given) == (1000, 1000, False)
        with pytest.raises(ConfigError, match="max_num_batched_tokens=1000 is below max_model_len=2000 without chunked prefill"):
            resolve(long, enable_chunked_prefill=False, max_num_batched_tokens=1000, max_model_len=2000)
        with pytest.raises(ConfigError, match="long_prefill_token_threshold needs chunked prefill"):
            resolve(enable_chunked_prefill=False, long_prefill_token_threshold=32)

    def test_two_ways_to_size_the_cache(self) -> None:
        notes = resolve(num_gpu_blocks_override=40, kv_cache_memory_bytes=1 << 20).notes
        assert notes[-1] == "num_gpu_blocks_override decides the KV size; kv_cache_memory_bytes is not looked at"


class TestPooling:
    BERT: ClassVar[dict[str, Any]] = {"model_type": "bert", "architectures": ["BertModel"]}

    def test_what_a_model_that_pools_needs(self) -> None:
        config = resolve(self.BERT, pooler_config={"pooling_type": "MEAN"})
        assert (config.task, config.pooler_config) == ("embed", {"pooling_type": "MEAN"})
        assert (config.chunked_prefill, config.enable_prefix_caching) == (False, False)
        assert (config.max_model_len, config.max_num_batched_tokens, config.max_num_seqs) == (512, 4096, 1024)
        assert not any("no effect" in note for note in config.notes)
        generating = resolve()
        assert (generating.task, generating.pooler_config) == ("generate", {})

    def test_a_text_may_be_longer_than_a_steps_tokens(self) -> None:
        long = self.BERT | {"max_position_embeddings": 8192}
        assert (resolve(long).max_model_len, resolve(long).max_num_batched_tokens) == (8192, 4096)
        config = resolve(long, max_num_batched_tokens=300)
        assert (config.max_model_len, config.max_num_batched_tokens) == (8192, 300)

    @pytest.mark.parametrize(
        ("hf_config", "max_seq_length", "given", "length"),
        [
            ({"max_position_embeddings": 512}, None, {}, 512),
            ({"max_position_embeddings": 512}, 256, {}, 256),
            ({"max_position_embeddings": 512}, 1024, {}, 512),
            ({"max_position_embeddings": 512}, 256, {"max_model_len": 400}, 400),
            ({"model_type": "helium", "max_position_embeddings": None}, 100, {}, 100),
            ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}, None, {}, 512),
            ({"model_type": "xlm-roberta", "max_position_embeddings": 514}, None, {}, 512),
            ({"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 0}, None, {}, 513),
        ],
    )
    def test_length(self, hf_config: dict[str, Any], max_seq_length: int | None, given: dict[str, int], length: int) -> None:
        args = EngineArgs.from_kwargs(model="m", **given)
        config = args.resolve(read_spec({**TINY, **self.BERT, **hf_config}), given=given, max_seq_length=max_seq_length)
        assert config.max_model_len == length
        assert ("max_model_len: 256 (sentence_bert_config.json)" in config.notes) == (length == 256)

    def test_a_length_beyond_the_position_table(self) -> None:
        with pytest.raises(ConfigError, match="max_model_len=513 is more than the 512"):
            resolve({"model_type": "roberta", "max_position_embeddings": 514}, max_model_len=513)

    def test_settings_that_say_nothing_here_are_told(self) -> None:
        config = resolve(self.BERT, kv_cache_memory_bytes=1 << 20, max_logprobs=3, enable_chunked_prefill=False)
        assert [note for note in config.notes if "no effect" in note] == [
            "max_logprobs has no effect when texts are embedded or classified",
            "kv_cache_memory_bytes has no effect when texts are embedded or classified",
            "enable_chunked_prefill has no effect when texts are embedded or classified",
        ]
        assert "pooler_config has no effect when text is generated" in resolve(pooler_config={"normalize": True}).notes

    def test_transformers_code_pools_nothing(self) -> None:
        with pytest.raises(ConfigError, match="model_impl=transformers generates text only for now"):
            resolve(self.BERT, model_impl="transformers")

    def test_asked_for(self) -> None:
        assert resolve(task="embed").task == "embed"
        with pytest.raises(ConfigError, match="use infer embed or task=embed"):
            resolve(self.BERT, task="generate")


class TestEffects:
    def test_what_does_nothing_here_is_told_once(self) -> None:
        config = resolve(enforce_eager=True, swap_space=8, gpu_memory_utilization=0.9, deterministic=True, disable_custom_all_reduce=True)
        assert [note for note in config.notes if "no effect" in note] == [
            "swap_space has no effect on cpu",
            "deterministic has no effect on cpu",
            "enforce_eager has no effect on cpu",
            "disable_custom_all_reduce has no effect with one rank",
        ]

    def test_media_of_a_model_that_reads_text_alone(self) -> None:
        given = {"allowed_media_domains": ["example.com"], "media_timeout": 3}
        told = [note for note in resolve(**given, max_image_pixels=1 << 26).notes if "no effect" in note]
        assert told == ["allowed_media_domains, media_timeout: no effect, since the model reads text alone (infer help media)"]
        llava = {"model_type": "llava", "text_config": TINY, "vision_config": {"model_type": "clip_vision_model"}}
        assert not any("no effect" in note for note in resolve(llava, **given).notes)

    def test_on_a_gpu(self, gpu: None) -> None:
        assert resolve(enforce_eager=True, max_seq_len_to_capture=99, cpu_offload_gb=2).cpu_offload_gb == 2
        assert resolve(gpu_memory_utilization=0.5).gpu_memory_utilization == 0.5
        config = resolve(deterministic=True, disable_custom_all_reduce=True)
        assert config.deterministic
        assert [note for note in config.notes if "no effect" in note] == ["disable_custom_all_reduce has no effect on cuda yet"]

    def test_sequences_by_the_memory_of_a_gpu(self, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
        assert resolve().max_num_seqs == 256
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=80 << 30))
        assert resolve().max_num_seqs == 1024
        assert resolve(max_num_seqs=256).max_num_seqs == 256
        assert resolve(max_num_batched_tokens=600).max_num_seqs == 600
        assert resolve(task="embed").max_num_batched_tokens == 65536

    def test_stages_of_a_pipeline(self) -> None:
        assert resolve(pipeline_parallel_size=3, tensor_parallel_size=2).num_ranks == 6
        assert resolve(pipeline_parallel_size=2).speculation == "off"
        with pytest.raises(ConfigError, match=r"speculation=draft: stages of a pipeline have no draft model yet"):
            resolve(pipeline_parallel_size=2, speculative_model="small")


class TestKernels:
    def test_given(self) -> None:
        for name, build in (("reference", None), ("cpu", "GCC 12, abc")):
            config = resolve(kernels=name)
            assert (config.kernels, config.kernel_build) == (name, build)
        with pytest.raises(ConfigError, match=r"unknown kernels 'referense'; did you mean 'reference'\?; available: .*reference"):
            resolve(kernels="referense")

    def test_without_a_compiler_the_reference_runs_and_that_is_told(self, no_compiler: None) -> None:
        config = resolve()
        assert (config.kernels, config.kernel_build) == ("reference", None)
        assert "kernels: reference, which is much slower (there is no C++ compiler; install g++)" in config.notes
        assert not any("kernels" in note for note in resolve(kernels="reference").notes)

    def test_what_was_asked_for_is_not_replaced(self, no_compiler: None) -> None:
        with pytest.raises(ConfigError, match=r"^kernels=cpu: there is no C\+\+ compiler; install g\+\+$"):
            resolve(kernels="cpu")
        with pytest.raises(ConfigError, match=r"^require_kernels: there is no C\+\+ compiler; install g\+\+$"):
            resolve(require_kernels=True)

    def test_require(self) -> None:
        assert resolve(require_kernels=True).kernels == "cpu"
        with pytest.raises(ConfigError, match="require_kernels contradicts kernels=reference"):
            resolve(require_kernels=True, kernels="reference")

    def test_nothing_is_compiled_for_a_command_that_computes_nothing(self, no_compiler: None) -> None:
        config = EngineArgs(model="m", require_kernels=True).resolve(read_spec(TINY), compile_kernels=False)
        assert (config.kernels, config.kernel_build) == ("cpu", None)

    def test_on_a_gpu(self, gpu: None) -> None:
        config = resolve(require_kernels=True)
        assert config.kernels == "cuda"
        assert str(config.kernel_build).startswith("triton-")
        assert resolve(kernels="cuda") == resolve()
        assert (resolve(kernels="reference").kernels, resolve(kernels="reference").kernel_build) == ("reference", None)
        with pytest.raises(ConfigError, match=r"^kernels=cpu cannot run on cuda:0; leave it out, or take device=cpu$"):
            resolve(kernels="cpu")

    def test_those_of_a_gpu_on_a_cpu(self) -> None:
        with pytest.raises(ConfigError, match=r"^kernels=cuda cannot run on cpu; leave it out, or take device=cuda$"):
            resolve(kernels="cuda")

    def test_a_gpu_too_old_for_them(self, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
        why = "this GPU has compute capability 7.5, and the Triton kernels need 8.0"
        config = resolve()
        assert (config.kernels, config.kernel_build) == ("reference", None)
        assert f"kernels: reference, which is much slower ({why})" in config.notes
        for given in ({"kernels": "cuda"}, {"require_kernels": True}):
            with pytest.raises(ConfigError, match=why):
                resolve(**given)

    def test_without_what_triton_builds_its_launchers_with(self, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
        why = "triton 3.6.0 needs Python's headers (python3-dev) to launch kernels; install it"
        monkeypatch.setattr("infer.kernels.cuda.build.lacking", lambda: why)
        config = resolve()
        assert (config.kernels, config.kernel_build) == ("reference", None)
        assert f"kernels: reference, which is much slower ({why})" in config.notes
        for given in ({"kernels": "cuda"}, {"require_kernels": True}):
            with pytest.raises(ConfigError, match=r"needs Python's headers \(python3-dev\)"):
                resolve(**given)

    def test_without_triton(self, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "infer.kernels.cuda.build", None)
        config = resolve()
        assert config.kernels == "reference"
        assert any("triton cannot be used" in note and "pip install 'triton>=3.4'" in note for note in config.notes)


def test_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(threads=5).threads == 5
    monkeypatch.setattr(args_module, "choose_threads", lambda asked: Threads(2, 8, "the control group allows 1.5 CPUs"))
    assert "threads: 2 of 8 cores (the control group allows 1.5 CPUs)" in resolve().notes


def test_hf_overrides_merge_mappings_within_mappings() -> None:
    old = {"a": 1, "rope": {"type": "linear", "factor": 2}, "b": {"c": 1}}
    new = apply_hf_overrides(old, {"rope": {"factor": 4}, "b": 3, "d": 4})
    assert new == {"a": 1, "rope": {"type": "linear", "factor": 4}, "b": 3, "d": 4}
    assert old["rope"] == {"type": "linear", "factor": 2}
    assert resolve(hf_overrides={"max_position_embeddings": 99}).max_model_len == 99


@pytest.mark.parametrize("name", presets())
def test_presets_load_and_resolve(name: str, gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    args, origin = EngineArgs.load(config=name, env={}, flags={"model": "m"})
    assert f"{name}.yaml" in origin.values()
    config = args.resolve(read_spec(TINY), given=origin)
    assert config.max_model_len == 512
    assert not any("no effect" in note for note in config.notes)
