"""Writing feature files: what they hold, how values are stored, how far the work is."""
