"""Python's cyclic garbage collector in a service: its modules stay for good, its work leaves few cycles."""

import gc


def spare() -> None:
    """Call it when the service is made.

    Nothing that is there is looked at again, and new cycles are looked for after every 20,000 objects: every
    700, as is the default, costs each task time and some of them a pause.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    gc.enable()
