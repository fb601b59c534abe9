"""The composition root: settings and a model's folder become a running engine."""
