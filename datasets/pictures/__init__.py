"""From picture files to arrays."""
