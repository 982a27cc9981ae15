"""The master's durable catalog: names, versions, blocks and replicas in one SQLite database, and the log of every change.

    database.py      open, apply(operation), group commit, backup        <- the door
    operations.py    every mutation, named: frozen records with their SQL; block_operations.py holds those about blocks
    records.py       what an operation is, and its way into the log and back
    queries.py       every read
    writer.py        the one writing connection: group, transaction, failure
    transaction.py   what an operation sees while it runs
    paths.py         from a path to a row and back
    schema.py        tables and indexes
    files.py         the files: making, locking, opening, copying
"""
