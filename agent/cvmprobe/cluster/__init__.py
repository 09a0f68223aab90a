"""Discovery, workers and API latency; the only importer of kubernetes."""
