"""Gate: the verdict of `overfit`, and what is likely wrong where it is bad."""

from __future__ import annotations

from dataclasses import dataclass

LOSS = 0.01  # nats a response token: less is known by heart

_LEAKS = (
    "answers come out right though the sound is another's: something but the sound gives them away. The attention "
    "mask lets tokens be seen before they are said, or what is heard depends on the place in the batch"
)
_DECODES_OTHERWISE = (
    "the loss is low, but decoding says something else: generation does not see what training saw. Padding at the "
    "left, positions, or the token that ends a turn are likely; or training sees what it is to say"
)
_DEAF = (
    "it makes no difference whose sound a row has: the sound is ignored. The adapter's output is not where the "
    "placeholders are, it is masked, its scale is far from the embeddings', or the encoder's frames are all alike"
)
_SLOW = "it listens, but learns too slowly: raise `learning_rate` or --steps; if the loss jumps, lower the rate"
_UNTRAINED = "no gradient reaches the adapter: see that `trains` names it, and that nothing detaches its output"


@dataclass(frozen=True)
class Gate:
    """What was measured."""

    rows: int
    steps: int
    seconds: float
    loss: float
    exact: int
    """Rows whose answer was decoded letter by letter."""
    shuffled_loss: float
    """Of the trained model, where each row hears another's sound."""
    shuffled_exact: int
    control_loss: float
    """Least mean over ten steps of the training on shuffled pairs."""
    control_exact: int
    gradient: float
    """Norm of the adapter's gradient in the first step; of all that trains, where there is no adapter."""
    answers: tuple[tuple[str, str], ...]
    """Reference and what was decoded, of each row."""

    @property
    def learns(self) -> bool:
        """Whether it learnt the rows."""
        return self.loss < LOSS and self.exact == self.rows

    @property
    def listens(self) -> bool:
        """Whether it did so by what it heard."""
        return not self.shuffled_exact and self.control_loss > LOSS and self.control_exact <= self.rows // 4

    @property
    def passed(self) -> bool:
        """Whether the gate is open."""
        return self.learns and self.listens

    @property
    def hint(self) -> str:
        """What is likely wrong; empty where nothing is."""
        if self.passed:
            return ""
        if not self.gradient:
            return _UNTRAINED
        if self.learns:
            return _LEAKS
        if self.loss < LOSS:
            return _DECODES_OTHERWISE
        # Whose sound it is makes no difference.
        return _DEAF if self.shuffled_loss < 1.2 * self.loss else _SLOW
