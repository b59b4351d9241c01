"""What is known of the machine: the kernels to multiply by, before NumPy is imported, and its cores."""
