"""Windows, samples and runs at rest, and the snapshot format; the only importer of duckdb."""
