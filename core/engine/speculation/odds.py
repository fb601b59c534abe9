"""Odds that drafts come true, learned from how the job's outputs go on, and the odds at which a row for one pays.

Neither has a say in what is drawn, so here, where nothing else may, decisions depend on the clock.
"""

from __future__ import annotations

#: Pasts that are told apart, in tokens; longer ones count as the last.
_LONGEST = 24
#: Draws after which what was learned before counts half.
_MEMORY = 256
#: The guess of a start counts as so many draws.
_GUESS = 2.0


class Odds:
    """The share of drafted tokens that came true, by the number of tokens before them that stood as they did where they come from."""

    def __init__(self) -> None:
        self._came = [0.0] * (_LONGEST + 1)
        self._seen = [0.0] * (_LONGEST + 1)

    def of(self, past: int) -> float:
        """Above 0 and below 1."""
        place = min(past, _LONGEST)
        guess = (place + 1) / (place + 2)
        return (self._came[place] + _GUESS * guess) / (self._seen[place] + _GUESS)

    def saw(self, past: int, came_true: bool) -> None:
        """Counts one token."""
        place = min(past, _LONGEST)
        self._came[place] += came_true
        self._seen[place] += 1
        if self._seen[place] >= _MEMORY:
            self._came[place] /= 2
            self._seen[place] /= 2

    def worth(self, past: int, most: int, price: float) -> int:
        """The number of tokens in a row, at most `most`, each of which comes true with odds of at least `price` (0 to 1)."""
        odds, number = 1.0, 0
        while number < most:
            odds *= self.of(past + number)
            if odds < price:
                break
            number += 1
        return number


#: Share of a step of one row that a further row takes, until steps are measured, and the bounds of what is believed.
_SHARE, _LEAST, _MOST = 0.04, 0.004, 0.5
#: Steps after which one that was measured counts half, about.
_FORGET = 0.98
#: Steps of more rows are another part of the curve.
_MOST_ROWS = 64


class Price:
    """The time of a step by its rows: a part that every step takes, and one that each row adds; a straight line through recent ones."""

    def __init__(self) -> None:
        self._sums = (0.0, 0.0, 0.0, 0.0, 0.0)  # 1, x, y, xx, xy

    def measured(self, rows: int, seconds: float) -> None:
        """Counts a step of so many rows, none of them of a prompt."""
        if rows > _MOST_ROWS:
            return
        new = (1.0, float(rows), seconds, float(rows * rows), rows * seconds)
        self._sums = tuple(_FORGET * old + one for old, one in zip(self._sums, new, strict=True))  # type: ignore[assignment]

    @property
    def share(self) -> float:
        """The time that one more row adds to a step, divided by the time of a step with no rows (the constant part of the fit)."""
        n, x, y, xx, xy = self._sums
        spread = n * xx - x * x
        if n < 8 or spread < n * n:  # too few, or all of about as many rows
            return _SHARE
        row = (n * xy - x * y) / spread
        rest = (y - row * x) / n
        return _MOST if rest <= 0 else min(max(row / rest, _LEAST), _MOST)

    def least_odds(self, num_drawing: int) -> float:
        """The odds from which on a draft shortens the whole, where so many sequences draw: if it comes true it saves its part of a step,
        if not it has cost a row."""
        row = self.share * num_drawing
        return row / (1 + row)
