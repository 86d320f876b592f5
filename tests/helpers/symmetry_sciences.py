"""Graph networks, operators, flows, energies and estimators with their group on paper."""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac

import jax
import jax.numpy as jnp
import numpy as np

from helpers.symmetry_networks import Case, array, by_head, flat, relu, tanh
from helpers.symmetry_vision import gelu, layer_norm, network, sigmoid, silu

softplus = jax.nn.softplus
# JAX keeps the type of a 64-bit array from a trace in which those are enabled.
SENDERS = np.array([0, 1, 2, 3, 4, 1], np.int32)
RECEIVERS = np.array([1, 2, 3, 4, 0, 0], np.int32)


def received(messages):
    return jax.ops.segment_sum(messages, RECEIVERS, 5)


def graph_convolution(p, x, adjacency):
    """Products with a normalised adjacency matrix, which is an input (GCN)."""
    degree = adjacency.sum(1) + 1
    scale = jax.lax.rsqrt(degree)
    a = (adjacency + jnp.eye(5)) * scale[:, None] * scale
    return a @ relu(a @ x @ p["w1"] + p["b1"]) @ p["w2"]


def graph_attention(p, x):
    """Attention over the edges of a graph, with two heads (GAT)."""
    h = by_head((x @ p["w"])[None], 2)[0]
    score = (h * p["source"]).sum(-1)[SENDERS] + (h * p["target"]).sum(-1)[RECEIVERS]
    score = jax.nn.leaky_relu(score, 0.2)
    high = jax.ops.segment_max(score, RECEIVERS, 5)
    e = jnp.exp(score - high[RECEIVERS])
    share = e / received(e)[RECEIVERS]
    y = received(h[SENDERS] * share[..., None]).reshape(5, -1)
    return relu(y + p["b"]) @ p["o"]


def sampled_neighbours(p, x):
    """A node beside the mean and the maximum of its neighbours (GraphSAGE)."""
    for i in "12":
        h = relu(x @ p["p" + i])[SENDERS]
        count = received(jnp.ones(6))[:, None]
        high = jax.ops.segment_max(h, RECEIVERS, 5)
        x = jnp.concatenate([x, received(h) / count, high], -1) @ p["w" + i]
        x = relu(x / jnp.sqrt((x * x).sum(-1, keepdims=True) + 1e-6))
    return x @ p["o"]


def isomorphism_network(p, x):
    """Sums of neighbours and a two-layer network; readouts of all layers (GIN)."""
    total = x.sum(0) @ p["r0"]
    for i in "12":
        h = (1 + p["eps"][int(i) - 1]) * x + received(x[SENDERS])
        x = relu(relu(h @ p["a" + i] + p["b" + i]) @ p["c" + i])
        total = total + x.sum(0) @ p["r" + i]
    return total


def edge_network(p, x, e):
    """A matrix for every edge, made of its features, and a gated state (MPNN)."""
    h = tanh(x @ p["in"])
    matrices = (relu(e @ p["e1"]) @ p["e2"]).reshape(-1, 4, 4)
    for _ in range(2):
        m = received(jnp.einsum("ei,eij->ej", h[SENDERS], matrices))
        a, b = m @ p["wi"], h @ p["wh"]
        r, z = sigmoid(a[:, :4] + b[:, :4]), sigmoid(a[:, 4:8] + b[:, 4:8])
        h = (1 - z) * tanh(a[:, 8:] + r * b[:, 8:]) + z * h
    return (sigmoid(jnp.concatenate([h, x], -1) @ p["gate"]) * (h @ p["out"])).sum(0)


def equivariant_points(p, h, x):
    """Messages of distances; coordinates move along differences (EGNN)."""
    for i in "12":
        d = x[SENDERS] - x[RECEIVERS]
        size = (d * d).sum(-1, keepdims=True)
        pair = jnp.concatenate([h[SENDERS], h[RECEIVERS], size], -1)
        m = silu(silu(pair @ p["m" + i]) @ p["n" + i])
        x = x + received(d * (m @ p["x" + i]))
        h = silu(jnp.concatenate([h, received(m)], -1) @ p["h" + i])
    return h.sum(0) @ p["o"], x


def continuous_filters(p, z, x):
    """Filters of distances in radial functions; energies and their forces (SchNet)."""

    def energy(x):
        d = x[SENDERS] - x[RECEIVERS]
        size = jnp.sqrt((d * d).sum(-1, keepdims=True) + 1e-6)
        radial = jnp.exp(-4.0 * (size - jnp.linspace(0, 2, 5)) ** 2)
        h = p["atoms"][z]
        filters = softplus(radial @ p["f1"]) @ p["f2"]
        m = received((h @ p["in"])[SENDERS] * filters)
        h = h + softplus(m @ p["a"]) @ p["b"]
        return (softplus(h @ p["c"]) @ p["d"]).sum()

    return energy(x), -jax.grad(energy)(x)


def typed_edges(p, x):
    """Matrices of three kinds of edges, made of two bases (R-GCN)."""
    kinds = np.array([0, 1, 2, 0, 1, 2], np.int32)
    matrices = jnp.einsum("kb,bij->kij", p["mix"], p["bases"])
    by_kind = jnp.einsum("ni,kij->nkj", x, matrices)
    return relu(x @ p["self"] + received(by_kind[SENDERS, kinds])) @ p["o"]


def aggregators(p, x):
    """Mean, maximum, minimum and deviation, each scaled by degree (PNA)."""
    m = relu(x @ p["m"])[SENDERS]
    count = received(jnp.ones(6))[:, None]
    mean = received(m) / count
    spread = jnp.sqrt(relu(received(m * m) / count - mean**2) + 1e-5)
    high = jax.ops.segment_max(m, RECEIVERS, 5)
    low = jax.ops.segment_min(m, RECEIVERS, 5)
    all_four = jnp.concatenate([mean, high, low, spread], -1)
    scaled = jnp.concatenate([all_four, all_four * jnp.log(count + 1)], -1)
    return relu(jnp.concatenate([x, scaled], -1) @ p["u"]) @ p["o"]


def triangles(p, x):
    """Pairs updated by products along triangles, from outer products (AlphaFold)."""
    x = x @ p["embed"]
    a, b = x @ p["a"], x @ p["b"]
    outer = jnp.einsum("tid,tje->ijde", a, b) / 3
    z = outer.reshape(5, 5, -1) @ p["outer"]
    h = layer_norm(z, p["g"], p["h"])
    left = sigmoid(h @ p["gl"]) * (h @ p["l"])
    right = sigmoid(h @ p["gr"]) * (h @ p["r"])
    z = z + layer_norm(jnp.einsum("ikc,jkc->ijc", left, right)) @ p["t"]
    return z @ p["o"]


def set_transformer(p, x):
    """Inducing points read a set, the set reads them, and two seeds read that."""

    def attend(q, memory, n):
        q = by_head(q @ p["q" + n], 2)
        k, v = (by_head(memory @ p[s + n], 2) for s in "kv")
        weights = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", q, k))
        return flat(jnp.einsum("bhqk,bkhd->bqhd", weights, v)) @ p["o" + n]

    x = x @ p["embed"]
    points = jnp.broadcast_to(p["points"], (x.shape[0], 3, 4))
    x = x + attend(x, points + attend(points, x, "1"), "2")
    x = x + relu(x @ p["w"]) @ p["u"]
    seeds = jnp.broadcast_to(p["seeds"], (x.shape[0], 2, 4))
    return attend(seeds, x, "3").reshape(x.shape[0], -1) @ p["head"]


def operator_network(p, u, y):
    """A branch for a function's values, a trunk for positions (DeepONet)."""
    branch = tanh(u @ p["b1"] + p["c1"]) @ p["b2"] + p["c2"]
    trunk = tanh(tanh(y @ p["t1"] + p["d1"]) @ p["t2"] + p["d2"])
    return jnp.einsum("bp,np->bn", branch, trunk) + p["offset"]


def fourier_operator(p, x):
    """Complex weights of the lowest modes beside a pointwise layer (FNO)."""
    h = x @ p["lift"]
    for i, width in (("1", 3), ("2", 4)):
        modes = jnp.fft.rfft(h, axis=1)[:, :3]
        weights = p["re" + i] + 1j * p["im" + i]
        modes = jnp.einsum("bmi,iom->bmo", modes, weights)
        padded = jnp.zeros((h.shape[0], 5, width), modes.dtype).at[:, :3].set(modes)
        h = gelu(jnp.fft.irfft(padded, x.shape[1], axis=1) + h @ p["w" + i])
    return gelu(h @ p["p1"]) @ p["p2"]


def splines(x, grid):
    """Quadratic B-splines of every entry, in a last axis."""
    x = x[..., None]
    basis = ((x >= grid[:-1]) & (x < grid[1:])).astype(x.dtype)
    for k in (1, 2):
        left = (x - grid[: -(k + 1)]) / (grid[k:-1] - grid[: -(k + 1)])
        right = (grid[k + 1 :] - x) / (grid[k + 1 :] - grid[1:-k])
        basis = left * basis[..., :-1] + right * basis[..., 1:]
    return basis


def spline_edges(p, x):
    """A spline on every edge beside a weighted nonlinearity (KAN)."""
    grid = np.linspace(-3, 3, 8)
    for i in "12":
        y = jnp.einsum("big,iog->bo", splines(x, grid), p["c" + i])
        x = y + silu(x) @ p["w" + i]
    return x


def coupled_flow(p, x):
    """Affine couplings with swapped halves; outputs and the log determinant."""
    a, b = jnp.split(x, 2, -1)
    total = 0.0
    for i in "123":
        shift, scale = jnp.split(tanh(a @ p["a" + i] + p["b" + i]) @ p["c" + i], 2, -1)
        scale = tanh(scale) * p["s" + i]
        b = b * jnp.exp(scale) + shift
        total = total + scale.sum(-1)
        a, b = b, a
    return jnp.concatenate([a, b], -1), total


def spline_flow(p, x):
    """A rational linear spline in bins whose sizes are made of the other half."""
    a, b = jnp.split(x, 2, -1)
    raw = (relu(a @ p["a"] + p["b"]) @ p["c"]).reshape(5, 2, 2, 4)
    sizes = 6 * jax.nn.softmax(raw)
    edges = jnp.pad(jnp.cumsum(sizes, -1), ((0, 0), (0, 0), (0, 0), (1, 0))) - 3
    lower, upper = edges[..., :-1], edges[..., 1:]
    inside = (b[..., None] >= lower[:, :, 0]) & (b[..., None] < upper[:, :, 0])

    def chosen(t):
        return (t * inside).sum(-1)

    share = (b - chosen(lower[:, :, 0])) / (chosen(sizes[:, :, 0]) + 1e-3)
    return a, chosen(lower[:, :, 1]) + share * chosen(sizes[:, :, 1])


def masked_estimator(p, x):
    """Masks let an output see only the inputs before it (MADE)."""
    degrees = np.array([0, 0, 0, 1, 1, 1])
    first = (degrees[None] >= np.arange(3)[:, None]).astype(np.float32)
    last = (np.arange(3)[None] > degrees[:, None]).astype(np.float32)
    h = relu(x @ (p["w"] * first) + p["b"])
    return h @ (p["mean"] * last), h @ (p["scale"] * last)


def autoencoder(p, x):
    """A variational autoencoder at the mean, with its divergence from the prior."""
    mean, log_var = jnp.split(relu(x @ p["e"] + p["eb"]) @ p["z"] + p["zb"], 2, -1)
    divergence = (mean**2 + jnp.exp(log_var) - log_var).sum(-1)
    return relu(mean @ p["d"] + p["db"]) @ p["o"], divergence


def sampled_autoencoder(p, x, noise):
    mean, log_var = jnp.split(relu(x @ p["e"]) @ p["z"], 2, -1)
    return relu((mean + jnp.exp(log_var / 2) * noise) @ p["d"]) @ p["o"]


def vector_quantised(p, x):
    """The nearest code is passed on, its gradient goes to the encoder."""
    z = relu(x @ p["e"]) @ p["z"]
    distance = ((z[:, None] - p["codes"]) ** 2).sum(-1)
    code = p["codes"][jnp.argmin(distance, -1)]
    z = z + jax.lax.stop_gradient(code - z)
    return relu(z @ p["d"]) @ p["o"]


def hamiltonian(p, x):
    """The symplectic gradient of an energy, a step of leapfrog's kind."""

    def energy(x):
        return (tanh(tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]) @ p["o"]).sum()

    dq, dp = jnp.split(jax.grad(energy)(x), 2, -1)
    return x + 0.1 * jnp.concatenate([dp, -dq], -1)


def convex_network(p, x):
    """A network that is convex in its inputs: weights made positive, its gradient."""

    def potential(x):
        h = softplus(x @ p["w0"])
        h = softplus(h @ softplus(p["z1"]) + x @ p["w1"] + p["b1"])
        return (h @ softplus(p["z2"])).sum() + 0.5 * (x * x).sum()

    return jax.grad(potential)(x)


def physics_informed(p, x):
    """The residual of an equation: second derivatives of a network."""

    def u(x):
        return tanh(tanh(x @ p["w1"] + p["b1"]) @ p["w2"] + p["b2"]) @ p["o"]

    def residual(x):
        hessian = jax.hessian(lambda x: u(x)[0])(x)
        return jax.grad(lambda x: u(x)[0])(x)[0] - jnp.trace(hessian) + u(x)[0] ** 3

    return jax.vmap(residual)(x)


def neural_ode(p, x):
    """Four stages of Runge and Kutta, whose field sees the time."""

    def field(t, h):
        t = jnp.full((*h.shape[:-1], 1), t)
        h = jnp.concatenate([h, t], -1)
        return tanh(h @ p["w1"] + p["b1"]) @ p["w2"]

    def step(h, t):
        k1 = field(t, h)
        k2 = field(t + 0.05, h + 0.05 * k1)
        k3 = field(t + 0.05, h + 0.05 * k2)
        k4 = field(t + 0.1, h + 0.1 * k3)
        return h + (k1 + 2 * k2 + 2 * k3 + k4) / 60, None

    return jax.lax.scan(step, x @ p["in"], jnp.arange(0, 0.3, 0.1))[0] @ p["out"]


def equilibrium(p, x):
    """The fixed point of a layer, found while it still moves."""
    drive = x @ p["u"] + p["b"]

    def moves(state):
        before, h, n = state
        return (jnp.abs(h - before).max() > 1e-3) & (n < 20)

    def turn(state):
        _, h, n = state
        return h, tanh(0.3 * h @ p["w"] + drive), n + 1

    start = jnp.zeros_like(drive)
    h = jax.lax.while_loop(moves, turn, (start - 1, start, 0))[1]
    return h @ p["o"]


def associative_memory(p, x):
    """Stored patterns attract a state (a modern Hopfield network)."""
    q = x @ p["q"]
    for _ in range(2):
        q = jax.nn.softmax(3.0 * q @ p["patterns"].T) @ p["patterns"]
    return q @ p["o"]


def product_keys(p, x):
    """The best rows of a table, by two halves of a query with keys of their own."""
    q = jnp.split(x @ p["q"], 2, -1)
    scores = [h @ p[k].T for h, k in zip(q, ("k1", "k2"), strict=True)]
    both = (scores[0][:, :, None] + scores[1][:, None]).reshape(-1, 12)
    value, index = jax.lax.top_k(both, 2)
    return (jax.nn.softmax(value)[..., None] * p["table"][index]).sum(1)


def mixture_density(p, x, y):
    """The likelihood of a mixture whose parts a network makes."""
    raw = tanh(x @ p["w"] + p["b"]) @ p["o"] + p["c"]
    logits, mean, log_scale = jnp.split(raw, [3, 9], -1)
    mean, log_scale = mean.reshape(-1, 3, 2), log_scale.reshape(-1, 3, 2)
    error = (y[:, None] - mean) * jnp.exp(-log_scale)
    part = -0.5 * (error**2).sum(-1) - log_scale.sum(-1)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits) + part, -1)


def radial_functions(p, x):
    distance = ((x[:, None] - p["centres"]) ** 2).sum(-1)
    h = jnp.exp(-distance * jnp.exp(p["width"]))
    return (h / h.sum(-1, keepdims=True)) @ p["o"]


def oblivious_trees(p, x):
    """Two splits of every tree, the same for all of a level, and a table of leaves."""
    feature = jnp.einsum("bi,tsi->bts", x, jax.nn.softmax(p["select"]))
    gate = sigmoid((feature - p["threshold"]) * jnp.exp(p["scale"]))
    side = jnp.stack([gate, 1 - gate], -1)
    leaves = jnp.einsum("btl,btr->btlr", side[:, :, 0], side[:, :, 1])
    return jnp.einsum("btlr,tlro->bo", leaves, p["leaves"])


def routed_tree(p, x):
    """A soft tree of depth two: the three gates have different parts."""
    gate = sigmoid(x @ p["w"] + p["b"])
    top, left, right = gate[:, 0], gate[:, 1], gate[:, 2]
    share = jnp.stack(
        [top * left, top * (1 - left), (1 - top) * right, (1 - top) * (1 - right)], -1
    )
    return share @ relu(p["leaves"]) @ p["o"]


def adapted(p, x):
    """Low-rank adapters beside frozen weights, which are parameters too (LoRA)."""
    h = relu(x @ p["w1"] + 2.0 * (x @ p["a1"]) @ p["b1"])
    return h @ p["w2"] + 2.0 * (h @ p["a2"]) @ p["b2"]


def factorised_weights(p, x):
    """A matrix made of singular vectors and values, and a sum of Kronecker products."""
    h = relu((x @ p["u"]) * p["s"] @ p["v"])
    matrix = sum(jnp.kron(p["a"][r], p["b"][r]) for r in range(3))
    return tanh(h @ matrix) @ p["o"]


def tensor_train(p, x):
    """A matrix of three cores, contracted with inputs of three small axes."""
    x = x.reshape(-1, 2, 2, 3)
    y = jnp.einsum("nabc,aiq,qbjr,rck->nijk", x, p["c1"], p["c2"], p["c3"])
    return relu(y + p["b"]).reshape(x.shape[0], -1) @ p["o"]


def standardised(p, x):
    """Weight standardisation, spectral norm by a power step, and a learned power."""
    w = p["w"] - p["w"].mean(0)
    w = w / jnp.sqrt((w**2).mean(0) + 1e-5) * p["g"]
    h = relu(x @ w)
    v = p["u"] @ p["a"]
    v = v / jnp.linalg.norm(v)
    size = p["a"] @ v
    h = relu(h @ (p["a"] / jnp.linalg.norm(size)))
    return jnp.power(h + 0.1, softplus(p["power"])) @ p["o"]


def factorisation_machine(p, x):
    """Sums of all pairs of features, by factors, beside a deep network."""
    v = x[:, :, None] * p["v"]
    pairs = 0.5 * (v.sum(1) ** 2 - (v**2).sum(1)).sum(-1)
    deep = relu(v.reshape(x.shape[0], -1) @ p["w"]) @ p["o"]
    return pairs + x @ p["linear"] + deep[:, 0]


def crossed(p, x):
    """Explicit crosses of features beside a deep tower (DCN)."""
    start = x @ p["embed"]
    h = start
    for i in "12":
        h = start * (h @ p["u" + i] @ p["v" + i] + p["b" + i]) + h
    deep = relu(start @ p["w"])
    return jnp.concatenate([h, deep], -1) @ p["o"]


def two_towers(p, x, y):
    """The cosine of two towers, that have nothing but their outputs in common."""

    def unit(t):
        return t / jnp.sqrt((t * t).sum(-1, keepdims=True) + 1e-6)

    a = unit(relu(x @ p["a1"]) @ p["a2"])
    b = unit(relu(y @ p["b1"]) @ p["b2"])
    return jax.nn.log_softmax(a @ b.T * jnp.exp(p["t"]))


def duelling(p, x):
    """A value and advantages of actions, of a distribution over returns."""
    h = relu(x @ p["w"])
    value = (relu(h @ p["v1"]) @ p["v2"])[:, None]
    advantage = (relu(h @ p["a1"]) @ p["a2"]).reshape(-1, 2, 5)
    q = value + advantage - advantage.mean(1, keepdims=True)
    return (jax.nn.softmax(q) * jnp.linspace(-1, 1, 5)).sum(-1)


def squashed_policy(p, x, noise):
    """A stochastic policy and two critics that read its action; the smaller one counts."""
    mean, log_scale = jnp.split(relu(x @ p["p1"]) @ p["p2"], 2, -1)
    action = tanh(mean + jnp.exp(jnp.clip(log_scale, -5, 2)) * noise)
    inputs = jnp.concatenate([x, action], -1)

    def critic(q):
        return relu(relu(inputs @ q["w"]) @ q["u"]) @ q["o"]

    return action, jax.vmap(critic)(p["critics"]).min(0)


def normed_ensemble(p, x):
    """Members whose votes are averaged, with shared first layer and ranks of their own."""
    h = tanh(x @ p["w"])
    h = h[None] * p["r"][:, None]
    y = relu(jnp.einsum("mbi,ij->mbj", h, p["u"]) * p["s"][:, None] + p["b"][:, None])
    return jax.nn.softmax(jnp.einsum("mbj,jo->mbo", y, p["o"])).mean(0)


def conditional_field(p, values, x, target):
    """A neural process: a mean of encoded pairs conditions a decoder."""
    pairs = jnp.concatenate([x, values], -1)
    r = (relu(pairs @ p["e1"]) @ p["e2"]).mean(0)
    h = relu(target @ p["x"] + r @ p["r"] + p["b"])
    h = h * (1 + r @ p["gamma"]) + r @ p["beta"]
    mean, scale = jnp.split(h @ p["o"], 2, -1)
    return mean, softplus(scale)


def sorted_pool(p, x):
    """Gated pooling, a power mean, and a sort over the elements of a set."""
    h = relu(x @ p["w"])
    gate = jax.nn.softmax(tanh(x @ p["v"]) * sigmoid(x @ p["u"]) @ p["a"], 1)
    power = (h**3).mean(1) ** (1 / 3)
    ranked = jnp.einsum("bnc,n->bc", jnp.sort(h, 1), p["rank"])
    return jnp.concatenate([(gate * h).sum(1), power, ranked], -1) @ p["o"]


def inner_step(p, x, y):
    """A network after a step of gradient descent on a batch (MAML)."""

    def loss(q):
        return ((relu(x @ q["w"] + q["b"]) @ q["o"] - y) ** 2).mean()

    q = jax.tree.map(lambda a, g: a - 0.1 * g, p, jax.grad(loss)(p))
    return relu(x @ q["w"] + q["b"]) @ q["o"]


def arithmetic_units(p, x):
    """Weights made of a product of tanh and sigmoid, in sums and in logarithms (NALU)."""
    w = tanh(p["w"]) * sigmoid(p["m"])
    gate = sigmoid(x @ p["g"])
    plain, logs = x @ w, jnp.exp(jnp.log(jnp.abs(x) + 0.1) @ w)
    return (gate * plain + (1 - gate) * logs) @ p["o"]


NODES = (5, 3)
SCIENCES: dict[str, Callable[[], Case]] = {
    "graph convolution": lambda: network(
        graph_convolution,
        fac(4),
        array(*NODES),
        jnp.abs(array(5, 5)),
        w1=(3, 4),
        b1=(4,),
        w2=(4, 2),
    ),
    "graph attention": lambda: network(
        graph_attention,
        fac(2) * fac(3) ** 2,
        array(*NODES),
        w=(3, 6),
        source=(2, 3),
        target=(2, 3),
        b=(6,),
        o=(6, 2),
    ),
    "sampled neighbours": lambda: network(
        sampled_neighbours,
        fac(4) * fac(5) * fac(3) * fac(2),
        array(*NODES),
        p1=(3, 4),
        w1=(11, 5),
        p2=(5, 3),
        w2=(11, 2),
        o=(2, 2),
    ),
    "isomorphism network": lambda: network(
        isomorphism_network,
        fac(4) * fac(5) * fac(3) * fac(2),
        array(*NODES),
        eps=(2,),
        a1=(3, 4),
        b1=(4,),
        c1=(4, 5),
        a2=(5, 3),
        b2=(3,),
        c2=(3, 2),
        r0=(3, 2),
        r1=(5, 2),
        r2=(2, 2),
    ),
    # Entries of the state, entries of messages, units that make the matrices of edges.
    "edge network": lambda: network(
        edge_network,
        fac(4) * fac(4) * fac(5),
        array(*NODES),
        array(6, 2),
        **{"in": (3, 4)},
        e1=(2, 5),
        e2=(5, 16),
        wi=(4, 12),
        wh=(4, 12),
        gate=(7, 2),
        out=(4, 2),
    ),
    "equivariant points": lambda: network(
        equivariant_points,
        fac(4) * fac(5) * fac(3) * fac(2) * fac(4) * fac(3),
        array(*NODES),
        array(5, 3, seed=1),
        m1=(7, 4),
        n1=(4, 5),
        x1=(5, 1),
        h1=(8, 3),
        m2=(7, 2),
        n2=(2, 4),
        x2=(4, 1),
        h2=(7, 3),
        o=(3, 2),
    ),
    # Atoms' entries; units of the filters, filters, two more hidden layers.
    "continuous filters": lambda: network(
        continuous_filters,
        fac(4) * fac(5) * fac(3) * fac(6) * fac(4),
        jnp.array([0, 3, 1, 1, 2]),
        array(5, 3),
        atoms=(6, 4),
        f1=(5, 5),
        f2=(5, 3),
        **{"in": (4, 3)},
        a=(3, 6),
        b=(6, 4),
        c=(4, 4),
        d=(4, 1),
    ),
    "typed edges": lambda: network(
        typed_edges,
        fac(2) * fac(4),
        array(*NODES),
        mix=(3, 2),
        bases=(2, 3, 4),
        self=(3, 4),
        o=(4, 2),
    ),
    "aggregators": lambda: network(
        aggregators, fac(3) * fac(4), array(*NODES), m=(3, 3), u=(27, 4), o=(4, 2)
    ),
    # Stream of the sequence, both factors of the outer product, pairs, triangles.
    "triangles": lambda: network(
        triangles,
        fac(4) * fac(2) * fac(3) * fac(4) * fac(3),
        array(3, 5, 2),
        embed=(2, 4),
        a=(4, 2),
        b=(4, 3),
        outer=(6, 4),
        g=(4,),
        h=(4,),
        **{n: (4, 3) for n in ("l", "r", "gl", "gr")},
        t=(3, 4),
        o=(4, 2),
    ),
    # Entries of the stream, the points and the seeds; points; seeds, which the head's rows
    # follow; heads and their channels; hidden units; channels of the last outputs.
    "set transformer": lambda: network(
        set_transformer,
        fac(4) ** 3 * fac(3) * fac(2) * (fac(2) * fac(3) ** 4) ** 3 * fac(5) * fac(3),
        array(2, 5, 2),
        embed=(2, 4),
        points=(3, 4),
        **{n + i: (4, 6) for n in "qkv" for i in "123"},
        o1=(6, 4),
        o2=(6, 4),
        w=(4, 5),
        u=(5, 4),
        seeds=(2, 4),
        o3=(6, 3),
        head=(6, 2),
    ),
    # Hidden units of both, and the factors in which they meet.
    "operator network": lambda: network(
        operator_network,
        fac(4) * fac(5) * fac(3),
        array(2, 6),
        array(5, 2),
        b1=(6, 4),
        c1=(4,),
        b2=(4, 3),
        c2=(3,),
        t1=(2, 5),
        d1=(5,),
        t2=(5, 3),
        d2=(3,),
        offset=(1,),
    ),
    "fourier operator": lambda: network(
        fourier_operator,
        fac(4) * fac(3) * fac(4) * fac(5),
        array(2, 8, 2),
        lift=(2, 4),
        re1=(4, 3, 3),
        im1=(4, 3, 3),
        w1=(4, 3),
        re2=(3, 4, 3),
        im2=(3, 4, 3),
        w2=(3, 4),
        p1=(4, 5),
        p2=(5, 1),
    ),
    "spline edges": lambda: network(
        spline_edges,
        fac(4),
        array(5, 3),
        c1=(3, 4, 5),
        w1=(3, 4),
        c2=(4, 2, 5),
        w2=(4, 2),
    ),
    "coupled flow": lambda: network(
        coupled_flow,
        fac(4) ** 3,
        array(5, 4),
        **{"a" + i: (2, 4) for i in "123"},
        **{"b" + i: (4,) for i in "123"},
        **{"c" + i: (4, 4) for i in "123"},
        **{"s" + i: (2,) for i in "123"},
    ),
    "spline flow": lambda: network(
        spline_flow, fac(5), array(5, 4), a=(2, 5), b=(5,), c=(5, 16)
    ),
    # Units that see equally many inputs.
    "masked estimator": lambda: network(
        masked_estimator,
        fac(3) ** 2,
        array(5, 3),
        w=(3, 6),
        b=(6,),
        mean=(6, 3),
        scale=(6, 3),
    ),
    "autoencoder": lambda: network(
        autoencoder,
        fac(5) * fac(3) * fac(4),
        array(5, 3),
        e=(3, 5),
        eb=(5,),
        z=(5, 6),
        zb=(6,),
        d=(3, 4),
        db=(4,),
        o=(4, 3),
    ),
    # The noise tells the latent entries apart.
    "sampled autoencoder": lambda: network(
        sampled_autoencoder,
        fac(5) * fac(4),
        array(5, 3),
        array(5, 3, seed=1),
        e=(3, 5),
        z=(5, 6),
        d=(3, 4),
        o=(4, 3),
    ),
    "vector quantised": lambda: network(
        vector_quantised,
        fac(5) * fac(3) * fac(6) * fac(4),
        array(5, 3),
        e=(3, 5),
        z=(5, 3),
        codes=(6, 3),
        d=(3, 4),
        o=(4, 3),
    ),
    "hamiltonian": lambda: network(
        hamiltonian,
        fac(4) * fac(5),
        array(5, 4),
        w1=(4, 4),
        b1=(4,),
        w2=(4, 5),
        b2=(5,),
        o=(5, 1),
    ),
    "convex network": lambda: network(
        convex_network,
        fac(4) * fac(5),
        array(5, 3),
        w0=(3, 4),
        z1=(4, 5),
        w1=(3, 5),
        b1=(5,),
        z2=(5, 1),
    ),
    "physics informed": lambda: network(
        physics_informed,
        fac(4) * fac(5),
        array(5, 2),
        w1=(2, 4),
        b1=(4,),
        w2=(4, 5),
        b2=(5,),
        o=(5, 1),
    ),
    "neural ode": lambda: network(
        neural_ode,
        fac(4) * fac(5),
        array(5, 3),
        **{"in": (3, 4)},
        w1=(5, 5),
        b1=(5,),
        w2=(5, 4),
        out=(4, 2),
    ),
    "equilibrium": lambda: network(
        equilibrium, fac(4), array(5, 3), u=(3, 4), b=(4,), w=(4, 4), o=(4, 2)
    ),
    "associative memory": lambda: network(
        associative_memory,
        fac(6) * fac(4),
        array(5, 3),
        q=(3, 4),
        patterns=(6, 4),
        o=(4, 2),
    ),
    # Keys of each half move rows of the table; entries of each half of the query.
    "product keys": lambda: network(
        product_keys,
        fac(3) * fac(4) * fac(2) ** 2,
        array(5, 3),
        q=(3, 4),
        k1=(3, 2),
        k2=(4, 2),
        table=(12, 2),
    ),
    "mixture density": lambda: network(
        mixture_density,
        fac(5) * fac(3),
        array(5, 3),
        array(5, 2),
        w=(3, 5),
        b=(5,),
        o=(5, 15),
        c=(15,),
    ),
    "radial functions": lambda: network(
        radial_functions, fac(5), array(6, 3), centres=(5, 3), width=(5,), o=(5, 2)
    ),
    # Trees; in each the order of its two splits, which transposes the leaves.
    "oblivious trees": lambda: network(
        oblivious_trees,
        fac(3) * fac(2) ** 3,
        array(5, 4),
        select=(3, 2, 4),
        threshold=(3, 2),
        scale=(3, 2),
        leaves=(3, 2, 2, 2),
    ),
    # The features of leaves; leaves exchange only when gates change their signs.
    "routed tree": lambda: network(
        routed_tree, fac(5), array(5, 3), w=(3, 3), b=(3,), leaves=(4, 5), o=(5, 2)
    ),
    # Hidden units, and the ranks of both adapters.
    "adapted": lambda: network(
        adapted,
        fac(5) * fac(2) * fac(3),
        array(5, 3),
        w1=(3, 5),
        a1=(3, 2),
        b1=(2, 5),
        w2=(5, 2),
        a2=(5, 3),
        b2=(3, 2),
    ),
    # Singular values; units by Kronecker's factors on both sides; summands.
    "factorised weights": lambda: network(
        factorised_weights,
        fac(3) * fac(2) * fac(3) * fac(2) * fac(3) * fac(3),
        array(5, 3),
        u=(3, 3),
        s=(3,),
        v=(3, 6),
        a=(3, 2, 2),
        b=(3, 3, 3),
        o=(6, 2),
    ),
    # Both ranks, and the units along each of three axes.
    "tensor train": lambda: network(
        tensor_train,
        fac(3) * fac(4) * fac(3) * fac(2) * fac(2),
        array(5, 12),
        c1=(2, 3, 3),
        c2=(3, 2, 2, 4),
        c3=(4, 3, 2),
        b=(3, 2, 2),
        o=(12, 2),
    ),
    "standardised": lambda: network(
        standardised,
        fac(4) * fac(5),
        array(5, 3),
        w=(3, 4),
        g=(4,),
        u=(4,),
        a=(4, 5),
        power=(5,),
        o=(5, 2),
    ),
    "factorisation machine": lambda: network(
        factorisation_machine,
        fac(3) * fac(5),
        array(5, 4),
        v=(4, 3),
        w=(12, 5),
        o=(5, 1),
        linear=(4,),
    ),
    "crossed": lambda: network(
        crossed,
        fac(4) * fac(2) ** 2 * fac(5),
        array(5, 3),
        embed=(3, 4),
        u1=(4, 2),
        v1=(2, 4),
        b1=(4,),
        u2=(4, 2),
        v2=(2, 4),
        b2=(4,),
        w=(4, 5),
        o=(9, 2),
    ),
    "two towers": lambda: network(
        two_towers,
        fac(4) * fac(5) * fac(3),
        array(5, 3),
        array(5, 2),
        a1=(3, 4),
        a2=(4, 3),
        b1=(2, 5),
        b2=(5, 3),
        t=(),
    ),
    "duelling": lambda: network(
        duelling,
        fac(4) * fac(5) * fac(3),
        array(5, 3),
        w=(3, 4),
        v1=(4, 5),
        v2=(5, 5),
        a1=(4, 3),
        a2=(3, 10),
    ),
    # The policy's units; the critics, and both hidden layers of each.
    "squashed policy": lambda: network(
        squashed_policy,
        fac(4) * fac(2) * fac(3) ** 2 * fac(5) ** 2,
        array(5, 3),
        array(5, 2),
        p1=(3, 4),
        p2=(4, 4),
        critics={"w": (2, 5, 3), "u": (2, 3, 5), "o": (2, 5, 1)},
    ),
    "batch ensemble": lambda: network(
        normed_ensemble,
        fac(4) * fac(5) * fac(3),
        array(5, 3),
        w=(3, 4),
        r=(3, 4),
        u=(4, 5),
        s=(3, 5),
        b=(3, 5),
        o=(5, 2),
    ),
    # Units of the encoder, entries of the code, units of the decoder.
    "neural process": lambda: network(
        conditional_field,
        fac(4) * fac(3) * fac(5),
        array(6, 2),
        array(6, 1),
        array(5, 1),
        e1=(3, 4),
        e2=(4, 3),
        x=(1, 5),
        r=(3, 5),
        b=(5,),
        gamma=(3, 5),
        beta=(3, 5),
        o=(5, 4),
    ),
    "gated pooling": lambda: network(
        sorted_pool,
        fac(4) * fac(5),
        array(2, 6, 3),
        w=(3, 4),
        v=(3, 5),
        u=(3, 5),
        a=(5, 1),
        rank=(6,),
        o=(12, 2),
    ),
    "inner step": lambda: network(
        inner_step, fac(4), array(5, 3), array(5, 2), w=(3, 4), b=(4,), o=(4, 2)
    ),
    "arithmetic units": lambda: network(
        arithmetic_units,
        fac(4),
        array(5, 3),
        w=(3, 4),
        m=(3, 4),
        g=(3, 4),
        o=(4, 2),
    ),
}
