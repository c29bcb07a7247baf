"""Dynamic loss scaling for fp16 (Micikevicius et al. 2018, section 3.2)."""


class LossScale:
    """The factor that keeps small gradients above fp16's smallest number: halved when gradients
    overflow, doubled after `growth_interval` updates in which they did not."""

    def __init__(self, initial: float = 2.0**16, growth_interval: int = 2000):
        self.value = initial
        self._growth_interval = growth_interval
        self._good_updates = 0

    def update(self, finite: bool) -> bool:
        """Adapt to an update whose gradients were finite or not. Says whether the scale was lowered
        for it: that is how it finds its size, and no fault of the data."""
        if finite:
            self._good_updates += 1
            if self._good_updates == self._growth_interval:
                self._good_updates = 0
                self.value = min(2 * self.value, _LARGEST)
            return False
        self._good_updates = 0
        gives_way = self.value > _SMALLEST
        self.value = max(self.value / 2, _SMALLEST)
        return gives_way

    def state(self) -> dict[str, float]:
        """For a checkpoint."""
        return {"value": self.value, "good_updates": self._good_updates}

    def load_state(self, state: dict[str, float]) -> None:
        """Go on from what `state` gave.

        Raises:
            ValueError: it is none.
        """
        value, good_updates = state["value"], state["good_updates"]
        if not (isinstance(value, float) and _SMALLEST <= value <= _LARGEST):
            raise ValueError(f"its loss scale is {str(value)[:100]}")
        if type(good_updates) is not int or not 0 <= good_updates < self._growth_interval:
            raise ValueError(f"its loss scale's good updates are {str(good_updates)[:100]}")
        self.value, self._good_updates = value, good_updates


_SMALLEST, _LARGEST = 2.0**-14, 2.0**24
