"""The mount namespace that an engine of ours is started in, for crun's sake."""

import os
import shutil
from typing import Final

UNIFIED: Final = "/sys/fs/cgroup/unified"
"""Where systemd, and what does as it does, mounts version 2 of control groups beside version 1."""
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
"""
"""crun refuses both versions at once. Not just unmounted: it would leave a folder for each container where
version 2 was."""
PROTECT: Final = """\
mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"
"""
"""A container that gets at its starter must not change the program (CVE-2019-5736). So crun mounts itself
where nobody can write to it and starts once more from there, four times a container, unless it is there."""


def made_for(crun: str, command: list[str]) -> list[str]:
    """The command that runs this one, as the same process, in a mount namespace where crun does best. A mount
    that is refused there is gone without."""
    if shutil.which("unshare") is None:
        return command
    script = f'{HIDE if os.path.ismount(UNIFIED) else ""}{PROTECT}exec "$@"'
    # Where the machine's mounts are shared, what is mounted later on is seen in it, and not the other way
    # round.
    return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", script, crun, *command]
