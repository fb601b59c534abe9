"""Rows of answers as tables: cells, columns, and the files that are written of them."""
