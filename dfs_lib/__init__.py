"""A distributed file store for ordinary machines. `dfs_lib.client.connect()` is the door for programs."""

__version__ = "0.1.0"
