"""A job in a file: everything that a command takes, in a YAML file of --config or of `infer run`."""
