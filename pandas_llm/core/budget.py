"""Money set aside before each send, so that a cap is never overshot by more than what is in flight."""

from __future__ import annotations

import math
import threading


class Budget:
    """USD that one call, or all calls under one setting, may spend."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self._committed = 0.0
        self._lock = threading.Lock()

    def reserve(self, amount: float) -> bool:
        """Set `amount` aside; False where the rest doesn't cover it."""
        with self._lock:
            if self._committed + amount > self.limit:
                return False
            self._committed += amount
            return True

    def settle(self, reserved: float, spent: float) -> None:
        """Replace a reservation by what it came to; an unknown price keeps the reservation."""
        if not math.isnan(spent):
            with self._lock:
                self._committed += spent - reserved

    @property
    def left(self) -> float:
        """USD not spent and not set aside."""
        return self.limit - self._committed
