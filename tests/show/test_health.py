"""A healthy game, one that is won and one that sleeps are told apart."""

import numpy as np
import pytest

from minivim import show
from minivim.tokenizer.objective import LOGIT_BINS
from minivim_lab.health import gan_health, gan_verdict, quantiles


def rows(real: float, fake: float, count: int = 10) -> list[dict]:
    """A run whose discriminator ends right on these shares."""
    found = []
    for i in range(count):
        counts = np.zeros(LOGIT_BINS, int)
        counts[10 + i // 2] = 8
        row = {"step": 20 * (i + 1), "right_on_real": real, "right_on_fake": fake}
        row |= {"logits_real": counts.tolist(), "logits_fake": counts[::-1].tolist()}
        row |= {"grad_norm_l2": 1e-3, "grad_norm_adversarial": 2e-4 * (i + 1)}
        found.append(row | ({"r1": 0.1 * i} if i % 2 else {}))
    return found


@pytest.mark.parametrize(
    ("real", "fake", "word"),
    [(0.7, 0.8, "healthy"), (1.0, 0.97, "winning"), (1.0, 0.05, "sleeping")],
)
def test_verdict(real, fake, word):
    assert gan_verdict(rows(real, fake)).startswith(f"{word}: right on {real:.0%}")


def test_the_verdict_is_of_the_end():
    assert gan_verdict(rows(1, 1)[:8] + rows(0.7, 0.7)[8:]).startswith("healthy")


def test_rows_of_a_run_without_adversary_are_refused():
    with pytest.raises(ValueError, match=r"loss\.adversarial above zero"):
        gan_health([{"step": 1, "loss": 2.0}])


def test_the_picture_says_its_numbers():
    plot = gan_health(rows(0.7, 0.8))
    assert "after 200 steps healthy: right on 70% of real" in plot.alt
    assert "l2 0.001, adversarial 0.002" in plot.alt
    assert show.to_png(plot) == show.to_png(gan_health(rows(0.7, 0.8)))


def test_quantiles_of_a_histogram():
    counts = np.zeros(LOGIT_BINS, int)
    counts[10] = 4  # logits from 0 to 0.5
    counts = counts.tolist()
    found = quantiles(counts, (0.25, 0.5, 0.75))
    assert found == pytest.approx([0.125, 0.25, 0.375])
