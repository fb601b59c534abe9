"""Tasks of `infer classify`: the labels of a classifier, or those that a language model is asked to choose from."""
