"""Hand-written specs of other projects agree with what is discovered."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from symmetry_networks import NHWC, array, case, mlp, relu

from metanet import symmetry as sym
from metanet.errors import MetanetError


def residual(p, x):
    def conv(x, w):
        return jax.lax.conv_general_dilated(
            x, w, (1, 1), "SAME", dimension_numbers=NHWC
        )

    x = relu(conv(x, p["stem"]))
    x = x + conv(relu(conv(x, p["a"])), p["b"])
    return relu(x).mean((1, 2)) @ p["o"]


def recurrent(p, xs):
    step = lambda h, x: (jnp.tanh(x @ p["wi"] + h @ p["wh"]), None)
    return jax.lax.scan(step, jnp.zeros((xs.shape[1], 4)), xs)[0] @ p["o"]


CASES = {
    "mlp": (
        case(mlp, 0, {}, w1=(3, 4), b1=(4,), w2=(4, 5), b2=(5,), o=(5, 2)),
        {"w1": (None, "A"), "b1": ("A",), "w2": ("A", "B"), "b2": ("B",),
         "o": ("B", None)},
    ),
    "residual": (
        case(residual, 0, {}, (2, 4, 4, 2), stem=(3, 3, 2, 4), a=(3, 3, 4, 3),
             b=(3, 3, 3, 4), o=(4, 2)),
        {"stem": (None, None, None, "A"), "a": (None, None, "A", "B"),
         "b": (None, None, "B", "A"), "o": ("A", None)},
    ),
    "recurrent": (
        case(recurrent, 0, {}, (5, 2, 3), wi=(3, 4), wh=(4, 4), o=(4, 2)),
        {"wi": (None, "A"), "wh": ("A", "A"), "o": ("A", None)},
    ),
}  # fmt: skip


def renamed(spec):
    """A spec with permutations named in order of appearance, by path."""
    names: dict = {}
    return {
        path: tuple(n and names.setdefault(n, len(names) + 1) for n in spec[path])
        for path in sorted(spec)
    }


@pytest.mark.parametrize("name", CASES)
def test_discovery_finds_the_hand_written_spec(name):
    network, spec = CASES[name]
    found = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert renamed(sym.to_rebasin(found)) == renamed(spec)
    # Acting through either description is the same.
    other = sym.from_rebasin(sym.to_rebasin(found), network.params)
    assert other.order == found.order
    integers, fixed = sym.to_unf(found, network.params)
    third = sym.from_unf(integers, network.params, fixed)
    assert renamed(sym.to_rebasin(third)) == renamed(spec)
    permutations = [np.random.default_rng(0).permutation(g.degree)[None]
                    for g in found.groups]  # fmt: skip

    def moved(symmetry):
        held = {symmetry.axes_of(g.atoms)[0]: i for i, g in enumerate(symmetry.groups)}
        chosen = [None] * len(permutations)
        for g, p in zip(found.groups, permutations, strict=True):
            chosen[held[found.axes_of(g.atoms)[0]]] = jnp.asarray(p)
        element = sym.identity(symmetry)._replace(permutations=tuple(chosen))
        return sym.act(symmetry, element, network.params)

    for symmetry in (other, third):
        for a, b in zip(
            *(jax.tree.leaves(moved(s)) for s in (found, symmetry)), strict=True
        ):
            np.testing.assert_array_equal(a, b)


def test_a_spec_is_checked_against_the_network():
    network, spec = CASES["residual"]
    right = sym.from_rebasin(spec, network.params)
    sym.check(right, network.apply_fn, network.params, *network.inputs)
    wrong = sym.from_rebasin({**spec, "o": (None, None)}, network.params)
    with pytest.raises(sym.SymmetryError, match="permutations S4"):
        sym.check(wrong, network.apply_fn, network.params, *network.inputs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w11": ("A",)}, "no parameter 'w11'.*Did you mean"),
        ({"w1": ("A",)}, "parameter w1: 1 axes in the specification, it has 2"),
        ({"b2": ("A",)}, "permutation A: of length 4 at .*, but 5"),
    ],
)
def test_errors_name_the_parameter(change, message):
    network, spec = CASES["mlp"]
    with pytest.raises(MetanetError, match=message):
        sym.from_rebasin({**spec, **change}, network.params)


def test_missing_parameters_and_other_structures():
    network, spec = CASES["mlp"]
    short = {k: v for k, v in spec.items() if k != "o"}
    with pytest.raises(MetanetError, match="parameter o: missing"):
        sym.from_rebasin(short, network.params)
    with pytest.raises(MetanetError, match="not the parameters' structure"):
        sym.from_unf({"w1": (0, 1)}, network.params)


def test_what_axes_cannot_say_is_refused():
    from symmetry_networks import NETWORKS

    for name, message in (
        ("lstm", "axis 0 is a concatenation"),
        ("grouped query", "is a product of several indices"),
        ("ensemble", "permutation for each value of another"),
    ):
        network = NETWORKS[name]()
        found = sym.discover(
            network.apply_fn, network.params, *network.inputs, check=False
        )
        with pytest.raises(MetanetError, match=message):
            sym.to_rebasin(found)


def test_names_with_dots():
    params = {"layer": {"kernel": array(3, 4)}}
    found = sym.from_rebasin({"layer.kernel": (None, "A")}, params)
    assert found.order == 24
