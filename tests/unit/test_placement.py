"""Where commands go, and who has how much of a limit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mayfly.placement import Limit, limit_of, murmur2, partition_of
from mayfly.task import Envelope


# From Kafka's own tests: clients/src/test/java/org/apache/kafka/common/utils/UtilsTest.java
@pytest.mark.parametrize(
    ("data", "hash"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(data: bytes, hash: int) -> None:
    assert murmur2(data) == hash & 0xFFFFFFFF


@given(st.text(min_size=1), st.integers(1, 40), st.integers(1, 24))
def test_the_shares_of_a_limit_are_the_limit(group: str, most: int, count: int) -> None:
    limit = Limit(group, most)
    own = limit.partitions(count)
    assert len(set(own)) == len(own) == min(most, count)
    assert sum(limit.share(partition, count) for partition in own) == most


@given(st.uuids(), st.integers(1, 8), st.integers(1, 8))
def test_a_limited_task_goes_where_its_limit_has_a_share(task: object, most: int, count: int) -> None:
    envelope = Envelope(task_type="f", task_id=str(task), concurrency_key="k")
    limit = limit_of("f", most, "k")
    assert limit is not None
    assert partition_of(envelope, most, count) in limit.partitions(count)


def test_a_key_without_a_limit_of_its_function_runs_one_at_a_time() -> None:
    assert limit_of("f", None, "k") == Limit("f/k", 1)
    assert limit_of("f", 4, "k") == Limit("f/k", 4)
    assert limit_of("f", 4, None) == Limit("f", 4)
    assert limit_of("f", None, None) is None


def test_the_same_key_of_two_tenants_is_two_keys() -> None:
    assert limit_of("f", 2, "k") == Limit("f/k", 2)
    assert limit_of("f", 2, "k", "acme") == Limit("acme@f/k", 2)
    assert limit_of("f", 2, None, "acme") == limit_of("f", 2, None)
