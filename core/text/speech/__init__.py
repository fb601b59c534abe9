"""Speech to text with Whisper's tokens: what the decoder begins with, what it may say next, and how windows become a transcript."""
