"""Speculation: tokens that may come next are computed with the one before them, and kept where they are what is drawn."""
