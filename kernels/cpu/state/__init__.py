"""Operations over states: what layers without a KV cache remember of a sequence. See ../../state.py."""
