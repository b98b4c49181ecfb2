"""Control groups of version 1 without the unused version 2 beside them: crun refuses both at once."""

import os
import shutil
from typing import Final

UNIFIED: Final = "/sys/fs/cgroup/unified"
"""Where systemd, and what does as it does, mounts version 2 beside version 1."""
HIDE: Final = """\
hide() {
    new=$(mktemp -d) && mount -t tmpfs -o mode=755 cgroup "$new" || return
    for place in /sys/fs/cgroup/*; do
        name=${place##*/}
        if [ "$name" = unified ]; then
            continue
        elif [ -L "$place" ]; then
            cp -P "$place" "$new"
        else
            mkdir "$new/$name" && mount --bind "$place" "$new/$name"
        fi || return
    done
    mount --move "$new" /sys/fs/cgroup && rmdir "$new"
}
hide
exec "$@"
"""
"""Not just unmounted: crun would leave a folder for each container where version 2 was."""


def without_unified(command: list[str]) -> list[str]:
    """The command that runs this one, as the same process, in a mount namespace where version 2 is hidden."""
    if not os.path.ismount(UNIFIED) or shutil.which("unshare") is None:
        return command
    # What is mounted outside later on is seen in it, and not the other way round.
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", HIDE, "sh", *command]
