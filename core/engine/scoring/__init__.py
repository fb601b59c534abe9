"""Scoring of given continuations: their log-probabilities after a prompt that is computed once."""
