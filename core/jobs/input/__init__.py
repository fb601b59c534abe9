"""Input of a job: bytes from files and pipes become records."""
