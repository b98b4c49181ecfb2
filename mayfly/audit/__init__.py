"""The audit: reads the log, Redis and S3 as they are, and proves that they agree. It writes nothing.

`python -m mayfly.audit` is its composition root, `mayfly audit` the command. `ledger` and `checks` are pure.
"""
