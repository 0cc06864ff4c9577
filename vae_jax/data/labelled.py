"""Few labelled examples among many without a label: which labels are seen, and the labelled rows of each batch.

Both are pure functions of numbers, like the order of the examples, so that no state is saved, and one program trains
models that differ in the draw of their labels.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

from vae_jax import random
from vae_jax.data.order import batch_indices, permute


@dataclasses.dataclass(frozen=True)
class LabelledRows:
    """The labels that training sees: equally many of each class, in the first rows of each batch.

    Attributes:
      count: the number of labelled examples, a multiple of `num_classes`.
      num_classes: C; labels are 0, ..., C - 1.
      share: the fraction of the rows of a batch that is labelled, above 0 and below 1.
      draw: the number of the draw of the labelled examples; it may be known only inside of a compiled program.
    """

    count: int
    num_classes: int
    share: float = 0.5
    draw: int | Array = 0

    @property
    def of_each_class(self) -> int:
        """The number of labelled examples of each class."""
        return self.count // self.num_classes

    def rows(self, batch_size: int) -> int:
        """Return the number of labelled rows of a batch of two rows or more: at least 1, and not all of them."""
        return min(max(round(self.share * batch_size), 1), batch_size - 1)

    def choose(self, y: Array, known: Array | None = None) -> Array:
        """Return the examples whose labels are seen, a uniform choice of those of each class.

        The choice depends on `draw` and the labels alone, not on the seed of the run.

        Args:
          y: labels, int32 [N]. Each class has `of_each_class` examples or more, which is not checked.
          known: which labels are known, bool [N]; None if all are.

        Returns:
          Positions in the data set, int32 [C, count / C], with a row for each class.
        """
        label = y if known is None else jnp.where(known, y, self.num_classes)
        key = jax.random.fold_in(jax.random.key(self.draw), random.LABEL_STREAM)
        order = jnp.lexsort((jax.random.bits(key, label.shape, jnp.uint32), label))
        first = jnp.searchsorted(label[order], jnp.arange(self.num_classes, dtype=label.dtype))  # of each class
        return order[first[:, None] + jnp.arange(self.of_each_class)[None]].astype(jnp.int32)

    def batch_indices(self, key: Array, step: Array, chosen: Array, *, num_examples: int, batch_size: int) -> Array:
        """Return the examples of one step: labelled examples in the first rows, then any examples.

        The classes take turns, so that the numbers of rows of two classes differ by at most one. The examples of a
        class are used in a new random order each time all of them have been used. The other rows are those of
        `vae_jax.data.batch_indices` for batches of the remaining size.

        Args:
          key: the key of the run.
          step: the step, a non-negative integer [].
          chosen: the result of `choose`.
          num_examples: the number N of examples.
          batch_size: the number of rows of a batch.

        Returns:
          Positions in the data set, int32 [batch_size].
        """
        rows = self.rows(batch_size)
        turn = step.astype(jnp.uint32) * rows + jnp.arange(rows, dtype=jnp.uint32)
        label, use = turn % self.num_classes, turn // self.num_classes
        many = self.of_each_class
        order_key = jax.random.fold_in(key, random.LABEL_STREAM)
        keys = random.fold_in(random.fold_in(order_key, use // many), label)  # one for each pass through a class
        place = jax.vmap(lambda key, index: permute(key, index, many))(keys, use % many)
        rest_key, size = jax.random.fold_in(key, random.DATA_STREAM), batch_size - rows
        rest = batch_indices(rest_key, step, num_examples=num_examples, batch_size=size)
        return jnp.concatenate([chosen[label.astype(jnp.int32), place.astype(jnp.int32)], rest])
