"""Rotation that config.json describes: what no table can be made of is refused as it is read, so by `infer check` too."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core.errors import ModelError
from infer.core.spec.read import read_spec

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}


def read(rope: dict[str, Any], **keys: Any) -> None:
    read_spec({"model_type": "llama", "rope_parameters": {"rope_theta": 1e4, **rope}, **keys}).need_stack()


@pytest.mark.parametrize(
    ("rope", "said"),
    [
        ({"rope_type": "x"}, "rope scaling 'x' is not supported"),
        ({"rope_type": "ntk", "factor": 2.0}, "rope scaling 'ntk' is not supported"),
        ({"rope_type": "linear"}, "rope scaling 'linear' lacks factor"),
        ({"rope_type": "linear", "factor": None}, "rope scaling 'linear' lacks factor"),
        ({"rope_type": "llama3", "factor": 2.0}, "rope scaling 'llama3' lacks low_freq_factor and high_freq_factor"),
        ({**LLAMA3, "high_freq_factor": 0.5}, "high_freq_factor must not be below low_freq_factor"),
        ({**LLAMA3, "high_freq_factor": 1.0}, None),
        ({"rope_type": "yarn", "beta_fast": -1}, "beta_fast is -1; it must be a number from 0"),
        ({"rope_type": "yarn", "rope_theta": 1.0}, "numbers that make no rotation"),
        ({"rope_type": "yarn", "beta_slow": 5e-324}, "numbers that make no rotation"),
        ({"rope_type": "yarn", "factor": 2.0, "mscale": 1.0, "mscale_all_dim": -1e18}, None),
    ],
)
def test_what_makes_no_rotation_is_refused_as_it_is_read(rope: dict[str, Any], said: str | None) -> None:
    if said is None:
        read(rope)
        return
    with pytest.raises(ModelError, match=said):
        read(rope)


@pytest.mark.parametrize("head_dim", [1, 3, 65])
def test_features_are_rotated_in_pairs(head_dim: int) -> None:
    with pytest.raises(ModelError, match=f"{head_dim} features of a head cannot be rotated in pairs; see head_dim"):
        read({}, head_dim=head_dim)


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "bert", "roberta", "nomic_bert", "modernbert"])
@pytest.mark.parametrize("name", ["x", "", "2", "gelluu"])
def test_an_activation_that_we_do_not_have_is_refused_as_config_json_is_read(kind: str, name: str) -> None:
    key = "hidden_activation" if kind == "modernbert" else "hidden_act"
    with pytest.raises(ModelError, match=r"activation '.*' is not supported \(known: silu, "):
        read_spec({"model_type": kind, key: name}).need_stack()
