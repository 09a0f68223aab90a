"""Pure functions: data to chart specification."""
