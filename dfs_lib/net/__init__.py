"""Sockets live here and nowhere else (the gateway's http.server aside)."""
