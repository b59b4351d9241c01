"""Where threads run that share a short piece of work, on a machine of two cores.

Linux leaves a thread that is woken where its waker runs if only two cores share a cache, so that both take
turns on one core while the other sleeps. Work of a few milliseconds is over before that is put right. So the
threads that help are bound to one core; the thread that they help soon finds itself on the other. With more
cores, or one, nothing is bound.
"""

import os


def helpers_core() -> int | None:
    """Return the core to which threads that help others are bound; None: they are not."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[1] if len(cores) == 2 else None


def bind_helper() -> None:
    """Bind the calling thread, which helps others, and no other thread."""
    core = helpers_core()
    if core is not None:
        os.sched_setaffinity(0, {core})
