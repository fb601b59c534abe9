"""Recipe files of a model's folder: sentence-transformers' small files and config.json.

The user comes first, then sentence-transformers' files, then what models of the kind do: encoders take the first token (those
with a language model's layers the mean) and normalize, causal decoders take the last one and normalize. Where there are modules,
there is no normalizing without a Normalize module.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import ConfigError, ModelError
from ..spec import classes
from ..spec.hf_values import COUNT, FLAG, NULL, OBJECT, TEXT, check_file
from ..spec.model_spec import ModelSpec
from ..weights.source import ModelSource
from .contrast import read_contrast
from .late import METADATA_FILE, SIDES, is_late, projection_size, read_late
from .modules import MODULES_FILE, Modules, files_of
from .recipe import TOKEN_POOLINGS, DenseSpec, Recipe
from .similarity import MAXSIM, MEASURES
from .template import PairTemplate

PROMPTS_FILE = "config_sentence_transformers.json"
#: Names that sentence-transformers has given the file, the first that is there counts.
TEXT_FILES = tuple(
    f"sentence_{name}_config.json" for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TEXT_KINDS = {"max_seq_length": COUNT | NULL, "do_lower_case": FLAG | NULL}
_PROMPT_KINDS = {
    "prompts": OBJECT | NULL,
    **dict.fromkeys(("default_prompt_name", "similarity_fn_name", "activation_fn"), TEXT | NULL),
}


def read_modules(source: ModelSource) -> list[dict[str, Any]] | None:
    """The modules that modules.json lists; None without such a file. Raises ModelError if it is not a list of objects."""
    content = source.read(MODULES_FILE)
    if content is None:
        return None
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{source.path / MODULES_FILE} is not valid JSON ({error}); fetch the model again") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ModelError(f"{source.path / MODULES_FILE} is not a list of modules; fetch the model again")
    return found


def small_files(source: ModelSource) -> list[str]:
    """Names of the files that can change a vector, beside config.json and the model's own weights, whether they are there or not."""
    return [MODULES_FILE, PROMPTS_FILE, METADATA_FILE, *TEXT_FILES, *files_of(source, read_modules(source) or [])]


def read_recipe(source: ModelSource, spec: ModelSpec, *, task: str, pooler_config: Mapping[str, Any] | None = None) -> Recipe:
    """The recipe by which this model makes a vector of a text, or the scores of a classifier.

    Args:
        spec: the model's.
        task: "embed" or "classify", as `choose_task` gives it.
        pooler_config: as in `EngineArgs`.

    Raises:
        ModelError: the files are damaged, or ask for what is not supported; it is named.
        ConfigError: `pooler_config` asks for what the model does not have.
    """
    assert task in ("embed", "classify"), task
    asked = {name: value for name, value in (pooler_config or {}).items() if value is not None}
    text, hidden = _text_settings(source), spec.hidden_size
    if hidden is None:
        raise ModelError("config.json has no hidden_size; fetch the model again")
    pooling = asked.get("pooling_type") or asked.get("seq_pooling_type") or asked.get("tok_pooling_type")
    pooling = None if pooling is None else pooling.upper()
    of_tokens = pooling in TOKEN_POOLINGS
    activation = asked.get("use_activation", asked.get("normalize"))
    if task == "classify":
        if "dimensions" in asked:
            raise ConfigError("pooler_config dimensions is for embeddings; a classifier's scores are not cut")
        chosen = tuple(asked.get("returned_token_ids") or ())
        _check_tokens(spec, chosen, of_tokens=of_tokens)
        labels = tuple(map(str, chosen)) or classes.labels_of(spec)
        per_token = spec.labels_tokens or of_tokens
        step_tag = asked.get("step_tag_id", classes.step_tag_of(spec) if pooling in (None, "STEP") else None)
        if pooling == "STEP" and step_tag is None:
            raise ConfigError("pooler_config: pooling_type STEP needs step_tag_id, the token at the ends of steps")
        if step_tag is not None and not per_token:
            raise ConfigError("pooler_config: step_tag_id needs pooling_type STEP")
        own = classes.activation_of(spec, source.read_json(PROMPTS_FILE) or {}, len(labels))
        return Recipe(
            kind=task,
            pooling="last" if per_token else (pooling or classes.pooling_of(spec)).lower(),
            normalize=False,
            hidden_size=hidden,
            labels=labels,
            per_token=per_token,
            step_tag_id=step_tag if per_token else None,
            tokens=() if chosen else classes.tokens_of(spec),
            token_ids=chosen,
            difference=not chosen and classes.is_difference(spec),
            template=PairTemplate.of(spec.config.get("score_template")),
            activation=asked.get("activation") or ("identity" if activation is False else own),
            **text,
        )
    if pooling == "STEP" or "step_tag_id" in asked:
        raise ConfigError("pooler_config: pooling_type STEP and step_tag_id are for classifiers of tokens; see returned_token_ids")
    if "activation" in asked:
        raise ConfigError("pooler_config activation is for classifiers; embeddings have normalize")
    listed = read_modules(source)
    if spec.towers is not None:
        return _of_towers(source, spec, asked, hidden, pooling)
    if is_late(spec, listed):
        return _late(source, spec, listed, asked, hidden, pooling, text)
    modules = None if listed is None else Modules.of(source, listed)
    made_of_writer = spec.stack is not None and spec.stack.classifier is None
    default = "last" if not spec.is_encoder else "mean" if made_of_writer else "cls"
    by_user = "LAST" if of_tokens else pooling  # of tokens nothing is pooled
    own = (by_user or default) if modules is None else by_user or modules.pooling()  # the user can replace one that is not supported
    recipe = Recipe(
        kind=task,
        pooling=own.lower(),
        per_token=of_tokens,
        normalize=activation if activation is not None else modules is None or modules.normalize,
        hidden_size=hidden,
        dense=() if modules is None else modules.dense(hidden),
        include_prompt=modules is None or modules.include_prompt,
        matryoshka=classes.lengths_of(spec),
        dimensions=asked.get("dimensions"),
        **text,
        **_prompts(source),
    )
    if of_tokens:
        recipe = replace(recipe, similarity=MAXSIM)
    return _checked(recipe)


def _of_towers(source: ModelSource, spec: ModelSpec, asked: Mapping[str, Any], hidden: int, pooling: str | None) -> Recipe:
    """Of a model of two towers (CLIP, SigLIP): the last token's state, projected and of length 1."""
    towers, stack = spec.towers, spec.need_stack()
    assert towers is not None
    if pooling not in (None, "LAST"):
        raise ConfigError(f"pooler_config pooling_type {pooling}: this model takes the last token of a text; leave it out")
    named = source.read_json("tokenizer_config.json") or {}
    padding = (spec.config.get("text_config") or {}).get("pad_token_id")
    recipe = Recipe(
        kind="embed",
        pooling="last",
        normalize=asked.get("use_activation", asked.get("normalize")) is not False,
        hidden_size=hidden,
        dense=(DenseSpec("", hidden, towers.size(spec.config), towers.projection_bias, "identity", prefix=towers.projection),),
        matryoshka=classes.lengths_of(spec),
        dimensions=asked.get("dimensions"),
        lower_case=named.get("do_lower_case") is True or str(named.get("tokenizer_class", "")).startswith("Siglip2"),
        filled_to=stack.num_positions if towers.fills else 0,
        padding=padding if type(padding) is int else 1,
        contrast=read_contrast(source, spec),
        **_prompts(source),
    )
    return _checked(recipe)


def _late(
    source: ModelSource,
    spec: ModelSpec,
    listed: list[dict[str, Any]] | None,
    asked: Mapping[str, Any],
    hidden: int,
    pooling: str | None,
    text: Mapping[str, Any],
) -> Recipe:
    """Of a model of late interaction: a vector a token, projected and of length 1."""
    if pooling not in (None, "ALL"):
        raise ConfigError(f"pooler_config pooling_type {pooling}: this model makes a vector of each token; leave it out")
    late = read_late(source, spec, PROMPTS_FILE)
    if listed is None:
        dense: tuple[DenseSpec, ...] = (DenseSpec("", hidden, projection_size(source), False, "identity"),)
    else:
        dense = Modules.of(source, listed, pools=False).dense(hidden)
    found = _prompts(source)
    recipe = Recipe(
        kind="embed",
        pooling="last",
        per_token=True,
        late=late,
        normalize=asked.get("use_activation", asked.get("normalize")) is not False,
        hidden_size=hidden,
        dense=dense,
        matryoshka=classes.lengths_of(spec),
        dimensions=asked.get("dimensions"),
        **{**text, "max_seq_length": max(late.query_length, late.document_length)},
        **{**found, "prompts": {**dict.fromkeys(SIDES, ""), **found["prompts"]}, "similarity": MAXSIM},
    )
    return _checked(recipe)


def _checked(recipe: Recipe) -> Recipe:
    if recipe.dimensions is not None and (wrong := recipe.wrong_dimensions(recipe.dimensions)):
        raise ConfigError(f"dimensions={recipe.dimensions}: {wrong}")
    return recipe


def _check_tokens(spec: ModelSpec, chosen: tuple[int, ...], *, of_tokens: bool) -> None:
    """Raises ConfigError where the model has no scores of tokens, or not those that are asked for."""
    if of_tokens and spec.is_encoder and not spec.labels_tokens:
        raise ConfigError("pooler_config: pooling_type ALL and STEP are for classifiers of tokens, and this one's reads a whole text")
    if not chosen:
        return
    if spec.is_encoder or spec.stack is None or spec.is_classifier:
        raise ConfigError("pooler_config: returned_token_ids is for language models in our code, without a classifier of their own")
    if wrong := [token for token in chosen if token >= spec.stack.vocab_size]:
        raise ConfigError(f"pooler_config: returned_token_ids has {wrong[0]}, which is not in the vocabulary of {spec.stack.vocab_size}")


def _text_settings(source: ModelSource) -> dict[str, Any]:
    """`max_seq_length` and `lower_case`."""
    for name in TEXT_FILES:
        found = source.read_json(name)
        if found is None:
            continue
        check_file(found, _TEXT_KINDS, source.path / name)
        return {"max_seq_length": found.get("max_seq_length"), "lower_case": found.get("do_lower_case") is True}
    return {}


def _prompts(source: ModelSource) -> dict[str, Any]:
    found = source.read_json(PROMPTS_FILE) or {}
    path = source.path / PROMPTS_FILE
    check_file(found, _PROMPT_KINDS, path)
    prompts = found.get("prompts") or {}
    check_file(prompts, dict.fromkeys(prompts, TEXT | NULL), f"{path}: prompts")
    name = found.get("default_prompt_name")
    if name is not None and name not in prompts:
        raise ModelError(f"{path}: default_prompt_name {name!r} is not one of its prompts ({', '.join(prompts) or 'there are none'})")
    similarity = found.get("similarity_fn_name") or "cosine"
    if similarity not in (*MEASURES, MAXSIM):
        raise ModelError(f"{path}: similarity_fn_name {similarity!r} is not supported; supported: {', '.join((*MEASURES, MAXSIM))}")
    return {
        "prompts": {key: value or "" for key, value in prompts.items()},
        "default_prompt_name": name,
        "similarity": similarity,
    }
