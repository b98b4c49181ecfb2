"""Functions deployed once, to a log and an engine that are there already: what a cloud wants of its CI."""

import os
from pathlib import Path

from mayfly.adapters.kafka import ensure_topics
from mayfly.build import function_folders
from mayfly.errors import StackError
from mayfly.settings import Settings
from mayfly.stack.deployer import Deployer, deployed
from mayfly.stack.engine import address, ping
from mayfly.stack.home import Home


async def deploy(directory: Path, folder: Path, settings: Settings) -> bool:
    """Whether every function of the folder is deployed; of each a line is said. Others' functions stay.

    `directory` is the deployer's own. Raises `StackError` where there is no function or no engine,
    `SettingsError` for other partitions than there are, `LogUnavailable`.
    """
    if not function_folders(folder):
        raise StackError(f"there is no function in {folder}", mend="mayfly new NAME")
    engine = settings.docker_host or address(os.environ)
    ping(engine)
    await ensure_topics(settings)
    home = Home(directory)
    home.make()
    deployer = Deployer(home, folder, settings, engine, print)
    try:
        await deployer.start()
    finally:
        await deployer.stop()
    return not any(state.error for state in deployed(home))
