"""Media of records: where they may be read from, how much of them, and what they are decoded to."""
