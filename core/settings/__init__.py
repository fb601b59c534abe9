"""Settings: `EngineArgs` is what was typed, `EngineConfig` what it means on this machine."""
