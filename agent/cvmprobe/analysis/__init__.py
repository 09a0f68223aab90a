"""Pure functions over windows: merge, percentile, summary."""
