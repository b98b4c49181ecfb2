"""Faults: a whole stack is killed, stopped and flushed at random while it works, and loses nothing.

`schedule` says what is done to it when, `actors` do it, submit tasks and watch them, `history` is what they
saw, and `checks` says whether that is what was promised. `python -m tests.faults` runs it all at length.
"""
