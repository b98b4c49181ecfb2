"""The sandboxes' egress network. It is the dispatcher's: its runtime is asked, as a program."""

import sys
from collections.abc import Mapping
from typing import Final

from mayfly.errors import StackError
from mayfly.stack.process import run

RUNTIME: Final = (sys.executable, "-P", "-m", "dispatcher.runtimes.egress")


async def egress_address(environ: Mapping[str, str]) -> str:
    """This machine's address on the network, which is made if it is not there. Raises `StackError`."""
    code, output = await run(RUNTIME, env=environ)
    if code != 0:
        raise StackError(output.strip() or f"the egress network cannot be made (exit code {code})")
    return output.strip()


async def remove_egress(environ: Mapping[str, str]) -> None:
    """Takes the network and its rules away: an engine has room for some thirty networks.

    One that cannot be removed, because a sandbox is still in it, is there again at the next start.
    """
    await run([*RUNTIME, "remove"], env=environ)
