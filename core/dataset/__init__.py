"""Rows of a data set in, rows with answers out: callable classes for Ray Data, pandas, Spark and plain Python. No files, no journal."""
