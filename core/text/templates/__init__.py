"""Chat templates: sandboxed, bounded in what they may use."""
