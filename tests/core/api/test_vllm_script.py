"""A script written for vLLM's `LLM` runs after its import is changed, and what it prints is right."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: As it stands in a file for vLLM, but for its printing: one JSON line at the end.
SCRIPT = """
import json
import sys

from vllm import LLM, SamplingParams


def shown(outputs):
    return [
        {
            "request_id": output.request_id,
            "prompt": output.prompt,
            "num_prompt_tokens": len(output.prompt_token_ids),
            "finished": output.finished,
            "choices": [
                {
                    "index": completion.index,
                    "text": completion.text,
                    "token_ids": list(completion.token_ids),
                    "cumulative_logprob": completion.cumulative_logprob,
                    "logprobs": completion.logprobs
                    and [
                        {token: [entry.logprob, entry.rank, entry.decoded_token] for token, entry in step.items()}
                        for step in completion.logprobs
                    ],
                    "finish_reason": completion.finish_reason,
                    "stop_reason": completion.stop_reason,
                    "finished": completion.finished(),
                }
                for completion in output.outputs
            ],
            "metrics": output.metrics is not None and output.metrics.arrival_time <= output.metrics.finished_time,
        }
        for output in outputs
    ]


def main(model):
    prompts = ["Hello, my name is", "The capital of France is", "The future of AI is"]
    llm = LLM(model=model, dtype="float32", max_model_len=256, gpu_memory_utilization=0.5, enforce_eager=True, seed=3)
    results = {}

    greedy = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)
    results["greedy"] = shown(llm.generate(prompts, greedy))

    seeded = SamplingParams(n=3, temperature=0.8, top_p=0.95, top_k=50, seed=42, max_tokens=8, ignore_eos=True)
    results["seeded"] = shown(llm.generate(prompts, seeded))
    results["again"] = shown(llm.generate(prompts, seeded, use_tqdm=False))

    several = [
        SamplingParams(temperature=0.0, max_tokens=4, ignore_eos=True, logprobs=2),
        SamplingParams(temperature=1.2, seed=1, max_tokens=6, min_tokens=6, presence_penalty=0.5, frequency_penalty=0.2),
        SamplingParams(temperature=0.7, min_p=0.1, seed=2, max_tokens=5, ignore_eos=True, repetition_penalty=1.1, stop=["zzz"]),
    ]
    results["several"] = shown(llm.generate(prompts, several))

    tokenizer = llm.get_tokenizer()
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    results["ids"] = shown(llm.generate([{"prompt_token_ids": one} for one in ids], greedy))
    results["legacy"] = shown(llm.generate(prompt_token_ids=ids, sampling_params=greedy))

    conversation = [
        {"role": "system", "content": "You are a helpful assistant"},
        {"role": "user", "content": "Hello"},
    ]
    results["chat"] = shown(llm.chat(conversation, greedy))
    results["chats"] = shown(llm.chat([conversation, conversation[1:]], sampling_params=greedy, use_tqdm=False))
    rendered = tokenizer.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    results["rendered"] = shown(llm.generate(rendered, greedy))
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.fixture(scope="module")
def results(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT.replace("from vllm import", "from infer.core import"))
    done = subprocess.run([sys.executable, str(path), str(tiny_llama)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "Processed prompts" in done.stderr  # the bar, and nothing else on stdout
    return json.loads(done.stdout)


def ids(outputs: list[dict[str, Any]]) -> list[list[list[int]]]:
    return [[choice["token_ids"] for choice in output["choices"]] for output in outputs]


def test_every_output_is_whole(results: dict[str, Any]) -> None:
    for name, outputs in results.items():
        for output in outputs:
            assert output["finished"], name
            assert output["metrics"], name
            assert [choice["index"] for choice in output["choices"]] == list(range(len(output["choices"])))
            for choice in output["choices"]:
                assert choice["finished"]
                assert choice["finish_reason"] in ("length", "stop")
    prompts = ["Hello, my name is", "The capital of France is", "The future of AI is"]
    assert [output["prompt"] for output in results["greedy"]] == prompts
    assert [output["num_prompt_tokens"] for output in results["greedy"]] == [len(p) for p in prompts]  # a token a byte
    numbers = [int(output["request_id"]) for name in ("greedy", "seeded", "again", "several") for output in results[name]]
    assert numbers == list(range(12))


def test_seeds_repeat_and_choices_differ(results: dict[str, Any]) -> None:
    assert ids(results["seeded"]) == ids(results["again"])
    for choices in ids(results["seeded"]):
        assert len(choices) == 3
        assert len({tuple(choice) for choice in choices}) == 3


def test_logprobs_of_the_one_that_asked(results: dict[str, Any]) -> None:
    asked, *others = (output["choices"][0] for output in results["several"])
    assert all(choice["logprobs"] is None and choice["cumulative_logprob"] is None for choice in others)
    assert len(asked["logprobs"]) == len(asked["token_ids"]) == 4
    total = 0.0
    for token, step in zip(asked["token_ids"], asked["logprobs"], strict=True):
        assert len(step) == 2  # greedy: the drawn token is the best one
        logprob, rank, decoded = step[str(token)]
        assert rank == 1
        assert isinstance(decoded, str)
        assert sum(math.exp(entry[0]) for entry in step.values()) <= 1
        total += logprob
    assert asked["cumulative_logprob"] == pytest.approx(total, abs=1e-5)
    assert asked["token_ids"] == results["greedy"][0]["choices"][0]["token_ids"][:4]
    assert [len(choice["token_ids"]) for choice in others] == [6, 5]


def test_ids_and_text_and_conversations_agree(results: dict[str, Any]) -> None:
    assert ids(results["ids"]) == ids(results["legacy"]) == ids(results["greedy"])
    assert ids(results["chat"]) == ids(results["chats"])[:1] == ids(results["rendered"])
    assert results["chat"][0]["prompt"] == results["rendered"][0]["prompt"]
    assert results["chats"][1]["prompt"] == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
