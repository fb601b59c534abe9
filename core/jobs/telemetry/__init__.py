"""Telemetry: a run's counts told to other programs while it goes on. Nothing here changes an answer."""
