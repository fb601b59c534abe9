"""Text of models: tokenizers, detokenizers, stop strings, chats, and parsers of what was written."""
