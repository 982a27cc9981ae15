"""Planners: plain functions on snapshots that return decisions with reasons. No I/O, clock, log or thread."""
