"""A data keeper: stores blocks on its own disk and serves them; decides nothing about where they belong."""
