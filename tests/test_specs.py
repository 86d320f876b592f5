"""Hand-written specs of other projects agree with discovered symmetries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.symmetry_networks import NETWORKS, NHWC, array, case, mlp, relu

from metanet import symmetry as sym
from metanet.errors import MetanetError


def conv(x, w):
    return jax.lax.conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=NHWC)


def norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    size = jnp.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    along = (1,) * (x.ndim - 1) + (-1,)
    return centred / size * p["scale"].reshape(along) + p["bias"].reshape(along)


def residual(p, x):
    """A ResNet: an identity block, then one whose shortcut changes the channels."""
    x = relu(conv(x, p["stem"]))
    x = x + conv(relu(norm(conv(x, p["a"]["conv"]), p["a"]["norm"])), p["a"]["out"])
    x = conv(x, p["b"]["cut"]) + conv(relu(conv(x, p["b"]["conv"])), p["b"]["out"])
    return relu(x).mean((1, 2)) @ p["o"]


def recurrent(p, xs):
    def step(h, x):
        return jnp.tanh(x @ p["wi"] + h @ p["wh"]), None

    return jax.lax.scan(step, jnp.zeros((xs.shape[1], 4)), xs)[0] @ p["o"]


def flattened(p, x):
    """The rows of the first weight are a product of indices, all pinned."""
    return relu(x.reshape(x.shape[0], -1) @ p["w"]) @ p["o"]


def fourier(p, x):
    """The rows of the first weight are a concatenation of indices, all pinned."""
    return relu(jnp.concatenate([jnp.sin(x), jnp.cos(x)], -1) @ p["w"]) @ p["o"]


def flat_convolution(p, x):
    return relu(conv(x, p["c"])).reshape(x.shape[0], -1) @ p["w"]


def joint(p, x):
    hidden = relu(jnp.einsum("bx,xij->bij", x, p["w"]))
    return jnp.einsum("bij,ijo->bo", hidden, p["v"])


def layers_in_one_array(p, x):
    for i in range(2):
        x = relu(x @ p["h"][i])
    return x @ p["o"]


RESIDUAL = {
    "stem": (3, 3, 2, 4),
    "a": {
        "conv": (3, 3, 4, 3),
        "norm": {"scale": (3,), "bias": (3,)},
        "out": (3, 3, 3, 4),
    },
    "b": {"conv": (3, 3, 4, 5), "out": (3, 3, 5, 6), "cut": (1, 1, 4, 6)},
    "o": (6, 2),
}
ONE_LAYER = {"w": (None, "A"), "o": ("A", None)}
CASES = {
    "mlp": (
        case(mlp, 0, {}, w1=(3, 4), b1=(4,), w2=(4, 5), b2=(5,), o=(5, 2)),
        {
            "w1": (None, "A"),
            "b1": ("A",),
            "w2": ("A", "B"),
            "b2": ("B",),
            "o": ("B", None),
        },
    ),
    "residual": (
        case(residual, 0, {}, (2, 4, 4, 2), **RESIDUAL),
        {
            "stem": (None, None, None, "A"),
            "a/conv": (None, None, "A", "B"),
            "a/norm/scale": ("B",),
            "a/norm/bias": ("B",),
            "a/out": (None, None, "B", "A"),
            "b/conv": (None, None, "A", "C"),
            "b/out": (None, None, "C", "D"),
            "b/cut": (None, None, "A", "D"),
            "o": ("D", None),
        },
    ),
    "recurrent": (
        case(recurrent, 0, {}, (5, 2, 3), wi=(3, 4), wh=(4, 4), o=(4, 2)),
        {"wi": (None, "A"), "wh": ("A", "A"), "o": ("A", None)},
    ),
    "flattened": (
        case(flattened, 0, {}, (5, 2, 3, 2), w=(12, 4), o=(4, 2)),
        ONE_LAYER,
    ),
    "fourier": (case(fourier, 0, {}, w=(6, 4), o=(4, 2)), ONE_LAYER),
    "one unit": (
        case(flattened, 0, {}, w=(3, 1), o=(1, 2)),
        {"w": (None, None), "o": (None, None)},
    ),
}


def discover(network):
    return sym.discover(network.apply_fn, network.params, *network.inputs, check=False)


def renamed(spec):
    """Returns a spec with permutations named in order of appearance, by path."""
    names: dict = {}
    return {
        path: tuple(n and names.setdefault(n, len(names) + 1) for n in spec[path])
        for path in sorted(spec)
    }


@pytest.mark.parametrize("name", CASES)
def test_discovery_finds_the_hand_written_spec(name, key):
    network, spec = CASES[name]
    params = network.params
    symmetry = discover(network)
    assert renamed(sym.to_rebasin(symmetry)) == renamed(spec)
    integers, fixed = sym.to_unf(symmetry, params)
    others = (
        sym.from_rebasin(spec, params),
        sym.from_rebasin(sym.to_rebasin(symmetry), params),
        sym.from_unf(integers, params, fixed),
    )
    element = sym.random_element(symmetry, key, signs=False, scales=False, phases=False)
    moved = sym.act(symmetry, element, params)
    for other in others:
        sym.check(other, network.apply_fn, params, *network.inputs)
        assert renamed(sym.to_rebasin(other)) == renamed(spec)
        assert other.order == symmetry.order and len(other.groups) == len(
            symmetry.groups
        )
        # Groups are in the same order: permutations of one act through the other.
        same = sym.Element(element.permutations, ())
        jax.tree.map(np.testing.assert_array_equal, sym.act(other, same, params), moved)
        product = sym.compose(other, sym.invert(other, same), same)
        jax.tree.map(
            np.testing.assert_array_equal, sym.act(other, product, params), params
        )


def test_the_integers_of_an_mlp():
    """Pinned axes that belong together share an integer, as an output and its bias."""
    network = case(
        lambda p, x: (
            relu(x @ p["a"]["w"] + p["a"]["b"][None]) @ p["c"]["w"] + p["c"]["b"][None]
        ),
        0,
        {},
        a={"w": (3, 4), "b": (4,)},
        c={"w": (4, 2), "b": (2,)},
    )
    spec, fixed = sym.to_unf(discover(network), network.params)
    # Leaves in order: a/b, a/w, c/b, c/w.
    assert spec == {"a": {"b": (0,), "w": (1, 0)}, "c": {"b": (2,), "w": (0, 2)}}
    assert fixed == {1, 2}


def test_specs_are_checked_against_the_network():
    network, spec = CASES["residual"]
    arguments = (network.apply_fn, network.params, *network.inputs)
    wrong = sym.from_rebasin({**spec, "o": (None, None)}, network.params)
    with pytest.raises(sym.SymmetryError, match="permutations S6 of b/cut"):
        sym.check(wrong, *arguments)
    integers, _ = sym.to_unf(discover(network), network.params)
    with pytest.raises(sym.SymmetryError, match="is not a symmetry"):
        sym.check(sym.from_unf(integers, network.params), *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w11": ("A",)}, "no parameter 'w11'.*Did you mean"),
        ({"w1": ("A",)}, "parameter w1: 1 axes in the specification, it has 2"),
        ({"b2": ("A",)}, "permutation A: of length 4 at .* axis 0, but 5 at b2 axis 0"),
        ({"b1": "A"}, "parameter b1: 'A' in the specification, not a tuple"),
        ({"o": None}, "parameter o: missing in the specification"),
    ],
)
def test_errors_name_the_parameter(change, message):
    network, spec = CASES["mlp"]
    with pytest.raises(MetanetError, match=message):
        sym.from_rebasin({**spec, **change}, network.params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"w11": (0, 1)}, "not the parameters' structure"),
        ({"w1": (0,)}, "parameter w1: 1 axes in the specification, it has 2"),
        ({"b2": (1,)}, "permutation P_1: of length 4 at .*, but 5 at b2 axis 0"),
        ({"b1": 1}, "parameter b1: 1 in the specification, not a tuple"),
    ],
)
def test_errors_of_integer_specs(change, message):
    params = CASES["mlp"][0].params
    spec = {"w1": (0, 1), "b1": (1,), "w2": (1, 2), "b2": (2,), "o": (2, 3)}
    assert sym.from_unf(spec, params, {0, 3}).order == 24 * 120
    with pytest.raises(MetanetError, match=message):
        sym.from_unf({**spec, **change}, params)


@pytest.mark.parametrize(
    ("make_network", "message"),
    [
        (NETWORKS["lstm"], "b: axis 0 is a concatenation"),
        (NETWORKS["grouped query"], "axis 1 is a product of several indices"),
        (NETWORKS["ensemble"], "value of another index .b.0., v.0., w.0.."),
        (
            lambda: case(
                flat_convolution, 0, {}, (2, 3, 3, 2), c=(3, 3, 2, 4), w=(36, 2)
            ),
            "w: axis 0 is a product of several indices",
        ),
        (
            lambda: case(joint, 0, {}, w=(3, 2, 4), v=(2, 4, 2)),
            r"v: axis 0 is permuted jointly with v\[1\], w\[2\]",
        ),
        (
            lambda: case(layers_in_one_array, 0, {}, (5, 4), h=(2, 4, 4), o=(4, 2)),
            "h: axis 1 is another index in each part",
        ),
    ],
)
def test_symmetries_beyond_axes_are_refused(make_network, message):
    network = make_network()
    symmetry = discover(network)
    for write in (sym.to_rebasin, lambda s: sym.to_unf(s, network.params)):
        with pytest.raises(MetanetError, match=f"{message}.*use the Symmetry itself"):
            write(symmetry)


def test_names_with_dots():
    params = {"layer": {"kernel": array(3, 4)}, "a.b": array(4)}
    spec = {"layer.kernel": (None, "A"), "a.b": ("A",)}
    assert sym.from_rebasin(spec, params).order == 24
    with pytest.raises(MetanetError, match="layer/kernel: specified twice"):
        sym.from_rebasin({**spec, "layer/kernel": (None, "A")}, params)


def test_integers_require_the_parameters_of_the_symmetry():
    network, _ = CASES["mlp"]
    with pytest.raises(MetanetError, match="other paths or shapes"):
        sym.to_unf(discover(network), {"w": array(3, 4)})
