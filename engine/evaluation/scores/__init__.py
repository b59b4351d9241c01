"""The scores of a split in files: whole, and in parts that processes write."""
