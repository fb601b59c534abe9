"""EngineArgs: what was typed, in flags, environment, YAML or keyword arguments.

`resolve` makes of it what it means.

One name per setting everywhere: the field `max_num_seqs` is the YAML key `max_num_seqs`, the flag `--max-num-seqs`, the
variable `INFER_MAX_NUM_SEQS` and the keyword argument `max_num_seqs`. Names and meanings are vLLM's.
The file is as long as the list of settings is.
"""

# ruff: noqa: RUF009 (the defaults are fields, made by `setting`)

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any

from ..errors import ConfigError, UnknownArgument, nearest
from ..spec.model_spec import ModelSpec
from ..spec.task import choose_task
from ..types.structured import BACKENDS
from . import rules
from .adapter_args import AdapterArgs
from .config import Caution, EngineConfig
from .hardware import check_gpus, choose_device, choose_dtype, choose_kernels, choose_num_seqs, default_tokens
from .later_args import LaterArgs
from .lengths import choose_limits, choose_max_model_len
from .media_args import MediaArgs, media_values
from .memory import choose_swap_space, total_memory
from .parallel_args import ParallelArgs, choose_parallel
from .setting import Setting, setting, settings_of
from .speculation_args import SpeculationArgs, choose_speculation
from .threads import choose_lanes, choose_threads, cpus_in_order
from .yamlfile import layers, settings_in

#: INFER_* variables that are not settings.
RESERVED_ENV = frozenset({"INFER_CONFIG", "INFER_DEBUG", "INFER_FAULT", "INFER_ALLOW_LONG_MAX_MODEL_LEN", "INFER_CACHE"})

#: Section of the help -> its title, in order.
GROUPS = {
    "model": "Model",
    "memory": "Memory",
    "scheduling": "Scheduling",
    "device": "Device",
    "parallel": "Parallel",
    "adapters": "Adapters",
    "media": "Media",
    "speculation": "Speculation",
    "later": "Not supported yet",
}

#: Texts that a model which pools takes in one step where nothing is said: they keep nothing from step to step, so many short ones go.
MOST_TEXTS = 1024

_model, _scheduling, _device = (partial(setting, group=group) for group in ("model", "scheduling", "device"))
#: Those that say something to a model that writes, and nothing to one that pools: it keeps no KV cache and draws no tokens.
_memory = partial(setting, group="memory", no_effect=("pooling",))
_writing, _queue = partial(_model, no_effect=("pooling",)), partial(_scheduling, no_effect=("pooling",))


@dataclass
class EngineArgs(AdapterArgs, MediaArgs, ParallelArgs, SpeculationArgs, LaterArgs):
    """Every engine setting as the user gave it; construction checks types and ranges (ConfigError).

    None always means "not given". A setting that does not work yet is refused unless it has its default.
    """

    # --- model
    model: str = _model("", "Alias, folder, .gguf file or hub id.")
    task: str = _model(
        "auto",
        "Use of the model; auto: what it was made for.",
        choices=("auto", "generate", "embed", "embedding", "classify", "reward", "score"),
    )
    runner: str = _model(
        "auto",
        "generate: continue texts; pooling: turn texts into vectors.",
        choices=("auto", "generate", "pooling"),
        later=("draft",),
    )
    convert: str = _model("auto", "Use the model for another task than its own.", choices=("auto", "none", "embed", "classify"))
    pooler_config: dict[str, Any] | None = _model(
        None,
        'JSON that overrides how the model pools, such as {"pooling_type": "MEAN"}.',
        rule=rules.pooler_config,
        no_effect=("writing",),
    )
    tokenizer: str | None = _model(None, "Take the tokenizer from another model.")
    tokenizer_mode: str = _model(
        "auto", "auto: the fast tokenizer; slow: transformers' slow one.", choices=("auto", "slow"), later=("mistral", "hf")
    )
    skip_tokenizer_init: bool = _model(False, "No tokenizer: token ids in, token ids out.")
    trust_remote_code: bool = _model(False, "Run Python code that comes with the model, through transformers.")
    model_impl: str = _model(
        "auto",
        "Model code to run; auto: ours, or transformers' where we have none.",
        choices=("auto", "infer", "transformers"),
        later=("vllm", "terratorch"),
    )
    revision: str | None = _model(None, "Branch, tag or commit on the hub.")
    tokenizer_revision: str | None = _model(None, "Branch, tag or commit of the tokenizer; default: --revision.")
    dtype: str = _model(
        "auto",
        "Type of weights and activations; auto: the checkpoint's, if the device computes well in it.",
        choices=("auto", "float32", "float16", "bfloat16", "float", "half"),
    )
    quantization: str | None = _model(
        None,
        "int8: weights and activations of linear layers as 8-bit integers; int4: their weights in 4 bits, in groups of 32, rounded to "
        "the nearest step after a search for the range that loses least; fp8: 8-bit floats, on GPUs. All are made when the model is "
        "loaded, from the weights alone. A quantized checkpoint is read as its config.json says; its own method may be named, "
        "and no other.",
        choices=("int8", "int4", "auto-round", "awq", "bitsandbytes", "compressed-tensors", "fp8", "gptq", "modelopt", "mxfp4"),
        later=("awq_marlin", "experts_int8", "fbgemm_fp8", "gguf", "gptq_marlin", "modelopt_fp4"),
    )
    activation_dtype: str = _model(
        "auto",
        "Type of the rows that weights which are stored quantized, or made int4 or fp8, are multiplied by; int8: quantized as they "
        "come; model: as they are; auto: int8 where the checkpoint says so, and for packed weights unless the model computes in float32. "
        "Weights in fp8 take rows in fp8 where the GPU multiplies them, unless model is said.",
        choices=("auto", "int8", "model"),
    )
    quantize_lm_head: bool = _writing(False, "Quantize the output head too: faster, less accurate.")
    load_format: str = _model(
        "auto",
        "Source of the weights; dummy: random ones, for benchmarks.",
        choices=("auto", "safetensors", "gguf", "dummy"),
        later=("pt", "npcache", "sharded_state", "tensorizer", "bitsandbytes", "runai_streamer", "mistral", "fastsafetensors"),
    )
    hf_overrides: dict[str, Any] | None = _model(None, "JSON merged into the model's config.json.")
    download_dir: str | None = _model(None, "Folder for downloaded models.")
    hf_token: str | None = _model(None, "Token for the hub; the variable HF_TOKEN keeps it out of command lines.", secret=True)
    seed: int = _model(0, "Run seed: the noise of a record depends on it and the record's index.", low=0, high=2**63 - 1)
    max_model_len: int | None = _model(None, "Most tokens of prompt and output together; default: the model's.", low=1)
    max_logprobs: int = _writing(20, "Most logprobs a record may ask for; -1: no limit.", low=-1)
    logprobs_mode: str = _writing(
        "raw_logprobs",
        "Logprobs of the model's own distribution, or after penalties, temperature and truncation.",
        choices=("raw_logprobs", "processed_logprobs"),
        later=("raw_logits", "processed_logits"),
    )
    generation_config: str = _writing(
        "auto", "Source of default sampling parameters; auto: the model's generation_config.json; none; or a folder with one."
    )
    override_generation_config: dict[str, Any] | None = _writing(None, "JSON that overrides generation_config.json.")
    structured_outputs_config: dict[str, Any] | None = _writing(
        None, 'JSON settings of structured output, such as {"disable_any_whitespace": true}.', rule=rules.structured_outputs
    )
    reasoning_config: dict[str, Any] | None = _writing(
        None,
        'JSON that says how the model marks its reasoning, for --thinking-token-budget, such as {"reasoning_parser": "qwen3"}.',
        rule=rules.reasoning_config,
    )
    guided_decoding_backend: str | None = _writing(None, "Backend of structured output.", choices=BACKENDS, later=rules.OTHER_BACKENDS)

    # --- memory
    kv_cache_memory_bytes: int | None = _memory(
        None, "Memory for the KV cache, e.g. 4GiB; default: a share of what is free.", low=1, size=True
    )
    num_gpu_blocks_override: int | None = _memory(None, "Exact number of KV blocks, whatever memory there is.", low=1)
    block_size: int = _memory(16, "Tokens per KV block; a power of two.", low=1, high=256, rule=rules.power_of_two)
    gpu_memory_utilization: float = _memory(
        0.9, "Share of GPU memory to use in all.", low=0, high=1, open_low=True, no_effect=("cpu", "pooling")
    )
    kv_cache_dtype: str = _memory(
        "auto",
        "Type of keys and values in the KV cache; auto: the model's; int8 on CPUs, fp8 (fp8_e4m3, or fp8_e5m2) on GPUs: 8 bits, half of "
        "the memory, faster with long contexts, and less exact.",
        choices=("auto", "int8", "fp8", "fp8_e4m3", "fp8_e5m2"),
    )
    enable_prefix_caching: bool = _memory(True, "Compute shared beginnings of prompts once.")
    prefix_caching_hash_algo: str = _memory("blake2b", "Hash of a cached block.", choices=("blake2b",), later=("sha256", "builtin"))
    watermark: float = _memory(0.0, "Share of KV blocks kept free when a record is admitted.", low=0, high=0.5)
    swap_space: float = _memory(4.0, "GiB of CPU memory per GPU for preempted records.", low=0, no_effect=("cpu", "pooling"))
    cpu_offload_gb: float = _memory(
        0.0, "GiB of weights that each GPU leaves in CPU memory; they travel to it in every step.", low=0, no_effect=("cpu", "pooling")
    )

    # --- scheduling
    max_num_seqs: int = _scheduling(256, "Most sequences in one step; for embeddings, and on GPUs with 70 GiB, 1024 unless given.", low=1)
    max_num_batched_tokens: int | None = _scheduling(
        None, "Most tokens in one step; default: 2048 on CPU (4096 for embeddings), 8192 on CUDA.", low=1
    )
    enable_chunked_prefill: bool = _queue(True, "Split long prompts over several steps.")
    long_prefill_token_threshold: int = _queue(0, "Most tokens of one prompt in one step; 0: no such limit.", low=0)
    scheduling_policy: str = _queue(
        "fcfs",
        "Order of records; priority: of those that were read, the lowest `priority` first.",
        choices=("fcfs", "priority"),
    )
    preemption_mode: str | None = _queue(
        None,
        "How a record that lost its KV blocks goes on: recompute, or swap (see --swap-space); default: whichever is quicker.",
        choices=("recompute", "swap"),
    )

    # --- device
    device: str = _device("auto", "auto, cpu, cuda or cuda:N.", rule=rules.device_name)
    kernels: str = _device("auto", "Kernel backend: auto, or the name of a folder in kernels/.")
    require_kernels: bool = _device(False, "Refuse to run where only the slow reference kernels are available.")
    threads: int | None = _device(None, "CPU threads; default: one for each physical core that this process may use.", low=1)
    lanes: int | None = _device(
        None,
        "Batches that are computed at a time, each by its share of the threads, where enough records run: they share the weights "
        "and wait for each other nowhere. Default: one, and 2 to 4 while other processes want the same cores.",
        low=1,
        no_effect=("cuda",),
    )
    deterministic: bool = _device(False, "Same bytes whatever the batch, on CUDA too (on CPU it is always so).", no_effect=("cpu",))
    enforce_eager: bool = _device(False, "No CUDA graphs.", no_effect=("cpu", "pooling"))
    max_seq_len_to_capture: int = _device(8192, "Longest sequence covered by CUDA graphs.", low=1, no_effect=("cpu", "pooling"))
    max_context_len_to_capture: int | None = _device(
        None, "Gone: see --max-seq-len-to-capture.", rule=lambda _: "is gone: use max_seq_len_to_capture"
    )
    disable_async_output_proc: bool = _device(False, "Begin a step only when the one before it is finished.", no_effect=("cpu",))

    def __post_init__(self) -> None:
        if not isinstance(self.dtype, str) and str(self.dtype).startswith("torch."):
            self.dtype = str(self.dtype).removeprefix("torch.")
        for name, one in self.settings().items():
            setattr(self, name, one.check(getattr(self, name)))

    @classmethod
    def settings(cls) -> dict[str, Setting]:
        """Every setting by name, in order."""
        return _SETTINGS

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> EngineArgs:
        """Reads keyword arguments. Raises UnknownArgument, ConfigError for a wrong value."""
        for name in kwargs:
            if name not in cls.settings():
                raise UnknownArgument(f"unknown argument {name!r}{nearest(name, cls.settings())}")
        return cls(**kwargs)

    @classmethod
    def load(
        cls, *, config: str | None = None, env: Mapping[str, str], flags: Mapping[str, Any], others: bool = False
    ) -> tuple[EngineArgs, dict[str, str]]:
        """Settings from a YAML file or preset, the environment and flags; the later of these wins.

        Args:
            config: a file or a preset's name.
            env: usually `os.environ`.
            flags: field name -> value, only for flags the user gave.
            others: what else the file holds is the caller's.

        Returns:
            The arguments, and for each field where its value came from: "flag --max-num-seqs", "env INFER_MAX_NUM_SEQS",
            "cpu.yaml" or "default".

        Raises:
            ConfigError: naming the source that is to blame.
        """
        known = cls.settings()
        values: dict[str, Any] = {}
        origin = dict.fromkeys(known, "default")

        def take(name: str, value: Any, source: str, *, text: bool = False) -> None:
            try:
                checked = known[name].parse(value) if text else known[name].check(value)
            except ConfigError as error:
                raise ConfigError(f"{source}: {error}") from None
            if value is not None:
                values[name], origin[name] = checked, source

        if config is not None:
            for path, content in layers(config):
                for name, value in settings_in(path, content, known, others=others).items():
                    take(name, value, path.name)
        for name, one in known.items():
            if env.get(one.env):
                take(name, env[one.env], f"env {one.env}", text=True)
        for name, value in flags.items():
            take(name, value, f"flag {known[name].flag}", text=isinstance(value, str))
        return cls(**values), origin

    @classmethod
    def unknown_env(cls, env: Mapping[str, str], others: Collection[str] = ()) -> list[str]:
        """A note for each INFER_* variable that is no setting, nor one of `others`, e.g. a misspelled one."""
        names = {one.env for one in cls.settings().values()} | set(others)
        strange = sorted(name for name in env if name.startswith("INFER_") and name not in names | RESERVED_ENV)
        return [f"{name} is not a setting of infer and has no effect{nearest(name, names)}" for name in strange]

    def resolve(
        self,
        spec: ModelSpec,
        *,
        given: Collection[str] | Mapping[str, str] | None = None,
        compile_kernels: bool = True,
        task: str | None = None,
        max_seq_length: int | None = None,
    ) -> EngineConfig:
        """Decides everything that was left open, once. Imports torch, and the first time on a machine compiles the kernels.

        Args:
            spec: the model's, `hf_overrides` counted.
            given: names of the fields the user gave (a given value is never changed); the mapping `load` returns will do.
                None: those that differ from their default.
            compile_kernels: False where nothing will be computed; `kernels` is then what they would be if all goes well.
            task: what `choose_task` found; None: found here, from config.json alone.
            max_seq_length: of sentence_bert_config.json.

        Raises:
            ConfigError: two given values contradict each other, or one cannot be had on this machine.
        """
        origin = {name: source for name, source in given.items() if isinstance(source, str)} if isinstance(given, Mapping) else {}
        names = self._given(given)
        notes: list[str] = []
        task = task or choose_task(self.task, self.runner, self.convert, spec, None)
        pools = task != "generate"

        device = choose_device(self.device, notes)
        kind = device.partition(":")[0]
        parallel = choose_parallel(self, notes)
        if parallel["executor"] != "ray":
            check_gpus(
                device,
                tensor_parallel_size=self.tensor_parallel_size,
                pipeline_parallel_size=self.pipeline_parallel_size,
                data_parallel_size=parallel["data_parallel_size"],
            )
        kernels, kernel_build = choose_kernels(self.kernels, device, notes, require=self.require_kernels, build=compile_kernels)
        threads = choose_threads(self.threads)
        if threads.note:
            notes.append(threads.note)
        if pools and self.model_impl == "transformers":
            raise ConfigError("model_impl=transformers generates text only for now; leave it out to embed or classify")
        self._check_effects(kind, pools, spec.reads_media, names, notes)
        dtype = choose_dtype(self.dtype, spec, device, notes)
        max_model_len = choose_max_model_len(self.max_model_len, spec, notes, max_seq_length if pools else None)
        num_seqs = self.max_num_seqs
        if "max_num_seqs" not in names:
            num_seqs = MOST_TEXTS if pools else choose_num_seqs(num_seqs, device, notes)
        encoder_len = (spec.tower_positions or max_model_len) if spec.has_encoder else 0
        limits = choose_limits(
            max_num_seqs=num_seqs,
            max_num_batched_tokens=self.max_num_batched_tokens,
            max_model_len=max_model_len,
            chunked_prefill=self.enable_chunked_prefill or pools,  # a text longer than a step's tokens has a step of its own
            long_prefill_token_threshold=self.long_prefill_token_threshold,
            whole_input=-(-encoder_len // self.block_size) * self.block_size + 1 if encoder_len else 0,
            default_tokens=max(default_tokens(device, pools=pools), max_model_len if spec.sees_whole_prompts else 0),
            given={name: str(origin.get(name, "")) for name in names},
            notes=notes,
        )
        if self.num_gpu_blocks_override is not None and self.kv_cache_memory_bytes is not None:
            notes.append(Caution("num_gpu_blocks_override decides the KV size; kv_cache_memory_bytes is not looked at"))
        if self.max_cpu_loras is not None and self.max_cpu_loras < self.max_loras:
            raise ConfigError(f"max_cpu_loras={self.max_cpu_loras} is below max_loras={self.max_loras}; raise it, or leave it out")
        if self.quantize_lm_head and self.quantization is None:
            notes.append(Caution("quantize_lm_head has no effect without quantization"))
        swap_space = 0.0
        if kind == "cuda" and not pools and not spec.states:
            ranks = self.tensor_parallel_size * self.pipeline_parallel_size * parallel["data_parallel_size"]
            swap_space = choose_swap_space(self.swap_space, is_given="swap_space" in names, ranks=ranks, total=total_memory(), notes=notes)
        if self.preemption_mode == "swap" and not swap_space and not pools:
            why = "with a model that keeps states, which are not swapped" if spec.states else "without swap_space"
            notes.append(Caution(f"preemption_mode=swap has no effect {'on cpu' if kind == 'cpu' else why}"))
        whole_experts = self._whole_experts(spec, notes)
        alone = self.tensor_parallel_size == self.pipeline_parallel_size == 1
        if self.disable_custom_all_reduce and kind == "cpu" and not pools and alone:
            notes.append(Caution("disable_custom_all_reduce has no effect with one rank"))
        same = {f.name: getattr(self, f.name) for f in fields(EngineConfig) if f.name in self.settings()}
        return EngineConfig(
            **{
                **same,
                **limits,
                "enable_expert_parallel": whole_experts,
                "device": device,
                "kernels": kernels,
                "kernel_build": kernel_build,
                "threads": threads.count,
                "threads_given": self.threads is not None,
                "cpus": cpus_in_order() if self.pin_threads and kind == "cpu" else (),
                "lanes": choose_lanes(self.lanes, threads.count, notes) if kind == "cpu" else 1,
                "lanes_always": self.lanes is not None,
                "dtype": dtype,
                "task": task,
                "pooler_config": dict(self.pooler_config or {}),
                "tokenizer": self.tokenizer or self.model,
                "tokenizer_revision": self.tokenizer_revision or self.revision,
                "hf_overrides": dict(self.hf_overrides or {}),
                "structured_outputs_config": dict(self.structured_outputs_config or {}),
                "reasoning_config": dict(self.reasoning_config or {}),
                "override_generation_config": dict(self.override_generation_config or {}),
                "max_model_len_given": self.max_model_len is not None,
                "kv_cache_dtype": {"fp8": "fp8_e4m3"}.get(self.kv_cache_dtype, self.kv_cache_dtype),
                "swap_space": swap_space,
                "max_cpu_loras": self.max_cpu_loras or self.max_loras,
                "encoder_len": encoder_len,
                "hears": spec.tower_positions > 0,
                "embeds_size": None if pools else self._embeds_size(spec),
                "chunked_prefill": self.enable_chunked_prefill and not pools,
                "enable_prefix_caching": self.enable_prefix_caching and not pools,
                **media_values(self),
                **parallel,
                **choose_speculation(self, spec, kind=kind, pools=pools, notes=notes),
                "notes": tuple(notes),
            }
        )

    def _given(self, given: Collection[str] | Mapping[str, str] | None) -> list[str]:
        if given is None:
            return [name for name, one in self.settings().items() if getattr(self, name) != one.default]
        if isinstance(given, Mapping):
            given = [name for name, source in given.items() if source != "default"]
        return [name for name in self.settings() if name in given]

    def _embeds_size(self, spec: ModelSpec) -> int | None:
        """Features of the embeddings that may be given in place of tokens; None: none may. Raises ConfigError if the model takes none."""
        asked = [name for name in ("enable_prompt_adapter", "enable_prompt_embeds") if getattr(self, name)]
        if not asked:
            return None
        if not spec.in_our_code(self.model_impl) or spec.stack is None:
            raise ConfigError(f"{asked[0]}: {spec.model_type} models run in transformers' code here, which is given token ids alone")
        if spec.has_encoder:
            raise ConfigError(f"{asked[0]}: {spec.model_type} models read their input with an encoder, which takes token ids alone")
        if spec.stack.per_layer is not None:
            raise ConfigError(f"{asked[0]}: {spec.model_type} models look tokens up in every layer, so embeddings cannot take their place")
        return spec.stack.embedding_size or spec.stack.hidden_size

    def _whole_experts(self, spec: ModelSpec, notes: list[str]) -> bool:
        """True if each expert is one rank's."""
        if not self.enable_expert_parallel:
            return False
        if self.tensor_parallel_size == 1:
            notes.append(Caution("enable_expert_parallel has no effect with tensor_parallel_size=1"))
            return False
        if spec.stack is None or not spec.stack.has_experts:
            notes.append(Caution(f"enable_expert_parallel has no effect: {spec.model_type} models have no experts"))
            return False
        return True

    def _check_effects(self, kind: str, pools: bool, reads_media: bool, given: list[str], notes: list[str]) -> None:
        """Says which given settings do nothing on this kind of device, or for what the model is used for."""
        use = ("pooling", "texts are embedded or classified") if pools else ("writing", "text is generated")
        idle = {kind: f"on {kind}" + ("" if kind == "cpu" else " yet"), use[0]: f"when {use[1]}"}
        for name in given:
            one = self.settings()[name]
            if getattr(self, name) != one.default:
                notes += [Caution(f"{name} has no effect {idle[case]}") for case in one.no_effect if case in idle]
        media = [name for name in given if self.settings()[name].group == "media" and getattr(self, name) != self.settings()[name].default]
        if media and not reads_media:
            notes.append(Caution(f"{', '.join(media)}: no effect, since the model reads text alone (infer help media)"))


_SETTINGS = dict(sorted(settings_of(EngineArgs).items(), key=lambda item: list(GROUPS).index(item[1].group)))  # stable
