"""Config.json of a model: its values, the task they mean, and whether it is supported. No torch."""
