"""Plain data: what callers hand in and get back, and what travels between the rooms."""
