"""Output of a job: rows in any order become bytes in input order, and are never lost."""
