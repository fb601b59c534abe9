"""Sinks of rows: lines as they are, or a matrix in one of several formats."""
