"""The engine of models that write: schedule, run, commit."""
