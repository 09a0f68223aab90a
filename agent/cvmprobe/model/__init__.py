"""Frozen facts, in the words of the project; standard library only; units stand in the names."""
