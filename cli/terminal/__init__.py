"""The terminal: what is said on stderr, and what stdout is."""
