"""A copy of all that Mayfly knows, taken while it runs, and the way back into empty parts.

The log is copied record by record, and restored so that each record has the offset that it had: fences, the
places of commands and checkpoints are offsets. Redis is no part of it: it is written again from the log.
"""
