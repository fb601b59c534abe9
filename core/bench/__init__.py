"""Measurements: how fast a workload is answered and where the time goes, and what this machine can reach at all."""
