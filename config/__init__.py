"""Configuration: every key, and how task files overlay the defaults."""
