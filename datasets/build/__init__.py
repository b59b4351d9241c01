"""From the configuration to data, for each kind of model."""
