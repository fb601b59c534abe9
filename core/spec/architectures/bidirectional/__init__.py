"""Models that read a text in both directions."""
