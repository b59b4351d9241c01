"""Files that all rooms need: written whole, told by their first bytes, and read as YAML or JSON."""
