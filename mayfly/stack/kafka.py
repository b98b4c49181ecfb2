"""Kafka: the real broker, one JVM that is broker and controller in one (KRaft)."""

import asyncio
import base64
import logging
import uuid
from typing import Final

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from mayfly.adapters.kafka import client_config, ensure_topics
from mayfly.errors import StackError
from mayfly.settings import Settings
from mayfly.stack import jars
from mayfly.stack.home import Home
from mayfly.stack.part import Say, listens
from mayfly.stack.process import run

JARS: Final = "kafka-4.3.1"
JVM: Final = ("-Xms128m", "-Xmx512m", *jars.JVM)

# A static quorum of one: unlike a dynamic one it is not written to the metadata log, so the ports may move.
# A member's death is noticed after the session timeout and a join takes up to the heartbeat interval: the
# defaults of 45 s and 5 s would be what a user waits for.
PROPERTIES: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=8
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=8
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
group.consumer.min.heartbeat.interval.ms=300
group.consumer.heartbeat.interval.ms=300
group.consumer.min.session.timeout.ms=6000
group.consumer.session.timeout.ms=6000
# A quorum of one need not be told twice a second that there is nothing new.
metadata.max.idle.interval.ms=10000
# The checkpoints are a group's offsets: a stack that was down for a week must find them.
offsets.retention.minutes=2147483647
"""


SILENT: Final = logging.getLogger("mayfly.stack.kafka")
"""Of a client that only asks whether the broker is there yet: what it thinks of that is the answer itself."""
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


class Kafka(jars.JavaPart):
    name = "kafka"
    variable = "MAYFLY_KAFKA"
    pom = JARS

    def __init__(self, home: Home, say: Say, given: str | None, *, usual: bool = True) -> None:
        super().__init__(home, say, given)
        if not given:
            self._port = home.port("kafka", 9092 if usual else None)
            self._controller = home.port("kafka-controller", 9093 if usual else None)

    @property
    def address(self) -> str:
        return self.given or f"127.0.0.1:{self._port}"

    @property
    def data(self) -> str | None:
        return None if self.given else str(self.home.path / "kafka" / "data")

    def environment(self) -> dict[str, str]:
        return {"MAYFLY_KAFKA": self.address}

    async def prepare(self) -> None:
        await jars.download(JARS, self._say)
        data = self.home.directory("kafka/data")
        text = PROPERTIES.format(port=self._port, controller=self._controller, data=data)
        config = self.home.write("kafka/server.properties", text)
        if self.home.read("kafka/formatted"):
            return
        cluster = self.home.remembered("kafka/cluster", _new_cluster)
        java = jars.java(JARS, (*JVM, "-XX:TieredStopAtLevel=1"))
        tool = [*java, "kafka.tools.StorageTool", "format", "--ignore-formatted"]
        code, output = await run([*tool, "-t", cluster, "-c", str(config)])
        if code != 0:
            raise StackError(f"Kafka's storage in {data} could not be formatted:\n{output[-1500:]}")
        self.home.write("kafka/formatted", "yes")

    def command(self) -> list[str]:
        properties = str(self.home.path / "kafka" / "server.properties")
        return [*jars.java(JARS, JVM, makes_archive=True), "kafka.Kafka", properties]

    async def probe(self, settings: Settings) -> None:
        if not self.given:
            await listens("127.0.0.1", self._port)
        admin = AdminClient(client_config(settings, logger=SILENT))
        try:
            await asyncio.to_thread(admin.list_topics, timeout=2.0)
        except KafkaException as error:
            raise StackError(f"no answer: {error.args[0].str()}") from error

    async def start(self, settings: Settings) -> None:
        await super().start(settings)
        await ensure_topics(settings)


def _new_cluster() -> str:
    # Kafka's own form of a UUID; one that begins with a hyphen would be read as an option.
    while (text := base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")).startswith("-"):
        pass
    return text
