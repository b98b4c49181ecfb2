"""Requests of the tests' own, to what speaks HTTP on loopback."""

import httpx

WEB = httpx.Client(
    trust_env=False,
    # A client of its own for each request would read all certificates, fifty milliseconds of CPU on a slow
    # machine, and some are made every few while a test waits.
    verify=False,
    limits=httpx.Limits(max_keepalive_connections=0),
)
"""For any thread. Each request has its own connection, for what it speaks to may be killed in between."""
