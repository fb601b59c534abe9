"""`infer classify` from the command line to the bytes: labels of a language model, and those of a classifier."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

LABELS = ["--label", "good", "--label", "rather bad", "--label", "no"]
TEXT = "It was the best of times, it was the worst of times: "
Classify = Callable[..., list[dict[str, Any]]]


@pytest.fixture
def classify(call: Any, write_lines: Any, tmp_path: Path) -> Classify:
    """classify(model, lines, "--flag", ..., code=0): the rows."""

    def run(model: list[str], lines: list[Any], *flags: Any, code: int = 0) -> list[dict[str, Any]]:
        done = call("classify", *model, *flags, "--overwrite", write_lines(*lines), tmp_path / "out")
        assert done.exit_code == code, done.stderr
        return [json.loads(line) for line in (tmp_path / "out").read_bytes().splitlines()]

    return run


def of(folder: Path) -> list[str]:
    return ["--model", str(folder), "--dtype", "float32", "--device", "cpu"]


# --- a language model


def test_labels_of_the_command_and_of_records(classify: Classify, tiny: list[str]) -> None:
    lines = [
        {"id": "a", "prompt": TEXT, "stars": 4},
        {"prompt": TEXT, "labels": ["x", "no"]},
        {"prompt_token_ids": [65, 66], "labels": None},
        {"messages": [{"role": "user", "content": "a"}]},
    ]
    rows = classify(tiny, lines, *LABELS)
    assert [list(row["probs"]) for row in rows[:1]] == [sorted(rows[0]["probs"], key=lambda label: -rows[0]["probs"][label])]
    assert (rows[0]["id"], rows[0]["extra"]) == ("a", {"stars": 4})
    assert set(rows[1]["probs"]) == {"x", "no"}
    for row in rows:
        assert row["error"] is None
        assert row["label"] == next(iter(row["probs"]))
        assert sum(row["probs"].values()) == pytest.approx(1)
        assert row["label_mass"] == pytest.approx(sum(map(math.exp, row["logprobs"].values())))
        assert row["usage"]["prompt_tokens"] == row["usage"]["total_tokens"] > 0


def test_a_prompt_may_be_made_and_asked_as_a_message(classify: Classify, tiny: list[str], tmp_path: Path) -> None:
    (tmp_path / "t.jinja").write_text("Review: {{ text }} Verdict:")
    made = classify(tiny, [{"text": "ok"}], *LABELS, "--template", tmp_path / "t.jinja")
    plain = classify(tiny, [{"prompt": "Review: ok Verdict:"}], *LABELS)
    assert made[0]["probs"] == plain[0]["probs"]
    said = [{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "ok"}]}]
    chat = classify(tiny, said, *LABELS)
    for lines, flags in (([{"prompt": "ok"}], []), ([{"q": "ok"}], ["--prompt-field", "q"])):
        assert classify(tiny, lines, *LABELS, "--chat", "--system", "s", *flags)[0]["probs"] == chat[0]["probs"]
    assert chat[0]["probs"] != plain[0]["probs"]


def test_a_calibration_takes_off_what_labels_have_after_nothing(classify: Classify, tiny: list[str]) -> None:
    lines = [{"prompt": TEXT}, {"prompt": "N/A"}, {"prompt": TEXT, "calibration_prompt": TEXT}]
    plain = classify(tiny, lines[:2], *LABELS)
    rows = classify(tiny, lines, *LABELS, "--calibration-prompt", "N/A")
    own, other = (row["logprobs"] for row in plain)
    shares = {label: math.exp(own[label] - other[label]) for label in own}
    assert rows[0]["probs"] == pytest.approx({label: share / sum(shares.values()) for label, share in shares.items()})
    assert rows[0]["logprobs"] == own
    assert rows[1]["probs"] == pytest.approx(dict.fromkeys(own, 1 / 3))
    assert rows[2]["probs"] == pytest.approx(dict.fromkeys(own, 1 / 3))


BAD: list[tuple[bytes, str]] = [
    (b"nope", "invalid_json"),
    (b'{"prompt": "a", "labels": []}', "invalid_value"),
    (b'{"prompt": "a", "labels": ["x", "x"]}', "invalid_value"),
    (b'{"prompt": "a", "labels": ["x", 1]}', "invalid_type"),
    (b'{"prompt": "a", "labels": {"x": 1}}', "invalid_type"),
    (b'{"prompt": "a", "labels": ["\\ud800"]}', "invalid_encoding"),
    (b'{"prompt": "a", "labels": ["x", "' + b"y" * 1000 + b'"]}', "prompt_too_long"),
    (json.dumps({"prompt": "a", "labels": [str(i) for i in range(10_000)]}).encode(), "invalid_value"),
    (b'{"prompt": "' + b"a" * 5000 + b'"}', "prompt_too_long"),
    (b'{"prompt": ""}', "invalid_value"),
    (b'{"prompt": ["a", "b"]}', "unsupported"),
    (b'{"text": "a"}', "missing_field"),
    (b'{"prompt": "a", "calibration_prompt": ""}', "invalid_value"),
]


def test_what_is_wrong_with_a_record_is_its_error_alone(classify: Classify, tiny: list[str]) -> None:
    good = {"prompt": TEXT}
    (alone,) = classify(tiny, [good], *LABELS)
    rows = classify(tiny, [item for line, _ in BAD for item in (line, good)], *LABELS, code=3)
    assert [row["error"]["code"] for row in rows[::2]] == [code for _, code in BAD]
    assert all({**row, "index": 0} == alone for row in rows[1::2])


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--label", "a", "--label", "a"], "'a' is there twice"),
        (["--label", ""], "is empty"),
        ([flag for i in range(1025) for flag in ("--label", str(i))], "at most 1,024"),
        (["--label", "a", "--threshold", "0.5"], "--threshold is for classifiers"),
        (["--label", "a", "--redo", "finish_reason=length"], "--redo finish_reason applies only"),
        (["--labels", "a"], "did you mean '--label'?"),
    ],
)
def test_flags_that_cannot_be_had(call: Any, tiny: list[str], write_lines: Any, tmp_path: Path, flags: list[str], said: str) -> None:
    done = call("classify", *tiny, *flags, write_lines({"prompt": "a"}), tmp_path / "out")
    assert done.exit_code == 2
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_nothing_depends_on_the_schedule(call: Any, tiny: list[str], write_lines: Any, tmp_path: Path) -> None:
    lines = [{"prompt": TEXT[: 3 + 7 * i % 50], **({"labels": ["ab", "abc", f"label {i}"]} if i % 3 else {})} for i in range(12)]
    path, found = write_lines(*lines), set()
    for flags in (
        [],
        ["--max-num-seqs", "1"],
        ["--max-num-batched-tokens", "24", "--max-num-seqs", "8"],
        ["--no-enable-prefix-caching"],
        ["--num-gpu-blocks-override", "14", "--block-size", "16"],
    ):
        done = call("classify", *tiny, *LABELS, "--calibration-prompt", "N/A", *flags, "--overwrite", path, tmp_path / "out")
        assert done.exit_code == 0, done.stderr
        found.add((tmp_path / "out").read_bytes())
    assert len(found) == 1


def test_a_run_that_was_killed_goes_on(
    call: Any, launch: Any, hold: Any, wait_for: Any, committed: Any, tiny: list[str], write_lines: Any, tmp_path: Path
) -> None:
    path = write_lines(*({"prompt": f"{TEXT} {i}"} for i in range(60)))
    assert call("classify", *tiny, *LABELS, path, tmp_path / "whole").exit_code == 0
    out = tmp_path / "out"
    gate = hold(path, 20)
    child = launch("classify", *tiny, *LABELS, path, out)
    wait_for(lambda: committed(out) == 20, child)
    child.kill()
    child.wait()
    gate.lift()
    assert "labels" in call("classify", *tiny, "--label", "other", "--resume", path, out).stderr
    assert call("classify", *tiny, *LABELS, "--resume", path, out).exit_code == 0
    assert out.read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_batch_line_is_answered_in_kind(classify: Classify, tiny: list[str], labels_folder: Path) -> None:
    body = {"prompt": TEXT, "labels": ["x", "no"]}
    native, batch = classify(tiny, [body, {"custom_id": "b", "url": "/v1/classify", "method": "POST", "body": body}])
    (data,) = batch["response"]["body"]["data"]
    assert data["label"] == native["label"]
    assert data["probs"] == [native["probs"]["x"], native["probs"]["no"]]
    body = {"input": ["the cat", "a dog"]}
    native, batch = classify(of(labels_folder), [body, {"custom_id": "b", "url": "/classify", "body": body}])
    for one, two in zip(native["answers"], batch["response"]["body"]["data"], strict=True):
        assert one["label"] == two["label"]
        assert two["probs"] == [one["probs"][label] for label in ("bad", "fair", "good")]


def test_check_knows_it(call: Any, tiny: list[str], write_lines: Any, labels_folder: Path) -> None:
    path = write_lines({"prompt": "a", "labels": ["x"]}, {"prompt": "a", "labels": []})
    for flags in (["--task", "classify"], []):
        done = call("check", *tiny, *flags, "--json", path)
        assert done.exit_code == 3, done.stderr
        assert json.loads(done.stdout)["errors"]["invalid_value"]["count"] == 1
    done = call("check", *of(labels_folder), "--json", write_lines({"text": "a"}, {"prompt": "b"}, {"query": "a"}))
    assert json.loads(done.stdout)["records"] == {"total": 3, "good": 2, "failed": 1, "blank_lines": 0}


# --- a classifier


def oracle(folder: Path, texts: list[Any]) -> np.ndarray[Any, Any]:
    from tokenizers import Tokenizer
    from transformers import AutoModelForSequenceClassification

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    rows = []
    for text in texts:
        one = tokenizer.encode(*(text if isinstance(text, tuple) else (text,)))
        with torch.inference_mode():
            rows.append(model(torch.tensor([one.ids]), token_type_ids=torch.tensor([one.type_ids])).logits[0].numpy())
    return np.stack(rows)


def test_a_classifiers_labels(classify: Classify, labels_folder: Path) -> None:
    texts: list[Any] = ["the cat", "a dog sits", ("the cat", "stock prices fell")]
    lines = [{"text": texts[0], "note": 1}, {"input": texts[1]}, dict(zip(("text_1", "text_2"), texts[2], strict=True))]
    logits = oracle(labels_folder, texts)
    shares = torch.softmax(torch.from_numpy(logits), -1).numpy()
    sigmoid = 1 / (1 + np.exp(-logits))
    for flags, wanted in (([], shares), (["--activation", "none"], logits), (["--activation", "sigmoid"], sigmoid)):
        rows = classify(of(labels_folder), lines, *flags)
        for row, values in zip(rows, wanted, strict=True):
            assert [row["probs"][label] for label in ("bad", "fair", "good")] == pytest.approx(values, abs=1e-5)
            assert row["label"] == next(iter(row["probs"])) == ("bad", "fair", "good")[int(np.argmax(values))]
            assert list(row["probs"].values()) == sorted(row["probs"].values(), reverse=True)
            assert ("labels" in row) == (flags == ["--activation", "sigmoid"])
    assert rows[0]["extra"] == {"note": 1}
    (row,) = classify(of(labels_folder), lines[:1], "--activation", "sigmoid", "--threshold", "0.9")
    assert row["labels"] == [label for label, prob in row["probs"].items() if prob >= 0.9]


def test_what_is_wrong_with_a_text(classify: Classify, labels_folder: Path) -> None:
    lines: list[Any] = [{"text": ""}, {"text": 5}, {"text_1": "a"}, {"text": "a", "input": "b"}, {"messages": []}, {"text": "a " * 80}]
    rows = classify(of(labels_folder), [*lines, {"text": "the cat"}], code=3)
    codes = [None if row["error"] is None else row["error"]["code"] for row in rows]
    assert codes == [None, "invalid_type", "missing_field", "invalid_value", "unsupported", "prompt_too_long", None]
    assert classify(of(labels_folder), lines[5:], "--truncate", "right")[0]["error"] is None


@pytest.mark.parametrize("command", ["generate", "chat", "beam", "embed", "score"])
def test_whoever_cannot_names_the_one_that_can(call: Any, labels_folder: Path, write_lines: Any, tmp_path: Path, command: str) -> None:
    done = call(command, *of(labels_folder), write_lines({"prompt": "a"}), tmp_path / "out")
    assert done.exit_code in (1, 2)
    assert "infer classify" in done.stderr


def test_models_that_have_no_labels(call: Any, tiny_bert: Path, labels_folder: Path, write_lines: Any, tmp_path: Path) -> None:
    path = write_lines({"text": "a"})
    done = call("classify", *of(tiny_bert), path, tmp_path / "out")
    assert done.exit_code == 2
    assert "use infer embed" in done.stderr
    done = call("classify", *of(labels_folder), "--label", "x", path, tmp_path / "out")
    assert done.exit_code == 2
    assert "labels of its own (bad, fair, good): leave --label out" in done.stderr
