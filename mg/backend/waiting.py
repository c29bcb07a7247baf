"""How a CPU's threads wait for one another."""

import os

_SPINS = "5000"


def rest_while_waiting() -> None:
    """Have threads of PyTorch that wait soon leave their core to others; to be called before
    PyTorch is imported.

    The OpenMP of GCC, which PyTorch comes with on Linux, has a thread look for what it waits for
    300,000 times in a row, some milliseconds, before it sleeps. If another program keeps a core
    busy, two threads may share one that is left, each looking in the time in which the other could
    compute: a network then takes several times as long (docs/performance.md#beside-other-programs).
    What a person has set stands.
    """
    if not os.environ.keys() & {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}:
        os.environ["GOMP_SPINCOUNT"] = _SPINS
