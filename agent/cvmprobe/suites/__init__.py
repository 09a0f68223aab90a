"""What a run measures: data, not code."""
