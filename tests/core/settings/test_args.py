"""EngineArgs: every argument, where values come from, and which source is to blame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import infer.core
from infer.core.errors import ConfigError
from infer.core.settings.args import GROUPS, EngineArgs
from infer.core.settings.setting import Setting
from infer.core.spec.read import read_spec

from ..seed import SEED

SETTINGS = EngineArgs.settings()

OFFLINE = """
    max_model_len max_num_seqs max_num_batched_tokens block_size kv_cache_dtype enable_prefix_caching prefix_caching_hash_algo
    enable_chunked_prefill long_prefill_token_threshold scheduling_policy enable_lora max_loras max_lora_rank max_cpu_loras lora_dtype
    fully_sharded_loras lora_extra_vocab_size enable_prompt_adapter max_prompt_adapters max_prompt_adapter_token load_format
    ignore_patterns download_dir hf_token structured_outputs_config guided_decoding_backend speculative_config pipeline_parallel_size
    data_parallel_size distributed_executor_backend num_gpu_blocks_override kv_cache_memory_bytes hf_overrides hf_config_path
    config_format generation_config override_generation_config limit_mm_per_prompt mm_processor_kwargs allowed_local_media_path
    pooler_config runner convert task max_logprobs logprobs_mode logits_processors enable_prompt_embeds disable_sliding_window
    model_impl optimization_level performance_mode kv_offloading_size watermark preemption_mode num_scheduler_steps
    scheduler_delay_factor tokenizer_pool_size num_lookahead_slots device kernels threads deterministic
"""


def other_value(one: Setting) -> Any:
    """A value of the right type that is not the default."""
    if one.kind == "bool":
        return not one.default
    if one.kind in ("int", "float"):
        return (one.default or 0) + 1
    return {"str": "x", "dict": {"a": 1}, "list": ["a"]}[one.kind]


def test_the_seed_arguments_exist_with_their_defaults() -> None:
    assert {name: SETTINGS[name].default for name in SEED} == SEED
    assert next(iter(SETTINGS)) == "model"


@pytest.mark.parametrize("name", OFFLINE.split())
def test_the_offline_arguments_exist(name: str) -> None:
    assert name in SETTINGS


@pytest.mark.parametrize("one", SETTINGS.values(), ids=SETTINGS)
def test_every_setting_is_described_and_its_default_is_valid(one: Setting) -> None:
    assert one.help.endswith(".")
    assert one.group in GROUPS
    assert one.check(one.default) == one.default
    assert one.check(None) == one.default


@pytest.mark.parametrize("one", [s for s in SETTINGS.values() if s.pending and not s.choices], ids=lambda s: s.name)
def test_what_does_not_work_yet_is_refused_unless_it_asks_for_nothing(one: Setting) -> None:
    with pytest.raises(ConfigError, match=rf"^{one.name}=.* is not supported yet$"):
        EngineArgs.from_kwargs(model="m", **{one.name: other_value(one)})
    EngineArgs.from_kwargs(model="m", **{one.name: one.default})


@pytest.mark.parametrize("one", [s for s in SETTINGS.values() if s.later], ids=lambda s: s.name)
def test_choices_that_do_not_work_yet_are_refused(one: Setting) -> None:
    for choice in one.choices:
        EngineArgs.from_kwargs(model="m", **{one.name: choice})
    for choice in one.later:
        with pytest.raises(ConfigError, match=f"^{one.name}={choice} is not supported yet; for now: "):
            EngineArgs.from_kwargs(model="m", **{one.name: choice})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_num_seq": 3}, "unknown argument 'max_num_seq'; did you mean 'max_num_seqs'?"),
        ({"max_num_seqs": "3"}, "max_num_seqs must be an integer, not str '3'"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, not 0"),
        ({"gpu_memory_utilization": 1.5}, "gpu_memory_utilization must be above 0 and at most 1, not 1.5"),
        ({"block_size": 24}, "block_size must be a power of two, not 24"),
        ({"block_size": 512}, "block_size must be at least 1 and at most 256, not 512"),
        ({"device": "gpu"}, "device must be auto, cpu, cuda or cuda:N, not 'gpu'"),
        ({"device": "cuda:"}, "device must be auto, cpu, cuda or cuda:N, not 'cuda:'"),
        ({"device": "cpu:1"}, "device must be auto, cpu, cuda or cuda:N, not 'cpu:1'"),
        ({"dtype": "int8"}, "dtype must be one of auto, float32, float16, bfloat16, float, half, not 'int8'"),
        ({"max_context_len_to_capture": 8192}, "max_context_len_to_capture is gone: use max_seq_len_to_capture"),
        ({"hf_overrides": "x"}, "hf_overrides must be a mapping, not str 'x'"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy must be one of fcfs, priority, not 'lifo'"),
        ({"logprobs_mode": "raw_logits"}, "logprobs_mode=raw_logits is not supported yet; for now: raw_logprobs, processed_logprobs"),
        (
            {"guided_decoding_backend": "outlines"},
            "guided_decoding_backend=outlines is not supported yet; for now: auto, guidance, xgrammar",
        ),
        (
            {"structured_outputs_config": {"backend": "outlines"}},
            "structured_outputs_config backend=outlines is not supported yet; for now: auto, guidance, xgrammar",
        ),
        (
            {"structured_outputs_config": {"backend": "xgramar"}},
            "structured_outputs_config backend must be one of auto, guidance, xgrammar, not 'xgramar'",
        ),
        (
            {"structured_outputs_config": {"disable_any_whitespace": 1}},
            "structured_outputs_config disable_any_whitespace must be true or false, not 1",
        ),
        ({"structured_outputs_config": {"backends": 1}}, "structured_outputs_config has no 'backends'; did you mean 'backend'?"),
        ({"override_generation_config": "x"}, "override_generation_config must be a mapping, not str 'x'"),
        ({"runner": "draft"}, "runner=draft is not supported yet; for now: auto, generate, pooling"),
        ({"pooler_config": {"pooling": "CLS"}}, "pooler_config has no 'pooling'; did you mean 'pooling_type'?"),
        ({"pooler_config": {"seq_pooling_type": "STEP"}}, "pooler_config seq_pooling_type must be CLS, MEAN, LAST, not 'STEP'"),
        ({"pooler_config": {"tok_pooling_type": "CLS"}}, "pooler_config tok_pooling_type must be ALL, STEP, not 'CLS'"),
        ({"pooler_config": {"pooling_type": "max"}}, "pooler_config pooling_type must be CLS, MEAN, LAST, ALL, STEP, not 'max'"),
        ({"pooler_config": {"pooling_type": 1}}, "pooler_config pooling_type must be CLS, MEAN, LAST, ALL, STEP, not 1"),
        ({"pooler_config": {"step_tag_id": True}}, "pooler_config step_tag_id must be a token id, not True"),
        (
            {"pooler_config": {"returned_token_ids": [4, 4]}},
            "pooler_config returned_token_ids must be a list of token ids, each once, not [4, 4]",
        ),
        ({"pooler_config": {"normalize": 1}}, "pooler_config normalize must be true or false, not 1"),
        ({"pooler_config": {"dimensions": 0}}, "pooler_config dimensions must be an integer of at least 1, not 0"),
        ({"pooler_config": {"dimensions": True}}, "pooler_config dimensions must be an integer of at least 1, not True"),
        ({"pooler_config": {"activation": "tanh"}}, "pooler_config activation must be identity, sigmoid or softmax, not 'tanh'"),
        (
            {"pooler_config": {"normalize": True, "use_activation": True}},
            "pooler_config has both normalize and use_activation, which are two names of one thing; leave one of the two out",
        ),
        ({"model_impl": "vllm"}, "model_impl=vllm is not supported yet; for now: auto, infer, transformers"),
    ],
)
def test_wrong_arguments(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EngineArgs.from_kwargs(model="m", **given)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "given",
    [
        {"pooling_type": "cls", "normalize": False, "dimensions": 64},
        {"seq_pooling_type": "MEAN", "pooling_type": None},
        {"use_activation": True, "activation": "sigmoid"},
        {},
    ],
)
def test_pooler_config(given: dict[str, Any]) -> None:
    assert EngineArgs(model="m", pooler_config=given).pooler_config == given


def test_what_the_engine_is_told() -> None:
    given: dict[str, Any] = {
        "logprobs_mode": "processed_logprobs",
        "generation_config": "none",
        "override_generation_config": {"top_k": 5},
        "structured_outputs_config": {"disable_any_whitespace": True},
        "skip_tokenizer_init": True,
        "trust_remote_code": True,
        "model_impl": "transformers",
        "scheduling_policy": "priority",
        "max_logprobs": -1,
    }
    config = EngineArgs(model="m", device="cpu", dtype="float32", **given).resolve(read_spec({}), compile_kernels=False)
    assert {name: getattr(config, name) for name in given} == given
    plain = EngineArgs(model="m", device="cpu", dtype="float32").resolve(read_spec({}), compile_kernels=False)
    assert (plain.override_generation_config, plain.structured_outputs_config) == ({}, {})


def test_friendly_spellings() -> None:
    import torch

    args = EngineArgs(model=Path("a"), dtype=torch.bfloat16, kv_cache_memory_bytes="1GiB", max_num_seqs=None)  # type: ignore[arg-type]
    assert (args.model, args.dtype, args.kv_cache_memory_bytes, args.max_num_seqs) == ("a", "bfloat16", 1 << 30, 256)


def test_the_token_stays_out_of_the_repr() -> None:
    assert "hf_abc" not in repr(EngineArgs(model="m", hf_token="hf_abc"))


class TestLoad:
    @pytest.fixture
    def config(self, tmp_path: Path) -> str:
        path = tmp_path / "run.yaml"
        path.write_text("model: from-yaml\nmax_num_seqs: 3\nblock_size: 8\nseed: 5\nthreads: null\n")
        return str(path)

    def test_flag_over_environment_over_yaml_over_default(self, config: str) -> None:
        env = {"INFER_MAX_NUM_SEQS": "4", "INFER_BLOCK_SIZE": "32", "INFER_MODEL": "", "UNRELATED": "x"}
        args, origin = EngineArgs.load(config=config, env=env, flags={"block_size": 64, "enable_prefix_caching": False})
        assert (args.model, args.max_num_seqs, args.block_size, args.seed, args.threads) == ("from-yaml", 4, 64, 5, None)
        assert args.enable_prefix_caching is False
        told = {name: source for name, source in origin.items() if source != "default"}
        assert told == {
            "model": "run.yaml",
            "seed": "run.yaml",
            "max_num_seqs": "env INFER_MAX_NUM_SEQS",
            "block_size": "flag --block-size",
            "enable_prefix_caching": "flag --enable-prefix-caching",
        }
        assert set(origin) == set(SETTINGS)

    def test_a_flag_given_as_text_or_as_value(self) -> None:
        for flags in ({"kv_cache_memory_bytes": "2GiB"}, {"kv_cache_memory_bytes": 2 << 30}):
            assert EngineArgs.load(env={}, flags=flags)[0].kv_cache_memory_bytes == 2 << 30

    @pytest.mark.parametrize(
        ("yaml", "env", "flags", "message"),
        [
            ("max_num_seq: 3", {}, {}, "run.yaml: unknown setting 'max_num_seq'; did you mean 'max_num_seqs'?"),
            ("max_num_seqs: many", {}, {}, "run.yaml: max_num_seqs must be an integer, not str 'many'"),
            ("revision: 123", {}, {}, "run.yaml: revision must be a string, not int 123"),
            (
                "num_scheduler_steps: 2",
                {},
                {},
                "run.yaml: num_scheduler_steps=2 is not supported yet",
            ),
            ("", {"INFER_SEED": "x"}, {}, "env INFER_SEED: seed must be an integer, not 'x'"),
            (
                "",
                {"INFER_DISABLE_SLIDING_WINDOW": "yes"},
                {},
                "env INFER_DISABLE_SLIDING_WINDOW: disable_sliding_window=True is not supported yet",
            ),
            ("", {}, {"block_size": 7}, "flag --block-size: block_size must be a power of two, not 7"),
        ],
    )
    def test_the_source_is_named(self, tmp_path: Path, yaml: str, env: dict[str, str], flags: dict[str, Any], message: str) -> None:
        path = tmp_path / "run.yaml"
        path.write_text(yaml)
        with pytest.raises(ConfigError) as caught:
            EngineArgs.load(config=str(path), env=env, flags=flags)
        assert str(caught.value) == message

    def test_misspelled_variables_are_told(self) -> None:
        env = {"INFER_MAX_NUM_SEQ": "1", "INFER_FAULT": "x", "INFER_CONFIG": "cpu", "INFER_SEED": "1", "HOME": "/"}
        assert EngineArgs.unknown_env(env) == [
            "INFER_MAX_NUM_SEQ is not a setting of infer and has no effect; did you mean 'INFER_MAX_NUM_SEQS'?"
        ]


class TestPublicNames:
    def test_all_resolve(self) -> None:
        for name in infer.core.__all__:
            assert getattr(infer.core, name).__name__ == name
        assert set(infer.core.__all__) <= set(dir(infer.core))

    def test_the_tables_agree(self) -> None:
        assert set(infer.core.__all__) == set(infer.core._HOME)

    def test_an_unknown_name(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute 'Engin'"):
            infer.core.Engin  # noqa: B018
