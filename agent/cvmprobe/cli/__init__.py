"""The command line: one file per verb, one line per error."""
