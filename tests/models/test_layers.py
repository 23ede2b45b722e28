"""The product of a projection: the same gradients by every backend's own form of them."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flan_train.models import layers

X, KERNEL = jax.random.normal(jax.random.key(0), (3, 5, 7)), jnp.arange(28.0).reshape(7, 4) / 9


def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(layers.product(x, kernel)))


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jnp.sum(jnp.sin(jnp.einsum("bli,io->blo", x, kernel)))


def test_gradients_are_those_of_the_plain_product() -> None:
    found, expected = (jax.jit(jax.grad(f, (0, 1)))(X, KERNEL) for f in (loss, plain))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_every_form_of_the_kernel_s_gradient_gives_the_same() -> None:
    grad = jax.random.normal(jax.random.key(1), (3, 5, 4))
    expected = np.einsum("bli,blo->io", X, grad)
    for form in (layers._across, layers._as_it_stands):
        np.testing.assert_allclose(form(X, grad), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("platform", "batch_dims"), [("cpu", 1), ("cuda", 2), ("tpu", 2)])
def test_each_platform_gets_one_form_alone(platform: str, batch_dims: int) -> None:
    gradients = jax.jit(jax.grad(loss, (0, 1)))
    lowered = jax.export.export(gradients, platforms=[platform])(X, KERNEL).mlir_module()
    # The product itself, and one gradient for each operand.
    assert len(re.findall(r"= stablehlo\.dot_general", lowered)) == 3
    summed = ", ".join(str(place) for place in range(batch_dims))
    assert f"contracting_dims = [{summed}] x [{summed}]" in lowered
