"""Jobs over JSONL: records in, rows out in input order, resumable at any moment."""
