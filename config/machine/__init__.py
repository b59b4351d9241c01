"""What has to be known of the machine before NumPy is imported."""
