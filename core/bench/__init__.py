"""Measurements: how fast a workload is answered, where the time goes, and what this machine can reach at all."""
