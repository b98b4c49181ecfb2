"""S3: S3Proxy on a folder. It keeps what a task gave; it is no store for more than one machine."""

from pathlib import Path
from typing import Final

from mayfly.adapters.s3 import Blobs
from mayfly.settings import Settings
from mayfly.stack import jars
from mayfly.stack.home import Home
from mayfly.stack.part import Say, listens

JARS: Final = "s3proxy-3.1.0"
JVM: Final = (
    "-Xms64m",
    "-Xmx256m",
    *jars.JVM,
    f"-Dlogback.configurationFile={Path(__file__).parent / 'logback.xml'}",
)
IDENTITY: Final = "mayfly"

CONFIG: Final = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={identity}
s3proxy.credential={credential}
# Newer clients send headers that it does not know.
s3proxy.ignore-unknown-headers=true
jclouds.provider=filesystem-nio2
jclouds.filesystem.basedir={data}
"""


class S3(jars.JavaPart):
    name = "s3"
    variable = "MAYFLY_S3_ENDPOINT"
    pom = JARS

    def __init__(self, home: Home, say: Say, given: str | None, *, usual: bool = True) -> None:
        super().__init__(home, say, given)
        if not given:
            self._port = home.port("s3", 9000 if usual else None)

    @property
    def address(self) -> str:
        return self.given or f"http://127.0.0.1:{self._port}"

    @property
    def data(self) -> str | None:
        return None if self.given else str(self.home.path / "s3" / "data")

    def environment(self) -> dict[str, str]:
        if self.given:
            # Its keys are in the same environment as its address.
            return {"MAYFLY_S3_ENDPOINT": self.given}
        return {
            "MAYFLY_S3_ENDPOINT": self.address,
            "MAYFLY_S3_ACCESS_KEY": IDENTITY,
            "MAYFLY_S3_SECRET_KEY": self.home.secret("s3"),
        }

    async def prepare(self) -> None:
        await jars.download(JARS, self._say)
        data = self.home.directory("s3/data")
        text = CONFIG.format(port=self._port, identity=IDENTITY, credential=self.home.secret("s3"), data=data)
        self.home.write("s3/s3proxy.conf", text)

    def command(self) -> list[str]:
        config = str(self.home.path / "s3" / "s3proxy.conf")
        return [*jars.java(JARS, JVM, makes_archive=True), "org.gaul.s3proxy.Main", "--properties", config]

    async def start(self, settings: Settings) -> None:
        if not self.given:
            # A bucket is a folder to it. To make one as any other S3 wants it takes a second of CPU.
            self.home.directory(f"s3/data/{settings.s3_bucket}")
        await super().start(settings)

    async def probe(self, settings: Settings) -> None:
        if not self.given:
            await listens("127.0.0.1", self._port)
        # A bucket that is there is part of being ready.
        await Blobs(settings).ensure_bucket()
