"""Grammars as the compiled loop reads them: pages of one table on the device.

Requests in one batch may follow different grammars (a mode, or keys that are fixed already); each has a page. Most
tokens of a vocabulary lead to the same states wherever they stand, so a table has a column for each class of tokens and
not for each token: 100,000 tokens are a few hundred classes. A value that is given as text tells tokens apart by their
spelling: classes are cut in two for it, into columns that are kept free.

Shapes: G pages, S states of a page, N = G * S, J classes of tokens, V columns of the model's head.
"""

import functools
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from anchortrain.data.vocabulary import Vocabulary
from anchortrain.decode.grammar import FORBIDDEN, Grammar, GrammarCompiler, GrammarKey

_SPARE = 256  # columns for classes that are cut


class Tables(NamedTuple):
    """See `Grammar`; a grammar's rows begin at its page, and a state leads to states of the same page."""

    class_V: jax.Array  # int32
    next_state_NJ: jax.Array  # int16
    free_cost_NJ: jax.Array  # uint8, see `Grammar.cost`
    cost_NJ: jax.Array  # uint8, constrained
    value_cost_NJ: jax.Array  # uint8
    characters_V: jax.Array  # int16
    role_N: jax.Array  # uint8
    text_stage_N: jax.Array  # bool
    terminal_N: jax.Array  # bool


class GrammarPool:
    """The pages that requests in flight need, and others that were used lately."""

    def __init__(self, vocabulary: Vocabulary, keys: Sequence[str], *, columns: int, pages: int = 16) -> None:
        """
        Args:
          keys: all keys that requests may ask for; none where no annotation is drawn.
          columns: width of the model's head.
          pages: grammars that may be in flight together.
        """
        compiler = GrammarCompiler(vocabulary, keys, columns)
        self.whole = compiler.grammar("document" if keys else "single_stage", keys)
        self.states = len(self.whole.role)
        self._begun = compiler.begun  # states in which tokens of a class may differ
        # Those in flight are asked for all the time; of others, which may be large, few are kept.
        self._grammar = functools.lru_cache(2 * pages)(lambda key: compiler.grammar(*key))
        self._classes = _classes(self.whole)
        self._columns = len(self._classes[0]) + _SPARE
        self._users: dict[int, int] = dict.fromkeys(range(pages), 0)
        self._forget_cuts()

    def grammar(self, key: GrammarKey) -> Grammar:
        """Raises UserError like `GrammarCompiler.grammar`."""
        return self._grammar(key)

    def take(self, key: GrammarKey) -> int | None:
        """The first row of a grammar's page, for a request, which must give it back; None while all are in use."""
        if key not in self._page:
            grammar, page = self.grammar(key), self._free_page()
            if page is None or (key.begun is not None and not self._tell_apart(grammar)):
                return None
            self._write(page, grammar)
            self._page[key] = page
        self._page.move_to_end(key)
        self._users[self._page[key]] += 1
        return self._page[key] * self.states

    def give_back(self, base: int) -> None:
        """Ends what `take` began; the page stays until it is needed for another grammar."""
        self._users[base // self.states] -= 1

    @property
    def tables(self) -> Tables:
        if self._tables is None:
            # A copy: on a CPU the device would share memory that is written to while programs run.
            self._tables = jax.device_put(jax.tree.map(np.copy, self._host))
        return self._tables

    def _free_page(self) -> int | None:
        unused = next((page for page in self._users if page not in self._page.values()), None)
        if unused is not None:
            return unused
        for key, page in self._page.items():
            if not self._users[page]:
                del self._page[key]
                return page
        return None

    def _tell_apart(self, grammar: Grammar) -> bool:
        """Cuts classes until the tokens of each do the same in `grammar`, too; False while columns are too few."""
        found = _cut(self._first, self._class_V, grammar.next_state[self._begun])
        if len(found[0]) > self._columns:
            if any(self._users.values()):
                return False
            self._forget_cuts()
            found = _cut(self._first, self._class_V, grammar.next_state[self._begun])
            if len(found[0]) > self._columns:
                self._columns = len(found[0])
                self._forget_cuts()
        before, count = self._class_V, len(self._first)
        self._first, self._class_V = found
        of_J = before[self._first[count:]]  # the class that each new one was cut from
        host = self._host
        for array in (host.next_state_NJ, host.free_cost_NJ, host.cost_NJ, host.value_cost_NJ):
            array[:, count : count + len(of_J)] = array[:, of_J]
        host.class_V[:] = self._class_V
        self._tables = None
        return True

    def _forget_cuts(self) -> None:
        """Begins with empty pages. Nobody may be using one."""
        self._first, self._class_V = self._classes
        self._page: OrderedDict[GrammarKey, int] = OrderedDict()  # least lately used first
        rows = len(self._users) * self.states
        self._host = _empty(rows, self._columns, self._class_V.copy(), self.whole.characters)
        self._tables: Tables | None = None

    def _write(self, page: int, grammar: Grammar) -> None:
        rows, host = slice(page * self.states, (page + 1) * self.states), self._host
        for array, values in (
            (host.next_state_NJ, grammar.next_state),
            (host.free_cost_NJ, grammar.cost(constrain=False)),
            (host.cost_NJ, grammar.cost(constrain=True)),
            (host.value_cost_NJ, grammar.value_cost()),
        ):
            array[rows, : len(self._first)] = values[:, self._first]
        for array, values in (
            (host.role_N, grammar.role),
            (host.text_stage_N, grammar.text_stage),
            (host.terminal_N, grammar.terminal),
        ):
            array[rows] = values
        self._tables = None


def _classes(grammar: Grammar) -> tuple[np.ndarray, np.ndarray]:
    """Of each class a token [J], and the class of each token [V]: those that do the same in every state."""
    does_SV = np.concatenate([grammar.next_state, grammar.characters[None]])
    _, first_J, class_V = np.unique(does_SV.T, axis=0, return_index=True, return_inverse=True)
    return first_J, class_V.reshape(-1).astype(np.int32)


def _cut(first_J: np.ndarray, class_V: np.ndarray, rows_SV: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Classes as those given, and further ones after them where tokens of a class differ in some rows of a table."""
    odd = np.flatnonzero((rows_SV != rows_SV[:, first_J[class_V]]).any(axis=0))
    if not len(odd):
        return first_J, class_V
    _, first, of = np.unique(
        np.concatenate([class_V[None, odd], rows_SV[:, odd]]).T, axis=0, return_index=True, return_inverse=True
    )
    cut_V = class_V.copy()
    cut_V[odd] = len(first_J) + of.reshape(-1)
    return np.concatenate([first_J, odd[first]]), cut_V


def _empty(rows: int, classes: int, class_V: np.ndarray, characters_V: np.ndarray) -> Tables:
    return Tables(
        class_V=class_V,
        next_state_NJ=np.full((rows, classes), FORBIDDEN, np.int16),
        free_cost_NJ=np.full((rows, classes), 255, np.uint8),
        cost_NJ=np.full((rows, classes), 255, np.uint8),
        value_cost_NJ=np.zeros((rows, classes), np.uint8),
        characters_V=characters_V,
        role_N=np.zeros(rows, np.uint8),
        text_stage_N=np.zeros(rows, bool),
        terminal_N=np.ones(rows, bool),
    )
