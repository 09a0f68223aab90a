"""The contract of the compiled engines: one stub (.pyi) for each module of native/; the .so files land here."""
