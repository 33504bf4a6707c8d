"""The run modes of the binary: plain functions that gin binds and `main` calls."""
