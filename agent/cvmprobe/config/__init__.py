"""One frozen tree of settings: defaults < file < environment < flags."""
