"""The deferred topic as its owner reads it: what is believed, what is judged, and how far all is settled."""

from hypothesis import given
from hypothesis import strategies as st

from dispatcher.records import Records, Restored, Stale, Verdict
from dispatcher.waiting import Waiting
from mayfly.events import DeferredRecord, Reason
from mayfly.task import Envelope, Lane, Origin, encode

ORIGIN = Origin(Lane.NORMAL, 0, 0)


def value(task: str, fence: int = 0) -> bytes:
    return encode(DeferredRecord(Envelope("f", task, origin=ORIGIN), fence, 1, Reason.RETRY))


def yes(_: Waiting) -> bool:
    return True


def no(_: Waiting) -> bool:
    return False


def backs(_: Waiting) -> Verdict:
    return Verdict.BACKS


def loaded(vouched: int = 0) -> Records:
    records = Records(vouched)
    records.load()
    return records


def restored(what: Restored | None) -> tuple[str, str | None]:
    assert what is not None
    return what.task_id, what.waiting.key if what.waiting else None


def test_a_record_that_is_vouched_for_is_restored_as_it_is_read() -> None:
    records = Records(vouched=1)
    assert restored(records.read(0, "k", value("a"))) == ("a", "k")
    assert records.read(1, "late", value("b")) is None


def test_a_record_that_goes_before_the_end_is_nobodys_state() -> None:
    records = Records(vouched=2)
    records.read(0, "k", value("a"))
    assert restored(records.read(1, "k", None)) == ("a", None)
    records.load()
    records.reached(2)
    assert records.settled == 2
    assert not records.some_stale


def test_of_two_that_are_vouched_for_the_later_wait_is_the_state_whichever_comes_first() -> None:
    for order in ((3, 5), (5, 3)):
        records = Records(vouched=2)
        for offset, fence in enumerate(order):
            told = records.read(offset, f"k{fence}", value("a", fence))
        assert restored(told) == ("a", "k5")
        records.load()
        records.judge(10, no)
        records.before_commit()
        assert records.after_commit() == [Stale("k3", "a")]


def test_the_earlier_one_is_the_state_again_if_the_later_one_goes() -> None:
    records = Records(vouched=3)
    records.read(0, "k3", value("a", 3))
    records.read(1, "k5", value("a", 5))
    assert restored(records.read(2, "k5", None)) == ("a", "k3")


def test_what_is_no_record_is_passed_over() -> None:
    records = Records(vouched=5)
    no_origin = encode(DeferredRecord(Envelope("f", "a"), 0, 1, Reason.RETRY))
    for offset, garbage in enumerate([b"", b"{", b"[]", no_origin]):
        assert records.read(offset, f"k{offset}", garbage) is None
    records.load()
    assert records.settled == 5


def test_what_is_read_again_makes_no_difference() -> None:
    records = loaded()
    records.read(0, "k", value("a"))
    records.read(0, "k", None)
    assert records.settled == 0


def test_a_record_that_backs_its_task_is_settled() -> None:
    records = loaded()
    records.read(0, "k", value("a"))
    records.judge(1, yes)
    assert records.settled == 0
    records.settle(backs)
    assert records.settled == 1


def test_a_record_backs_its_task_only_when_those_before_it_are_settled() -> None:
    records = loaded()
    records.read(0, "stale", value("b"))
    records.read(1, "k", value("a"))
    records.judge(1, lambda waiting: waiting.task_id == "a")
    backed: list[str] = []

    def back(waiting: Waiting) -> Verdict:
        backed.append(waiting.task_id)
        return Verdict.BACKS

    records.settle(back)
    assert (backed, records.settled) == ([], 0)
    records.gone("stale")
    records.settle(back)
    assert (backed, records.settled) == (["a"], 2)


def test_a_record_that_may_not_back_its_task_yet_holds_those_behind_it() -> None:
    records = loaded()
    records.read(0, "k", value("a"))
    records.judge(1, yes)
    records.settle(lambda _: Verdict.WAITS)
    assert records.settled == 0
    records.settle(backs)
    assert records.settled == 1


def test_a_record_whose_task_went_on_meanwhile_is_stale() -> None:
    records = loaded()
    records.read(0, "k", value("a"))
    records.judge(1, yes)
    records.settle(lambda _: Verdict.STALE)
    records.before_commit()
    assert records.after_commit() == [Stale("k", "a")]
    assert records.settled == 0


def test_a_good_record_is_known_whatever_becomes_of_another_of_its_task() -> None:
    """Or its owner would write one more."""
    records = loaded()
    for offset, (key, fence) in enumerate([("before", 0), ("good", 1), ("copy", 1)]):
        records.read(offset, key, value("a", fence))
    records.judge(2, yes)
    records.settle(lambda waiting: Verdict.WAITS if waiting.fence else Verdict.STALE)
    assert records.is_to_back("a", 1)
    records.gone("copy")
    assert records.is_to_back("a", 1)
    records.gone("good")
    assert not records.is_to_back("a", 1)


def test_a_record_is_judged_once_the_fold_has_come_to_its_fence() -> None:
    records = loaded()
    records.read(0, "k", value("a", fence=7))
    records.judge(7, no)
    assert not records.some_stale
    records.judge(8, no)
    assert records.some_stale


def test_what_is_stale_goes_after_a_commit_that_began_later_and_is_not_asked_for_twice() -> None:
    records = loaded()
    records.before_commit()
    records.read(0, "k", value("a"))
    records.judge(1, no)
    assert records.after_commit() == []
    records.before_commit()
    # That one failed.
    records.before_commit()
    assert records.after_commit() == [Stale("k", "a")]
    records.before_commit()
    assert records.after_commit() == []
    assert not records.some_stale


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans())),
    st.integers(0, 8),
    st.data(),
)
def test_settled_never_goes_back_and_passes_nothing_that_is_not(
    written: list[tuple[str, int, bool]], vouched: int, data: st.DataObject
) -> None:
    records, before, judged = Records(vouched), vouched, set[str]()

    def back(waiting: Waiting) -> Verdict:
        judged.add(waiting.key)
        return Verdict.BACKS

    load_at = data.draw(st.integers(0, len(written)))
    there: dict[str, int] = {}
    for offset, (task, fence, is_there) in enumerate(written):
        if offset == load_at:
            records.reached(max(offset, vouched))
            records.load()
        key = f"{task}{fence}"
        records.read(offset, key, value(task, fence) if is_there else None)
        there.pop(key, None)
        if is_there:
            there[key] = offset
        if records.loaded and data.draw(st.booleans()):
            end = data.draw(st.integers(0, 4))
            backing = data.draw(st.booleans())
            records.judge(end, lambda _, backing=backing: backing)
            records.settle(back)
        assert records.settled >= before
        before = records.settled
        if records.loaded:
            passed = {key for key, at in there.items() if vouched <= at < records.settled}
            assert passed <= judged
