"""Which runtime a process launches sandboxes with. For composition roots."""

from dispatcher.runtimes.base import Runtime
from dispatcher.runtimes.divided import DividedRuntime
from dispatcher.runtimes.docker import DockerRuntime
from dispatcher.runtimes.oci import OciRuntime
from mayfly.settings import Settings


def runtime_of(settings: Settings, dispatcher: str) -> Runtime:
    """The one that the settings name. `dispatcher` is the id that its sandboxes are marked with."""
    if settings.runtime == "docker":
        return DockerRuntime(settings, dispatcher)
    # Each has a lock of its own for what it launches.
    return DividedRuntime(
        own=OciRuntime(settings, dispatcher), engine=DockerRuntime(settings, f"{dispatcher}-egress")
    )
