"""Choices of a story: drawn by a seed, kept page by page, and made smaller when it went wrong.

A choice is a number below a bound, and 0 is always the simplest. A story is told again from its
pages; whatever these leave open is 0. So any pages tell some story, and a story is made smaller by
taking pages out and numbers down.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")
Pages = list[list[int]]


class Choices:
    """One source of choices for a whole story."""

    def __init__(
        self, seed: int | str | None, pages: Sequence[Sequence[int]] | None = None
    ) -> None:
        """With `pages` those are read, and nothing is drawn."""
        self._chance = random.Random(seed)
        self._given = pages
        self._reading: Iterator[int] = iter(())
        #: All that was chosen.
        self.pages: Pages = []

    def turn_page(self) -> bool:
        """Begins the next step. False: the pages that were given are at their end."""
        if self._given is not None:
            if len(self.pages) >= len(self._given):
                return False
            self._reading = iter(self._given[len(self.pages)])
        self.pages.append([])
        return True

    def below(self, bound: int) -> int:
        """A number from 0 to below a bound."""
        if bound <= 1:
            return 0
        if self._given is None:
            chosen = self._chance.randrange(bound)
        else:
            chosen = next(self._reading, 0) % bound
        self.pages[-1].append(chosen)
        return chosen

    def one(self, options: Sequence[T]) -> T:
        """One of them; the first is the simplest, and may come more than once to be likelier."""
        return options[self.below(len(options))]

    def happens(self, percent: int) -> bool:
        """Whether something happens that is so likely. Simplest is that it does not."""
        return self.below(100) >= 100 - percent

    def some(self, options: Sequence[T], most: int) -> list[T]:
        """Some of them, each once, in their order: at most so many."""
        wanted = self.below(min(most, len(options)) + 1)
        left = list(options)
        taken = [left.pop(self.below(len(left))) for _ in range(wanted)]
        return [one for one in options if one in taken]

    def weighted(self, options: Sequence[tuple[int, T]]) -> T:
        """One of them by weight."""
        place = self.below(sum(weight for weight, _ in options))
        for weight, option in options:
            if place < weight:
                return option
            place -= weight
        raise AssertionError("the weights have a sum that is not theirs")


def shrunk(pages: Pages, fails: Callable[[Pages], Pages | None], attempts: int) -> Pages:
    """Smaller pages that still fail. `fails` gives those that were really read, or None."""
    tries = _Tries(pages, fails, attempts)
    before: Pages | None = None
    while before != tries.best and tries.left > 0:
        before = [list(page) for page in tries.best]
        _without_pages(tries)
        _with_less_on_them(tries)
    return tries.best


class _Tries:
    def __init__(self, pages: Pages, fails: Callable[[Pages], Pages | None], attempts: int) -> None:
        self.best = pages
        self.left = attempts
        self._fails = fails

    def take(self, pages: Pages) -> bool:
        """Whether it still fails like that; then it is the best so far."""
        if self.left <= 0 or _size(pages) >= _size(self.best):
            return False
        self.left -= 1
        read = self._fails(pages)
        if read is None:
            return False
        self.best = read if _size(read) < _size(pages) else pages
        return True


def _size(pages: Pages) -> tuple[int, int, int]:
    numbers = [number for page in pages for number in page]
    return len(pages), len(numbers), sum(numbers)


def _without_pages(tries: _Tries) -> None:
    chunk = max(1, len(tries.best) // 2)
    while chunk:
        begin = len(tries.best) - chunk
        while begin >= 1 and tries.left > 0:
            # The first page says what there is, and stays.
            tries.take(tries.best[:begin] + tries.best[begin + chunk :])
            begin -= chunk
        chunk //= 2


def _with_less_on_them(tries: _Tries) -> None:
    page = 0
    while page < len(tries.best) and tries.left > 0:
        place = len(tries.best[page]) - 1
        while place >= 0 and tries.left > 0:
            _lower(tries, page, place)
            place -= 1
            if page >= len(tries.best):
                return
            place = min(place, len(tries.best[page]) - 1)
        page += 1


def _lower(tries: _Tries, page: int, place: int) -> None:
    numbers = tries.best[page]
    without = numbers[:place] + numbers[place + 1 :]
    for fewer in (numbers[:place], without):
        if tries.take([*tries.best[:page], fewer, *tries.best[page + 1 :]]):
            return
    step = numbers[place]
    while step:
        # Closer and closer to what it is, as long as that does it.
        numbers = tries.best[page]
        changed = [*numbers[:place], numbers[place] - step, *numbers[place + 1 :]]
        if not tries.take([*tries.best[:page], changed, *tries.best[page + 1 :]]):
            step //= 2
        if page >= len(tries.best) or place >= len(tries.best[page]):
            return
        step = min(step, tries.best[page][place])
