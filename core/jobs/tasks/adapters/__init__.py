"""Adapters of a job: those that its options declare, and the choice of one for each record."""
