"""Recipes read from a model's small files: sentence-transformers' modules, config.json, and the user's settings over them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from infer.core.errors import ConfigError, ModelError
from infer.core.pooling.recipe import DenseSpec, Recipe
from infer.core.pooling.recipe_files import read_modules, read_recipe, small_files
from infer.core.spec.read import read_spec
from infer.core.weights.folder import FolderSource

BERT: dict[str, Any] = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32, "num_attention_heads": 4}
QWEN: dict[str, Any] = {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": 64}
MEAN = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
TANH = "torch.nn.modules.activation.Tanh"


def module(place: int, kind: str, *, path: str | None = None, package: str = "sentence_transformers.models") -> dict[str, Any]:
    folder = ("" if kind == "Transformer" else f"{place}_{kind}") if path is None else path
    return {"idx": place, "name": str(place), "path": folder, "type": f"{package}.{kind}"}


def source_of(folder: Path, files: Mapping[str, Any]) -> FolderSource:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return FolderSource("m", folder)


def embedder(
    folder: Path, kinds: Sequence[str] = ("Transformer", "Pooling", "Normalize"), *, more: Mapping[str, Any] | None = None
) -> FolderSource:
    """A folder of these modules; `more` are files beside them, or in their place."""
    found: dict[str, Any] = {"modules.json": [module(i, kind) for i, kind in enumerate(kinds)]}
    found |= {f"{i}_Pooling/config.json": MEAN for i, kind in enumerate(kinds) if kind == "Pooling"}
    return source_of(folder, {**found, **(more or {})})


def embed(source: FolderSource, hf_config: Mapping[str, Any] = BERT, **pooler_config: Any) -> Recipe:
    return read_recipe(source, read_spec(hf_config), task="embed", pooler_config=pooler_config)


class TestWithoutModules:
    @pytest.mark.parametrize(
        ("model_type", "pooling"),
        [(kind, "cls") for kind in ("bert", "roberta", "xlm-roberta", "modernbert", "nomic_bert")]
        + [(kind, "last") for kind in ("llama", "qwen3", "mistral")],
    )
    def test_the_way_of_its_kind(self, tmp_path: Path, model_type: str, pooling: str) -> None:
        recipe = embed(source_of(tmp_path, {}), {"model_type": model_type, "hidden_size": 768})
        assert recipe == Recipe(kind="embed", pooling=pooling, normalize=True, hidden_size=768)

    def test_the_hidden_size(self, tmp_path: Path) -> None:
        source = source_of(tmp_path, {})
        assert embed(source, {"model_type": "gpt2", "n_embd": 768}).size == 768
        assert embed(source, {"model_type": "x", "hidden_size": 1, "text_config": {"hidden_size": 48}}).size == 48
        with pytest.raises(ModelError, match=r"config\.json has no hidden_size"):
            embed(source, {"model_type": "x"})

    def test_prompts_and_lengths_need_no_modules(self, tmp_path: Path) -> None:
        files = {
            "sentence_bert_config.json": {"max_seq_length": 77, "do_lower_case": True},
            "config_sentence_transformers.json": {"prompts": {"q": "query: "}, "default_prompt_name": "q"},
        }
        recipe = embed(source_of(tmp_path, files))
        assert (recipe.max_seq_length, recipe.lower_case, recipe.prefix_of(None)) == (77, True, "query: ")


class TestModules:
    @pytest.mark.parametrize(
        ("kinds", "normalize"),
        [
            (("Transformer", "Pooling"), False),
            (("Transformer", "Pooling", "Normalize"), True),
            (("Transformer", "Dropout", "Pooling", "Normalize"), True),
        ],
    )
    def test_normalize_only_with_its_module(self, tmp_path: Path, kinds: tuple[str, ...], normalize: bool) -> None:
        for hf_config in (BERT, QWEN):
            assert embed(embedder(tmp_path, kinds), hf_config).normalize is normalize

    @pytest.mark.parametrize(
        "package",
        ["sentence_transformers.models", "sentence_transformers.base.modules.x", "sentence_transformers.sentence_transformer.modules.x"],
    )
    def test_older_and_newer_names_of_classes(self, tmp_path: Path, package: str) -> None:
        listed = [module(i, kind, package=package) for i, kind in enumerate(("Transformer", "Pooling", "Normalize"))]
        recipe = embed(source_of(tmp_path, {"modules.json": listed, "1_Pooling/config.json": MEAN}))
        assert (recipe.pooling, recipe.normalize) == ("mean", True)

    @pytest.mark.parametrize(
        ("kinds", "message"),
        [
            (("Transformer",), "no Pooling module"),
            (("Pooling", "Transformer"), "one Transformer, and first: Pooling -> Transformer"),
            ((), "one Transformer, and first: there are no modules"),
            (("Transformer", "Transformer", "Pooling"), "one Transformer, and first"),
            (("Transformer", "Pooling", "Pooling"), "2 Pooling modules"),
            (("Transformer", "Pooling", "Normalize", "Dense"), "order Transformer -> Pooling -> Normalize -> Dense is not supported"),
            (("Transformer", "Dense", "Pooling"), "order Transformer -> Dense -> Pooling is not supported"),
            (("Transformer", "Normalize", "Pooling"), "order Transformer -> Normalize -> Pooling is not supported"),
            (("Transformer", "LSTM", "Pooling"), r"module 'sentence_transformers\.models\.LSTM' is not supported"),
        ],
    )
    def test_what_is_not_supported_is_named(self, tmp_path: Path, kinds: tuple[str, ...], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            embed(embedder(tmp_path, kinds))

    def test_code_of_the_models_own(self, tmp_path: Path) -> None:
        listed = [module(0, "Transformer", package="custom_st"), module(1, "Pooling")]
        with pytest.raises(ModelError, match=r"module 'custom_st\.Transformer' is not supported"):
            embed(source_of(tmp_path, {"modules.json": listed, "1_Pooling/config.json": MEAN}))

    @pytest.mark.parametrize("path", ["../other", "/etc", "a/../../b", "a\\b", 5])
    def test_folders_outside_are_refused(self, tmp_path: Path, path: Any) -> None:
        listed = [module(0, "Transformer"), module(1, "Pooling", path=path)]
        source = source_of(tmp_path, {"modules.json": listed})
        for read in (embed, small_files):
            with pytest.raises(ModelError, match="names a folder outside the model's"):
                read(source)

    def test_a_transformer_in_a_folder_of_its_own(self, tmp_path: Path) -> None:
        listed = [module(0, "Transformer", path="0_Transformer"), module(1, "Pooling")]
        with pytest.raises(ModelError, match="the Transformer lies in '0_Transformer'"):
            embed(source_of(tmp_path, {"modules.json": listed, "1_Pooling/config.json": MEAN}))

    @pytest.mark.parametrize("content", ["[", "{}", "[1]"])
    def test_damaged(self, tmp_path: Path, content: str) -> None:
        with pytest.raises(ModelError, match=r"modules\.json is not"):
            read_modules(source_of(tmp_path, {"modules.json": content}))


class TestPooling:
    @pytest.mark.parametrize(
        ("config", "pooling"),
        [
            ({"pooling_mode": "cls"}, "cls"),
            ({"pooling_mode": "mean"}, "mean"),
            ({"pooling_mode": "lasttoken"}, "last"),
            ({"pooling_mode": ["mean"]}, "mean"),
            ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
            ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
            ({"pooling_mode_lasttoken": True}, "last"),
            ({"pooling_mode": "cls", "pooling_mode_mean_tokens": True}, "cls"),
            ({"word_embedding_dimension": 32}, "mean"),  # sentence-transformers' default
        ],
    )
    def test_read(self, tmp_path: Path, config: dict[str, Any], pooling: str) -> None:
        assert embed(embedder(tmp_path, more={"1_Pooling/config.json": config})).pooling == pooling

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"pooling_mode": "max"}, "pooling 'max' is not supported"),
            ({"pooling_mode_max_tokens": True}, "pooling 'max' is not supported"),
            ({"pooling_mode_mean_sqrt_len_tokens": True}, "pooling 'mean_sqrt_len_tokens' is not supported"),
            ({"pooling_mode_weightedmean_tokens": True}, "pooling 'weightedmean' is not supported"),
            ({"pooling_mode": ["cls", "mean"]}, r"several poolings at once are not supported \(cls, mean\)"),
            ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, r"several poolings at once .*\(cls, mean\)"),
            ({"pooling_mode": 3}, "pooling_mode is 3, not a name"),
            ({"pooling_mode": []}, r"pooling_mode is \[\], not a name"),
        ],
    )
    def test_refused_by_name_unless_the_user_chooses_another(self, tmp_path: Path, config: dict[str, Any], message: str) -> None:
        source = embedder(tmp_path, more={"1_Pooling/config.json": config})
        with pytest.raises(ModelError, match=message):
            embed(source)
        assert embed(source, pooling_type="CLS").pooling == "cls"

    def test_a_missing_config(self, tmp_path: Path) -> None:
        source = embedder(tmp_path)
        (tmp_path / "1_Pooling/config.json").unlink()
        with pytest.raises(ModelError, match=r"1_Pooling/config\.json is not there"):
            embed(source)

    def test_include_prompt(self, tmp_path: Path) -> None:
        assert embed(embedder(tmp_path)).include_prompt is True
        assert embed(embedder(tmp_path, more={"1_Pooling/config.json": {**MEAN, "include_prompt": False}})).include_prompt is False


class TestDense:
    KINDS = ("Transformer", "Pooling", "Dense", "Dense", "Normalize")

    def source(self, folder: Path, **first: Any) -> FolderSource:
        one = {"in_features": 32, "out_features": 16, "bias": True, "activation_function": TANH} | first
        two = {"in_features": 16, "out_features": 8, "bias": False, "activation_function": "torch.nn.modules.linear.Identity"}
        return embedder(folder, self.KINDS, more={"2_Dense/config.json": one, "3_Dense/config.json": two})

    def test_in_order(self, tmp_path: Path) -> None:
        recipe = embed(self.source(tmp_path))
        assert recipe.dense == (DenseSpec("2_Dense", 32, 16, True, "tanh"), DenseSpec("3_Dense", 16, 8, False, "identity"))
        assert (recipe.size, recipe.hidden_size, recipe.normalize) == (8, 32, True)

    @pytest.mark.parametrize(
        ("name", "activation"),
        [
            ("torch.nn.modules.activation.ReLU", "relu"),
            ("torch.nn.modules.activation.GELU", "gelu"),
            ("torch.nn.modules.activation.SiLU", "silu"),
            ("torch.nn.Sigmoid", "sigmoid"),
            (None, "identity"),
        ],
    )
    def test_activations(self, tmp_path: Path, name: str | None, activation: str) -> None:
        assert embed(self.source(tmp_path, activation_function=name)).dense[0].activation == activation

    @pytest.mark.parametrize(
        ("first", "message"),
        [
            ({"activation_function": "torch.nn.modules.activation.ELU"}, "activation_function 'torch.nn.modules.activation.ELU'"),
            ({"activation_function": "my.code.Tanh"}, "activation_function 'my.code.Tanh' is not supported"),
            ({"in_features": 31}, "takes vectors of 31, what is before it gives 32"),
            ({"out_features": 15}, "takes vectors of 16, what is before it gives 15"),
            ({"out_features": None}, "has no in_features and out_features"),
            ({"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings' is not supported"),
        ],
    )
    def test_refused(self, tmp_path: Path, first: dict[str, Any], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            embed(self.source(tmp_path, **first))


class TestText:
    @pytest.mark.parametrize("name", ["sentence_bert_config.json", "sentence_roberta_config.json", "sentence_xlm-roberta_config.json"])
    def test_lengths(self, tmp_path: Path, name: str) -> None:
        recipe = embed(source_of(tmp_path, {name: {"max_seq_length": 128, "do_lower_case": False}}))
        assert (recipe.max_seq_length, recipe.lower_case) == (128, False)

    @pytest.mark.parametrize("length", ["128", 0, True])
    def test_a_wrong_length(self, tmp_path: Path, length: Any) -> None:
        with pytest.raises(ModelError, match="max_seq_length is"):
            embed(source_of(tmp_path, {"sentence_bert_config.json": {"max_seq_length": length}}))

    def test_prompts(self, tmp_path: Path) -> None:
        file = {"prompts": {"query": "Q: ", "document": None}, "default_prompt_name": None, "similarity_fn_name": "dot"}
        recipe = embed(source_of(tmp_path, {"config_sentence_transformers.json": file}))
        assert (recipe.prompts, recipe.default_prompt_name, recipe.prefix_of(None)) == ({"query": "Q: ", "document": ""}, None, "")
        assert recipe.similarity == "dot"

    @pytest.mark.parametrize(
        ("file", "message"),
        [
            ({"prompts": {"query": "Q"}, "default_prompt_name": "doc"}, r"default_prompt_name 'doc' is not one of its prompts \(query\)"),
            ({"prompts": ["a"]}, "prompts.*; it must be"),
            ({"prompts": {"a": 1}}, "prompts.*; it must be"),
            ({"similarity_fn_name": "maxsim"}, "similarity_fn_name 'maxsim' is not supported"),
        ],
    )
    def test_wrong_prompts(self, tmp_path: Path, file: dict[str, Any], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            embed(source_of(tmp_path, {"config_sentence_transformers.json": file}))


class TestWhatTheUserSays:
    def test_over_modules(self, tmp_path: Path) -> None:
        source = embedder(tmp_path)
        assert embed(source, pooling_type="last").pooling == "last"
        assert embed(source, seq_pooling_type="CLS", normalize=None).normalize is True
        assert embed(source, normalize=False).normalize is False
        assert embed(embedder(tmp_path, ("Transformer", "Pooling")), use_activation=True).normalize is True

    def test_over_the_way_of_its_kind(self, tmp_path: Path) -> None:
        recipe = embed(source_of(tmp_path, {}), QWEN, pooling_type="MEAN", normalize=False)
        assert (recipe.pooling, recipe.normalize) == ("mean", False)

    def test_what_is_for_the_other_kind(self, tmp_path: Path) -> None:
        source = source_of(tmp_path, {})
        with pytest.raises(ConfigError, match="activation is for classifiers"):
            embed(source, activation="sigmoid")
        with pytest.raises(ConfigError, match="dimensions is for embeddings"):
            read_recipe(source, read_spec(BERT), task="classify", pooler_config={"dimensions": 8})


class TestMatryoshka:
    @pytest.mark.parametrize(
        ("said", "matryoshka", "good", "bad"),
        [
            ({}, False, [32], [16, 33]),
            ({"is_matryoshka": False}, False, [32], [31]),
            ({"is_matryoshka": True}, True, [1, 31, 32], [33]),
            ({"matryoshka_dimensions": [8, 16]}, (8, 16), [8, 16, 32], [12, 64]),
            ({"matryoshka_dimensions": [], "is_matryoshka": True}, True, [5], [64]),
        ],
    )
    def test_rules(self, tmp_path: Path, said: dict[str, Any], matryoshka: Any, good: list[int], bad: list[int]) -> None:
        source = source_of(tmp_path, {})
        assert embed(source, BERT | said).matryoshka == matryoshka
        for dimensions in good:
            recipe = embed(source, BERT | said, dimensions=dimensions)
            assert (recipe.dimensions, recipe.output_size, recipe.size) == (dimensions, dimensions, 32)
        for dimensions in bad:
            with pytest.raises(ConfigError, match=rf"^dimensions={dimensions}: "):
                embed(source, BERT | said, dimensions=dimensions)

    @pytest.mark.parametrize("lengths", [[0], ["8"], 8, [True]])
    def test_damaged(self, tmp_path: Path, lengths: Any) -> None:
        with pytest.raises(ModelError, match="matryoshka_dimensions is"):
            embed(source_of(tmp_path, {}), BERT | {"matryoshka_dimensions": lengths})


class TestClassifier:
    def classify(self, folder: Path, said: dict[str, Any], files: dict[str, Any] | None = None, **pooler_config: Any) -> Recipe:
        hf_config = BERT | {"architectures": ["BertForSequenceClassification"]} | said
        return read_recipe(source_of(folder, files or {}), read_spec(hf_config), task="classify", pooler_config=pooler_config)

    @pytest.mark.parametrize(
        ("said", "labels"),
        [
            ({}, ("LABEL_0", "LABEL_1")),
            ({"num_labels": 3}, ("LABEL_0", "LABEL_1", "LABEL_2")),
            ({"id2label": {"0": "good"}}, ("good",)),
            ({"id2label": {"1": "b", "0": "a", "10": "k"} | {str(i): "x" for i in range(2, 10)}}, ("a", "b", *"x" * 8, "k")),
            ({"id2label": {"0": "good"}, "num_labels": 3}, ("good",)),
        ],
    )
    def test_labels(self, tmp_path: Path, said: dict[str, Any], labels: tuple[str, ...]) -> None:
        recipe = self.classify(tmp_path, said)
        assert (recipe.kind, recipe.labels, recipe.size, recipe.normalize) == ("classify", labels, len(labels), False)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"id2label": {"1": "a"}}, "does not number labels from 0"),
            ({"id2label": {"a": "0"}}, "does not number labels from 0"),
            ({"id2label": ["a"]}, "id2label is"),
            ({"id2label": {}, "num_labels": "2"}, "num_labels is '2'"),
            ({"num_labels": 0}, "num_labels is 0"),
            ({"problem_type": "ranking"}, "problem_type 'ranking' is not supported"),
            ({"sentence_transformers": {"activation_fn": TANH}}, f"activation_fn '{TANH}' is not supported"),
            ({"model_type": "modernbert", "classifier_pooling": "max"}, "classifier_pooling 'max' is not supported"),
            ({"classifier_from_token": ["no", "yes"]}, "classifier_from_token is for language models in our code, which bert is not"),
            ({"classifier_from_token": "yes"}, "classifier_from_token is 'yes', not a list of tokens"),
            ({"model_type": "llama", "classifier_from_token": ["a", "b"], "method": "sum"}, "method 'sum'"),
            ({"model_type": "llama", "classifier_from_token": ["a"], "method": "from_2_way_softmax"}, "needs two tokens"),
            ({"model_type": "llama", "classifier_from_token": ["a"], "score_template": {"pair": "{query}"}}, r"pair needs \{document\}"),
            ({"model_type": "llama", "classifier_from_token": ["a"], "score_template": {"pairs": ""}}, "no key 'pairs'.*pair"),
            ({"model_type": "llama", "classifier_from_token": ["a"], "score_template": ["{query}"]}, "score_template is not an object"),
        ],
    )
    def test_refused(self, tmp_path: Path, said: dict[str, Any], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            self.classify(tmp_path, said)

    IDENTITY = "torch.nn.modules.linear.Identity"
    SIGMOID = "torch.nn.modules.activation.Sigmoid"

    @pytest.mark.parametrize(
        ("said", "activation"),
        [
            ({"num_labels": 1}, "sigmoid"),
            ({"num_labels": 2}, "softmax"),
            ({"num_labels": 1, "problem_type": "regression"}, "identity"),
            ({"num_labels": 3, "problem_type": "single_label_classification"}, "softmax"),
            ({"num_labels": 1, "problem_type": "single_label_classification"}, "sigmoid"),
            ({"num_labels": 3, "problem_type": "multi_label_classification"}, "sigmoid"),
            ({"num_labels": 1, "sentence_transformers": {"activation_fn": IDENTITY}}, "identity"),
            ({"num_labels": 3, "sentence_transformers": {"activation_fn": SIGMOID}}, "sigmoid"),
            ({"num_labels": 1, "sbert_ce_default_activation_function": IDENTITY}, "identity"),
            ({"problem_type": "regression", "sentence_transformers": {"activation_fn": SIGMOID}}, "identity"),
        ],
    )
    def test_activation(self, tmp_path: Path, said: dict[str, Any], activation: str) -> None:
        assert self.classify(tmp_path, said).activation == activation

    def test_activation_in_sentence_transformers_own_file(self, tmp_path: Path) -> None:
        files = {"config_sentence_transformers.json": {"activation_fn": self.IDENTITY, "model_type": "CrossEncoder"}}
        assert self.classify(tmp_path, {"num_labels": 1}, files).activation == "identity"

    def test_the_user_wins(self, tmp_path: Path) -> None:
        assert self.classify(tmp_path, {}, activation="sigmoid").activation == "sigmoid"
        assert self.classify(tmp_path, {}, use_activation=False).activation == "identity"
        assert self.classify(tmp_path, {}, use_activation=True).activation == "softmax"

    @pytest.mark.parametrize(
        ("said", "pooling"),
        [
            ({"model_type": "roberta"}, "cls"),
            ({"model_type": "modernbert"}, "cls"),
            ({"model_type": "modernbert", "classifier_pooling": "mean"}, "mean"),
            ({"model_type": "qwen3", "num_key_value_heads": 4}, "last"),
        ],
    )
    def test_pooling(self, tmp_path: Path, said: dict[str, Any], pooling: str) -> None:
        assert self.classify(tmp_path, said).pooling == pooling

    def test_modules_of_a_cross_encoder_say_nothing(self, tmp_path: Path) -> None:
        files = {"modules.json": [module(0, "Transformer")], "sentence_bert_config.json": {"max_seq_length": 40}}
        assert self.classify(tmp_path, {}, files).max_seq_length == 40


def test_small_files(tmp_path: Path) -> None:
    kinds = ("Transformer", "Pooling", "Dense", "LSTM", "Normalize")
    names = small_files(embedder(tmp_path, kinds))
    assert {"modules.json", "config_sentence_transformers.json", "sentence_bert_config.json", "1_Pooling/config.json"} <= set(names)
    assert {"2_Dense/config.json", "2_Dense/model.safetensors", "3_LSTM/config.json"} <= set(names)
    assert "model.safetensors" not in names
    assert "config.json" not in names
