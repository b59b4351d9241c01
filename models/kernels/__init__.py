"""Products and recurrences in NumPy and MKL; they know no network."""
