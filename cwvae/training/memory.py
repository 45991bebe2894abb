"""What a training step will take, in memory and time, from its traced graph: before it is run.

The graph says which tensors there are and when each is used for the last time; walking it in order
gives the most that live at once. Its matrix products and the bytes that it moves, over what this
machine was just measured to do, give the time. Both are estimates: TensorFlow may run operations in
another order, and fuse some. Symbols: a node is an operation of the graph.
"""

import math
import os
import pathlib
import time
from typing import NamedTuple

import tensorflow as tf

# Nodes whose outputs are their inputs' memory.
_ALIASES = {
    "Identity",
    "IdentityN",
    "Reshape",
    "Squeeze",
    "ExpandDims",
    "StopGradient",
    "ReadVariableOp",
    "Placeholder",
    "NoOp",
    "Shape",
    "TensorListStack",
    "TensorListFromTensor",
}
# Nodes that write into the memory of an input that nothing else needs.
_IN_PLACE = {
    "Add",
    "AddN",
    "AddV2",
    "BiasAdd",
    "LeakyRelu",
    "LeakyReluGrad",
    "Mul",
    "RealDiv",
    "Relu",
    "ReluGrad",
    "Sub",
    "Tanh",
    "TanhGrad",
}
# Of a control group's memory.stat.
_CACHED = ("active_file", "inactive_file")
# Nodes that matter though nothing reads them.
_EFFECTS = ("Assign", "ResourceApply", "While", "If", "StatefulPartitionedCall")


class Cost(NamedTuple):
    """Of a graph.

    Attributes:
      memory: Most bytes of intermediate tensors at once.
      operations: Floating-point operations of its products.
      traffic: Bytes read and written.
    """

    memory: int
    operations: int
    traffic: int


class Machine(NamedTuple):
    """What a device does.

    Attributes:
      operations: Floating-point operations a second, in a large matrix product.
      bandwidth: Bytes a second, read and written.
    """

    operations: float
    bandwidth: float


def cost(graph: tf.Graph) -> Cost:
    """Returns the cost of running the graph of a traced function once.

    Of a loop without a known end, one round is counted.
    """
    definition = graph.as_graph_def(add_shapes=True)
    functions = {f.signature.name: f for f in definition.library.function}
    return _Walk(functions).cost(definition.node, [x.op.name for x in graph.outputs], {})


def measure(dtype: tf.DType) -> Machine:
    """Measures the default device, in a fraction of a second."""
    size = 1024
    a = tf.cast(tf.random.stateless_normal((size, size), (0, 0)), dtype)
    x = tf.zeros((1 << 24,), tf.float32)
    product = _best_of(lambda: tf.reduce_sum(tf.linalg.matmul(a, a)))
    copy = _best_of(lambda: (x + 1.0)[0])
    return Machine(2 * size**3 / product, 2 * 4 * (1 << 24) / copy)


def available_memory() -> float:
    """Returns the bytes that a process of this machine can still take: of its GPU, if it has one.

    Infinity where the system does not tell.
    """
    if tf.config.list_logical_devices("GPU"):
        # No public function tells the size of a GPU's memory.
        from tensorflow.python.client import device_lib

        limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return min(limits) - tf.config.experimental.get_memory_info("GPU:0")["current"]
    return min(_free_memory(), _free_in_group())


def _best_of(function) -> float:
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        function().numpy()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _free_memory() -> float:
    try:
        lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
        kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable"))
        return 1024 * int(kilobytes)
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return math.inf


def _free_in_group(folder: str = "/sys/fs/cgroup") -> float:
    """What a container leaves (control groups, version 2)."""
    try:
        limit = pathlib.Path(folder, "memory.max").read_text().strip()
        used = int(pathlib.Path(folder, "memory.current").read_text())
        lines = pathlib.Path(folder, "memory.stat").read_text().splitlines()
        # Cached files count as used, and make room when it is needed.
        used -= sum(int(line.split()[1]) for line in lines if line.split()[0] in _CACHED)
        return math.inf if limit == "max" else int(limit) - used
    except (OSError, ValueError):
        return math.inf


class _Walk:
    """Walks graphs and the functions that they call, each function once."""

    def __init__(self, functions: dict):
        self._functions, self._known = functions, {}

    def cost(self, nodes, outputs: list[str], shapes: dict[str, list]) -> Cost:
        """Returns the cost of nodes, listed in an order in which they can run."""
        needed = _needed(nodes, outputs)
        nodes = [node for node in nodes if node.name in needed]
        last = _last_uses(nodes, outputs)
        sizes, dying = {}, {}
        for name, number in last.items():
            dying.setdefault(number, []).append(name)
        live = peak = operations = traffic = 0
        for number, node in enumerate(nodes):
            shapes[node.name] = _shapes(node)
            inputs = [_producer(name) for name in node.input]
            size = 0 if node.op in _ALIASES else _bytes(node)
            called = self._called(node, nodes)
            dead = sum(sizes.get(name, 0) for name in dying.get(number, ()))
            reused = min(dead, size) if node.op in _IN_PLACE else 0
            live += size - reused
            peak = max(peak, live + called.memory)
            live -= dead - reused
            sizes[node.name] = size
            if number >= last.get(node.name, number):
                live -= size
            operations += called.operations + _operations(node, shapes)
            traffic += called.traffic + size + sum(sizes.get(name, 0) for name in inputs)
        return Cost(peak, operations, traffic)

    def _called(self, node, nodes) -> Cost:
        """Returns the cost of the functions that a node calls, over all rounds of a loop."""
        names = [node.attr[key].func.name for key in ("f", "body", "then_branch", "else_branch")]
        costs = [self._of_function(name) for name in names if name in self._functions]
        if not costs:
            return Cost(0, 0, 0)
        memory, operations, traffic = (max(part) for part in zip(*costs, strict=True))
        rounds = _rounds(node, nodes) if node.op.endswith("While") else 1
        return Cost(memory, rounds * operations, rounds * traffic)

    def _of_function(self, name: str) -> Cost:
        if name not in self._known:
            function = self._functions[name]
            outputs = [*function.ret.values(), *function.control_ret.values()]
            shapes = {
                argument.name: [
                    list(dim.size for dim in shape.dim)
                    for shape in function.arg_attr[i].attr["_output_shapes"].list.shape
                ]
                for i, argument in enumerate(function.signature.input_arg)
            }
            self._known[name] = self.cost(function.node_def, outputs, shapes)
        return self._known[name]


def _producer(name: str) -> str:
    """The node of an input: `node`, `node:0`, `node:output:0` or `^node`."""
    return name.lstrip("^").partition(":")[0]


def _needed(nodes, outputs: list[str]) -> set[str]:
    """The nodes that outputs or effects depend on."""
    inputs = {node.name: [_producer(name) for name in node.input] for node in nodes}
    open_ = [_producer(name) for name in outputs]
    open_ += [node.name for node in nodes if node.op.removeprefix("Stateless").startswith(_EFFECTS)]
    found = set()
    while open_:
        name = open_.pop()
        if name not in found:
            found.add(name)
            open_ += inputs.get(name, ())
    return found


def _last_uses(nodes, outputs: list[str]) -> dict[str, int]:
    """For every node, the number of the last one that reads its memory."""
    last = dict.fromkeys((_producer(name) for name in outputs), len(nodes))
    for number, node in reversed([*enumerate(nodes)]):
        # What reads an alias reads what it is an alias of.
        until = max(last.get(node.name, number), number) if node.op in _ALIASES else number
        for name in node.input:
            last[_producer(name)] = max(last.get(_producer(name), 0), until)
    return last


def _shapes(node) -> list[list[int]]:
    return [[dim.size for dim in s.dim] for s in node.attr["_output_shapes"].list.shape]


def _bytes(node) -> int:
    keys = ("DstT", "dtype", "out_type", "T")
    kinds = [node.attr[key].type for key in keys if key in node.attr and node.attr[key].type]
    width = tf.as_dtype(kinds[0]).size if kinds else 4
    if node.op.endswith(("While", "If")):
        return 0  # Its outputs are what its function's were.
    return sum(max(math.prod(shape), 0) * width for shape in _shapes(node))


def _rounds(node, nodes) -> int:
    """How often a loop runs: its `maximum_iterations`, which stand second among its inputs."""
    name = _producer(node.input[1]) if len(node.input) > 1 else ""
    for other in nodes:
        if other.name == name and other.op == "Const":
            value = tf.make_ndarray(other.attr["value"].tensor)
            return max(int(value), 1) if value.ndim == 0 else 1
    return 1


def _operations(node, shapes: dict) -> int:
    """Two for each multiplication that is added up, in products and convolutions."""
    out = _shapes(node)[0] if _shapes(node) else []
    given = [next(iter(shapes.get(_producer(name)) or [[]]), []) for name in node.input]
    if node.op in ("MatMul", "BatchMatMulV2") and len(given[0]) >= 2:
        flipped = node.attr["transpose_a"].b or node.attr["adj_x"].b
        return 2 * math.prod(out) * given[0][-2 if flipped else -1]
    if node.op == "Conv2D" and given[1]:
        return 2 * math.prod(out) * math.prod(given[1][:3])
    if node.op == "Conv2DBackpropInput" and given[1]:
        return 2 * math.prod(given[2]) * math.prod(given[1][:3])
    if node.op == "Conv2DBackpropFilter" and out:
        return 2 * math.prod(given[2]) * math.prod(out[:3])
    return 0
