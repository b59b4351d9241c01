"""States what stands behind a number: intervals, ties and chance, stored ranks, paired comparisons."""
