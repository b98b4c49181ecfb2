"""Redis: the read model's server, on loopback, with a password of its own."""

from typing import Final
from urllib.parse import urlsplit

from mayfly.adapters.redis import ReadModel
from mayfly.settings import Settings
from mayfly.stack.home import Home
from mayfly.stack.packages import REDIS, Program, find
from mayfly.stack.part import Part, Say, listens

CONFIG: Final = """\
bind 127.0.0.1
protected-mode yes
port {port}
requirepass {password}
dir "{data}"
appendonly yes
# To write it anew, a process writes all that there is: with the usual 64 MiB that is after 20,000 tasks.
auto-aof-rewrite-min-size 256mb
save ""
"""


class Redis(Part):
    name = "redis"
    variable = "MAYFLY_REDIS"

    def __init__(self, home: Home, say: Say, given: str | None, *, usual: bool = True) -> None:
        super().__init__(home, say, given)
        if not given:
            self._port = home.port("redis", 6379 if usual else None)

    @property
    def address(self) -> str:
        return urlsplit(self.given).netloc.rpartition("@")[2] if self.given else f"127.0.0.1:{self._port}"

    @property
    def data(self) -> str | None:
        return None if self.given else str(self.home.path / "redis")

    def environment(self) -> dict[str, str]:
        return {
            "MAYFLY_REDIS": self.given
            or f"redis://default:{self.home.secret('redis')}@127.0.0.1:{self._port}/0"
        }

    def programs(self) -> list[Program]:
        return [] if self.given else [REDIS]

    async def prepare(self) -> None:
        data = self.home.directory("redis")
        # A file that only we can read: a command line is everybody's.
        text = CONFIG.format(port=self._port, password=self.home.secret("redis"), data=data)
        self.home.write("redis/redis.conf", text)

    def command(self) -> list[str]:
        return [find("redis-server") or "redis-server", str(self.home.path / "redis" / "redis.conf")]

    async def probe(self, settings: Settings) -> None:
        if not self.given:
            await listens("127.0.0.1", self._port)
        model = ReadModel(settings)
        try:
            await model.ping()
        finally:
            await model.close()
