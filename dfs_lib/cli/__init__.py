"""Arguments become settings, a daemon or a client call, and an exit status; nothing here knows a socket."""
