"""The client library: `connect()` gives a Client, the same that the command line and the gateway use.

    import dfs_lib.client

    with dfs_lib.client.connect("lab-server", settings=settings) as store:
        store.put("thesis.pdf", "/thesis.pdf")
        with store.open("/thesis.pdf") as source:
            head = source.read(1024)

Never prints or logs. Every error is a `dfs_lib.errors.DfsError`.
"""

from dfs_lib.client.api import Client, connect

__all__ = ["Client", "connect"]
