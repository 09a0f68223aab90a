"""Snapshot in, document out."""
