"""Bytes in, messages out, and back: no socket, clock, thread or chance in here."""
