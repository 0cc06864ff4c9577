"""The model, data, objective and optimizer of a config, and the compiled program of their training."""
