"""Python face of each engine, and the facts of a node; the only importer of compiled code."""
