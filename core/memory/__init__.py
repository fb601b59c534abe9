"""Memory of an engine: the KV cache on its device, and blocks swapped to the CPU."""
