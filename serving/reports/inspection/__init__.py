"""Pages about single queries: misses, disagreements, pairs to judge, and what an audit of the data found."""
