"""Constants of an ONNX program, computed while it is traced.

Nodes that depend on neither weights nor inputs (shapes, index arithmetic) are computed by
onnx's own reference implementation, within a `Budget`: a few numbers in a file can ask for
an array of any size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from metanet.importers.onnx.limits import Budget, broadcast_size
from metanet.importers.onnx.operators import OPERATORS, Call, operator_name

# Values of an array whose constants need no estimate.
_SMALL = 1024


class Folder:
    """Computes nodes of constants.

    Args:
        versions: Versions of the operator sets by domain.
        nodes: Nodes that are computed again and again.
    """

    def __init__(self, versions: Mapping[str, int], nodes: Sequence[Any]):
        self._versions = versions
        # By the identity of a node, which stays that node's while the node is alive.
        self._nodes = {id(node): node for node in nodes}
        self._evaluators: dict[int, Any] = {}

    def fold(self, node: Any, call: Call, budget: Budget) -> list[Any]:
        """Computes the results of a node whose inputs are constants.

        Raises:
            TooLarge: before anything is computed that exceeds the budget.
        """
        count, work = _cost(node, call)
        itemsize = max((v.itemsize for v in call.inputs if v is not None), default=8)
        budget.check(count, itemsize, work)
        names = list(dict.fromkeys(n for n in node.input if n))
        values = dict(zip(node.input, call.inputs, strict=True))
        feeds = {n: values[n] for n in names}
        results = iter(self._evaluator(node, names).run(None, feeds))
        arrays = [np.asarray(next(results)) if n else None for n in node.output]
        budget.take(sum(x.nbytes for x in arrays if x is not None))
        return arrays

    def _evaluator(self, node: Any, names: Sequence[str]) -> Any:
        from onnx import TensorProto, helper
        from onnx.reference import ReferenceEvaluator

        if id(node) in self._evaluators:
            return self._evaluators[id(node)]
        infos = [
            [
                helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None)
                for n in group
            ]
            for group in (names, [n for n in node.output if n])
        ]
        graph = helper.make_graph([node], "constant", infos[0], infos[1])
        opsets = [helper.make_opsetid(d, v) for d, v in self._versions.items()]
        model = helper.make_model(graph, opset_imports=opsets)
        evaluator = ReferenceEvaluator(model)
        if id(node) in self._nodes:
            self._evaluators[id(node)] = evaluator
        return evaluator


def _cost(node: Any, call: Call) -> tuple[float, float]:
    """Returns bounds of the values and the multiplications of a node of constants."""
    values = [v for v in call.inputs if v is not None]
    largest = max((v.size for v in values), default=1)
    operator = node.op_type
    count: float
    if operator == "ConstantOfShape":
        count = _size(values[0])
    elif operator == "EyeLike":
        (x,) = values
        count = x.size if x.ndim > 1 else x.size**2
    elif operator == "Expand":
        count = broadcast_size(values[0].shape, tuple(map(int, values[1].ravel())))
    elif operator == "Tile":
        count = values[0].size * _size(values[1])
    elif operator == "Range":
        start, stop, step = (float(np.ravel(v)[0]) for v in values)
        count = max((stop - start) / step, 0) if step else math.inf
    elif operator == "NonZero":
        count = values[0].size * max(values[0].ndim, 1)
    elif operator == "OneHot":
        count = values[0].size * abs(int(np.ravel(values[1])[0]))
    elif operator == "Pad":
        pads = call.static(1, "pads") or []
        widest = max((abs(int(n)) for n in pads), default=0)
        count = math.prod(n + 2 * widest for n in values[0].shape)
    elif operator == "Concat":
        count = sum(v.size for v in values)
    elif largest <= _SMALL and operator not in ("Resize", "Upsample"):
        # No other operator makes a large array of small ones.
        count = largest
    else:
        count = _traced_size(node, call)
    work = float(max(count, largest))
    if operator in ("MatMul", "Gemm", "MatMulInteger"):
        work *= max(max((v.shape[-2:] for v in values), default=(1,)))
    elif operator == "Einsum":
        work = _einsum_work(call.attributes["equation"], values)
    elif operator.startswith("Conv") or operator.endswith("Pool"):
        # The reference implementation of windows is slow.
        work *= 64 * max((math.prod(v.shape[1:]) for v in values[1:2]), default=64)
    return max(count, 0), work


def _size(shape: np.ndarray) -> int:
    return math.prod(max(int(n), 1) for n in shape.ravel())


def _traced_size(node: Any, call: Call) -> int:
    """Returns the size of the results without computing them."""
    evaluate = OPERATORS[operator_name(node)].evaluate
    results = jax.eval_shape(lambda: evaluate(call))
    return sum(x.size for x in jax.tree.leaves(results))


def _einsum_work(equation: str, values: Sequence[np.ndarray]) -> float:
    """Returns the product of the sizes of all indices of a sum of products."""
    sizes: dict[str, int] = {}
    terms = equation.replace(" ", "").partition("->")[0].split(",")
    for term, value in zip(terms, values, strict=True):
        if "..." in term:
            return math.prod(float(v.size) for v in values)
        for index, n in zip(term, value.shape, strict=True):
            sizes[index] = max(n, sizes.get(index, 1))
    return math.prod(map(float, sizes.values()))
