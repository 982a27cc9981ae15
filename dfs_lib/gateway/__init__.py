"""HTTP in front of `dfs_lib.client`: files by their paths, the page, numbers for monitoring. It holds nothing of its own: run as many as you like."""
