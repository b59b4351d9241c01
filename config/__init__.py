"""Configuration: every key, and how task files override the defaults."""
