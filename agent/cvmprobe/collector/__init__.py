"""The collector process."""
