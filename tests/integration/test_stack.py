from mayfly.adapters.kafka import Log, ensure_topics, events_topic
from mayfly.adapters.redis import ReadModel
from mayfly.adapters.s3 import Blobs
from mayfly.settings import Settings


async def test_the_parts_answer_in_their_own_protocols(settings: Settings) -> None:
    await ensure_topics(settings)
    log = Log(settings)
    await log.start()
    appended = await log.append(events_topic(settings.queue), b"{}", partition=3)
    assert (appended.partition, appended.offset) == (3, 0)
    await log.close()
    model = ReadModel(settings)
    await model.ping()
    await model.close()
    await Blobs(settings).ping()
