import signal
import threading

import pytest

from recsys.stop import SIGNALS, Stop


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_what_is_armed_and_waits_elsewhere(number: int) -> None:
    before, stop, closed = [signal.getsignal(one) for one in SIGNALS], Stop(), []

    def work() -> None:
        with stop.armed():
            try:
                signal.raise_signal(number)
            finally:
                signal.raise_signal(number)  # again, while things are closed
                closed.append(True)

    with stop.listening():
        with pytest.raises(SystemExit) as end:
            work()
        assert (end.value.code, closed) == (128 + number, [True])
        signal.raise_signal(number)
        with pytest.raises(SystemExit):
            stop.check()
        with pytest.raises(SystemExit), stop.armed():
            closed.append(False)
    assert closed == [True]
    assert [signal.getsignal(one) for one in SIGNALS] == before


def test_other_threads_leave_signals_alone() -> None:
    seen = []

    def listen() -> None:
        with Stop().listening():
            seen.append([signal.getsignal(one) for one in SIGNALS])

    before = [signal.getsignal(one) for one in SIGNALS]
    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [before]
