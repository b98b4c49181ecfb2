"""Queues of their own, and tasks that are to run at most once."""

import signal

import msgspec
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from mayfly.adapters.kafka import client_config, dispatcher_group, ensure_topics, lane_topic
from mayfly.function import Function
from mayfly.settings import Settings
from mayfly.task import FailureType, Lane, Status
from tests.e2e.conftest import Fleet, deployed, eventually


async def test_a_task_runs_on_a_dispatcher_of_its_queue(
    fleet: Fleet, sleeper: Function, sleeper_image: Function
) -> None:
    own = f"{fleet.settings.queue}-gpu"
    await ensure_topics(fleet.settings.model_copy(update={"queue": own}))
    function = msgspec.structs.replace(sleeper_image, name="sleeper-gpu", queue=own)
    async with deployed(fleet, function):
        client = fleet.gateway()
        fleet.dispatchers(1)
        fleet.start("dispatcher", MAYFLY_QUEUE=own).until_up()
        both = {own, fleet.settings.queue}
        eventually(lambda: both <= {worker.queue for worker in client.workers()}, "both are seen")
        queues = {worker.id: worker.queue for worker in client.workers()}
        task = client.submit("sleeper-gpu", {"index": 1, "seconds": 0})
        ended = client.wait(task.task_id, timeout=240)
        assert (ended.status, ended.queue) == (Status.COMPLETED, own)
        assert queues[ended.dispatcher or ""] == own
        # The request says another queue than the function does.
        task = client.submit("sleeper-gpu", {"index": 2, "seconds": 0}, queue=fleet.settings.queue)
        ended = client.wait(task.task_id, timeout=240)
        assert (ended.status, ended.queue) == (Status.COMPLETED, fleet.settings.queue)
        assert queues[ended.dispatcher or ""] == fleet.settings.queue


async def test_a_task_that_is_not_to_be_redelivered_fails_with_its_dispatcher(
    fleet: Fleet, sleeper: Function
) -> None:
    client = fleet.gateway()
    [first] = fleet.dispatchers(1)
    task_id = client.submit(sleeper.name, {"index": 0, "seconds": 600}, redeliver=False).task_id
    eventually(lambda: client.get(task_id).status is Status.IN_PROGRESS, "it runs")
    first.signal(signal.SIGKILL)
    first.exit_code()
    fleet.start("dispatcher").until_up()
    task = client.wait(task_id, timeout=240)
    assert task.status is Status.FAILED
    assert task.error is not None
    assert task.error.type == FailureType.LOST


async def test_what_waits_in_a_lane_is_the_lag_of_the_dispatchers_group(
    fleet: Fleet, sleeper: Function
) -> None:
    client = fleet.gateway()
    [dispatcher] = fleet.dispatchers(1)
    for index in range(3):
        task = client.submit(sleeper.name, {"index": index, "seconds": 0})
        assert client.wait(task.task_id, timeout=240).status is Status.COMPLETED
    eventually(lambda: lag(fleet.settings, Lane.NORMAL) == 0, "nothing waits")
    dispatcher.signal(signal.SIGTERM)
    dispatcher.exit_code()
    for index in range(2):
        client.submit(sleeper.name, {"index": index, "seconds": 0})
    assert lag(fleet.settings, Lane.NORMAL) == 2
    fleet.start("dispatcher").until_up()
    eventually(lambda: lag(fleet.settings, Lane.NORMAL) == 0, "nothing waits again")


def lag(settings: Settings, lane: Lane) -> int:
    """As a monitoring tool has it: over all partitions, how far behind its end the group is."""
    admin = AdminClient(client_config(settings))
    topic = lane_topic(settings.queue, lane)
    places = [TopicPartition(topic, number) for number in range(settings.partitions)]
    group = ConsumerGroupTopicPartitions(dispatcher_group(settings.queue), places)
    committed = admin.list_consumer_group_offsets([group])[group.group_id].result(60).topic_partitions
    ends = admin.list_offsets(dict.fromkeys(places, OffsetSpec.latest()))
    return sum(end.result(60).offset for end in ends.values()) - sum(max(one.offset, 0) for one in committed)
