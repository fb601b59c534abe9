"""Every message of BeamSearchParams and PoolingParams."""

from __future__ import annotations

from typing import Any

import pytest

from infer.core import BeamSearchParams, PoolingParams, RecordError


def test_defaults_are_vllms() -> None:
    params = BeamSearchParams(beam_width=4, max_tokens=8)
    assert (params.ignore_eos, params.temperature, params.length_penalty, params.include_stop_str_in_output) == (False, 0.0, 1.0, False)
    assert BeamSearchParams(4, 8) == params
    pooling = PoolingParams()
    assert (pooling.additional_data, pooling.dimensions, pooling.use_activation) == (None, None, None)
    assert PoolingParams("x", dimensions=3).clone() == PoolingParams(additional_data="x", dimensions=3)


@pytest.mark.parametrize(
    ("cls", "values", "code", "message"),
    [
        (BeamSearchParams, {"beam_width": 0}, "invalid_value", "beam_width must be at least 1 and at most 64, not 0"),
        (BeamSearchParams, {"max_tokens": 0}, "invalid_value", "max_tokens must be at least 1, not 0"),
        (BeamSearchParams, {"max_tokens": 1.5}, "invalid_type", "max_tokens must be an integer, not float"),
        (BeamSearchParams, {"beam_width": True}, "invalid_type", "beam_width must be an integer, not bool"),
        (BeamSearchParams, {"temperature": -1}, "invalid_value", "temperature must be at least 0, not -1"),
        (BeamSearchParams, {"length_penalty": 31}, "invalid_value", "length_penalty must be at least -30 and at most 30, not 31"),
        (BeamSearchParams, {"length_penalty": "1"}, "invalid_type", "length_penalty must be a number, not str"),
        (BeamSearchParams, {"beam_width": 65}, "invalid_value", "beam_width must be at least 1 and at most 64, not 65"),
        (BeamSearchParams, {"num_return": 3}, "invalid_value", "num_return must be at most beam_width 2, not 3"),
        (BeamSearchParams, {"scoring": "sum"}, "invalid_value", "scoring must be vllm or hf, not 'sum'"),
        (BeamSearchParams, {"early_stopping": "yes"}, "invalid_value", "early_stopping must be true, false or \"never\", not 'yes'"),
        (BeamSearchParams, {"stop": [""]}, "invalid_value", "stop: a stop string cannot be empty"),
        (BeamSearchParams, {"ignore_eos": 1}, "invalid_type", "ignore_eos must be true or false, not int"),
        (PoolingParams, {"dimensions": 0}, "invalid_value", "dimensions must be at least 1, not 0"),
        (PoolingParams, {"dimensions": "8"}, "invalid_type", "dimensions must be an integer, not str"),
        (PoolingParams, {"step_tag_id": -1}, "invalid_value", "step_tag_id must be at least 0, not -1"),
        (PoolingParams, {"use_activation": 1}, "invalid_type", "use_activation must be true or false"),
        (PoolingParams, {"returned_token_ids": [-1]}, "invalid_type", "returned_token_ids must be a list of token ids"),
    ],
)
def test_every_message(cls: Any, values: dict[str, Any], code: str, message: str) -> None:
    needed = {"beam_width": 2, "max_tokens": 3} if cls is BeamSearchParams else {}
    with pytest.raises(RecordError) as caught:
        cls(**{**needed, **values})
    assert (caught.value.code, caught.value.message, caught.value.param) == (code, message, next(iter(values)))
