"""Models of images or sound and text, of which the language model alone is read."""
