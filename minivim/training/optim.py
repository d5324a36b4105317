"""Optimizer and learning-rate schedules of both stages (paper sections 5.1, 5.2)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from minivim.config import OptimConfig
from minivim.training.factored import scale_by_factored_adam

# For the whole model, or for its parts by name; or any transformation of optax.
Optim = OptimConfig | dict[str, OptimConfig] | optax.GradientTransformation


# Paper, section 5.1: warm-up over 50k steps, then a cosine to 5e-5
# Paper, section 5.2: constant to step 80k, then exponential to 1e-5
def learning_rate(config: OptimConfig, *, steps: int) -> optax.Schedule:
    """Linear warm-up to `peak_lr`, then constant, cosine or exponential.

    Both decays begin at `decay_start` = s, or at the end of the warm-up, and reach
    `final_lr` at `decay_end` = e, or at the last step. Stage 1: cosine. Stage 2:
    exponential, `peak (final / peak)^((t - s)/(e - s))`.
    """
    warmup = optax.linear_schedule(0.0, config.peak_lr, max(config.warmup_steps, 1))
    start = max(config.warmup_steps, config.decay_start)
    left = max((config.decay_end or steps) - start, 1)
    ratio = config.final_lr / config.peak_lr
    peak, hold = config.peak_lr, optax.constant_schedule(config.peak_lr)
    after = hold
    if config.schedule == "cosine":
        after = optax.cosine_decay_schedule(peak, left, alpha=ratio)
    elif config.schedule == "exponential":
        after = optax.exponential_decay(peak, left, ratio, end_value=config.final_lr)
    return optax.join_schedules([warmup, hold, after], [config.warmup_steps, start])


# Paper silent, section 5.1: weight decay for matrices only
def decays(params: Any) -> Any:
    """True where weight decay applies: matrices, not biases, norms or tables."""
    return jax.tree.map_with_path(
        lambda path, _: any(getattr(p, "key", None) == "kernel" for p in path), params
    )


# Paper, section 5.1: weight decay 1e-4, decoupled
def optimizer(config: Optim, *, steps: int) -> optax.GradientTransformation:
    """AdamW with the recipe's schedule and moments, clipped by global norm if asked.

    Each named part gets its own, clipped by its own norm; one of optax stays as it is.
    """
    if isinstance(config, optax.GradientTransformation):
        return config
    if isinstance(config, dict):
        return optax.partition(
            {name: optimizer(one, steps=steps) for name, one in config.items()},
            lambda params: jax.tree.map_with_path(lambda path, _: path[0].key, params),
        )
    rate = learning_rate(config, steps=steps)
    if config.second_moment == "full" and config.first_moment != "int8":
        # None is the type of the parameters: float64 where a test asks for it.
        kind = None if config.first_moment == "float32" else jnp.bfloat16
        scale = optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=kind)
    else:
        names = ("first_moment", "second_moment")
        moments: Any = {name: getattr(config, name) for name in names}
        scale = scale_by_factored_adam(config.b1, config.b2, config.eps, **moments)
    decay = optax.add_decayed_weights(config.weight_decay, decays)
    adamw = optax.chain(scale, decay, optax.scale_by_learning_rate(rate))
    if not config.clip_norm:
        return adamw
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), adamw)
