"""Estimates the memory and time of a training step from its traced graph, before it runs.

The graph gives the tensors and the last use of each; walking it in order gives the most bytes alive
at once. Its matrix products and the bytes it moves, divided by the measured speed of the machine,
give the time. Both are estimates: TensorFlow may reorder and fuse operations. A node is an
operation of the graph.
"""

import math
import pathlib
from typing import NamedTuple

import psutil
import tensorflow as tf
import tqdm

from cwvae import machine
from cwvae.config import Config
from cwvae.errors import UserError
from cwvae.training import strategies
from cwvae.video_model import VideoModel

# fmt: off
# Nodes whose outputs share the memory of their inputs.
_ALIASES = {
    "Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "ReadVariableOp",
    "Placeholder", "NoOp", "Shape", "TensorListStack", "TensorListFromTensor",
}
# Nodes that write into the memory of an input that no other node needs.
_IN_PLACE = {
    "Add", "AddN", "AddV2", "BiasAdd", "LeakyRelu", "LeakyReluGrad", "Mul", "RealDiv", "Relu",
    "ReluGrad", "Sub", "Tanh", "TanhGrad",
}
# fmt: on
# Entries of a control group's memory.stat that make room when it is needed.
_CACHED = ("active_file", "inactive_file")
# Nodes that run although no node reads their outputs.
_EFFECTS = ("Assign", "ResourceApply", "While", "If", "StatefulPartitionedCall")


class Cost(NamedTuple):
    """The cost of running a graph.

    Attributes:
      memory: Most bytes of intermediate tensors at once.
      operations: Number of floating-point operations in products.
      traffic: Number of bytes read and written.
    """

    memory: float
    operations: float
    traffic: float


class Machine(NamedTuple):
    """The speed of a device.

    Attributes:
      operations: Floating-point operations per second, in a large matrix product.
      bandwidth: Bytes per second, read and written.
    """

    operations: float
    bandwidth: float


def check(graph: tf.Graph, config: Config, model: VideoModel, strategy, left: int) -> str:
    """Checks that a training step fits into memory, and returns an estimate of the run in words.

    Args:
      graph: The graph of the step, for all devices of this process.
      config: The configuration of the run.
      model: The model.
      strategy: A strategy of `cwvae.training.strategies`.
      left: Number of steps to run.

    Raises:
      UserError: It does not fit. The message suggests settings that would.
    """
    options = config.training
    # GPUs have separate memory and run in parallel; the logical devices of a CPU share it.
    devices = strategies.local_replicas(strategy) if tf.config.list_logical_devices("GPU") else 1
    step = Cost(*(part / devices for part in cost(graph)))
    free = options.memory * 2**30 if options.memory else available_memory()
    needed = _process_memory(step.memory)
    if needed > free:
        advice = _advice(step.memory, free, config, model, strategy.num_replicas_in_sync)
        raise UserError(
            f"a training step would take about {needed / 2**30:.3g} GiB of memory, but only"
            f" {free / 2**30:.3g} GiB are available. {advice} training.memory overrides the limit"
            " (in GiB)."
        )
    speed = measure(tf.as_dtype(options.precision))
    seconds = step.operations / speed.operations + step.traffic / speed.bandwidth
    return (
        f"{model.count_trainable():,} weights. A step of {options.batch_size} clips of"
        f" {options.seq_len} frames will take about {needed / 2**30:.2g} GiB of the"
        f" {free / 2**30:.3g} GiB free and {seconds:.2g} s: {left:,} steps about"
        f" {tqdm.tqdm.format_interval(left * seconds)}."
    )


def check_batch(config: Config) -> None:
    """Checks that a batch fits into memory. Tracing a step with a much larger one would fail.

    Raises:
      UserError: It does not fit.
    """
    options, model = config.training, config.model
    numbers = options.batch_size * options.seq_len * model.frame_size**2 * model.channels
    needed = numbers / strategies.workers()[1]  # Frames are uint8.
    free = options.memory * 2**30 if options.memory else available_memory()
    if needed > free:
        raise UserError(
            f"a batch of training.batch_size = {options.batch_size} clips of training.seq_len ="
            f" {options.seq_len} frames takes {needed / 2**30:.3g} GiB of memory, but only"
            f" {free / 2**30:.3g} GiB are available. Lower one of them."
        )


def _process_memory(tensors: float) -> float:
    """Returns the bytes that a process takes for a step with this many bytes of tensors.

    The overhead of kernels and allocators was measured for tensors from 0.1 to 1.7 GiB.
    """
    return 1.3 * tensors + 0.2 * 2**30


def _advice(tensors: float, free: float, config: Config, model: VideoModel, replicas: int) -> str:
    """Returns advice on settings with which a step would fit."""
    options = config.training
    fixed = 8 * model.count_params()  # The gradients and their sums.
    per_device = options.batch_size // replicas
    fitting = [
        pieces
        for pieces in range(options.accumulate + 1, per_device + 1)
        if per_device % pieces == 0
        and _process_memory(fixed + (tensors - fixed) * options.accumulate / pieces) < free
    ]
    if fitting:
        advice = (
            f"--set training.accumulate={fitting[0]} computes the same batch in {fitting[0]}"
            " pieces, which should fit;"
        )
    else:
        advice = "Even one clip at a time might not fit: a shorter training.seq_len,"
    checkpointing = " or --set training.gradient_checkpointing=100"
    if config.model.batch_normalized or options.kernels == "plain":
        checkpointing = ""  # Not possible with these.
    return f"{advice} a smaller training.batch_size{checkpointing} also needs less."


def cost(graph: tf.Graph) -> Cost:
    """Returns the cost of running the graph of a traced function once.

    A loop whose number of rounds is unknown counts as one round.
    """
    definition = graph.as_graph_def(add_shapes=True)
    functions = {f.signature.name: f for f in definition.library.function}
    return _Walk(functions).cost(definition.node, [x.op.name for x in graph.outputs], {})


def measure(dtype: tf.DType) -> Machine:
    """Measures the speed of the default device, in a fraction of a second."""
    x = tf.zeros((1 << 24,), tf.float32)
    (copy,) = machine.fastest([lambda: (x + 1.0)[0].numpy()], least=3, most=10, limit=0.1)
    return Machine(*machine.product_rates(dtype), 2 * 4 * (1 << 24) / copy)


def available_memory() -> float:
    """Returns the bytes that a process can still take: of the GPU if there is one, or of memory."""
    if tf.config.list_logical_devices("GPU"):
        # No public function returns the size of a GPU's memory.
        from tensorflow.python.client import device_lib

        limits = [d.memory_limit for d in device_lib.list_local_devices() if d.device_type == "GPU"]
        return min(limits) - tf.config.experimental.get_memory_info("GPU:0")["current"]
    return min(psutil.virtual_memory().available, _free_in_group())


def _free_in_group(folder: str = "/sys/fs/cgroup") -> float:
    """Returns the bytes that a container's limit leaves (control groups, version 2)."""
    try:
        limit = pathlib.Path(folder, "memory.max").read_text().strip()
        used = int(pathlib.Path(folder, "memory.current").read_text())
        lines = pathlib.Path(folder, "memory.stat").read_text().splitlines()
        used -= sum(int(line.split()[1]) for line in lines if line.split()[0] in _CACHED)
        return math.inf if limit == "max" else int(limit) - used
    except (OSError, ValueError):
        return math.inf


class _Walk:
    """Walks graphs and the functions they call, each function once."""

    def __init__(self, functions: dict):
        self._functions, self._known = functions, {}

    def cost(self, nodes, outputs: list[str], shapes: dict[str, list]) -> Cost:
        """Returns the cost of nodes, given in an order in which they can run."""
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
            arguments = enumerate(function.signature.input_arg)
            shapes = {x.name: _shapes(function.arg_attr[i]) for i, x in arguments}
            self._known[name] = self.cost(function.node_def, outputs, shapes)
        return self._known[name]


def _producer(name: str) -> str:
    """Returns the node of an input: `node`, `node:0`, `node:output:0` or `^node`."""
    return name.lstrip("^").partition(":")[0]


def _needed(nodes, outputs: list[str]) -> set[str]:
    """Returns the nodes that outputs or effects depend on."""
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
    """Returns for every node the number of the last node that reads its memory."""
    last = dict.fromkeys((_producer(name) for name in outputs), len(nodes))
    for number, node in reversed([*enumerate(nodes)]):
        # A read of an alias is a read of the original.
        until = max(last.get(node.name, number), number) if node.op in _ALIASES else number
        for name in node.input:
            last[_producer(name)] = max(last.get(_producer(name), 0), until)
    return last


def _shapes(node) -> list[list[int]]:
    """Returns the shapes of the outputs of a node, or of an argument."""
    return [[dim.size for dim in s.dim] for s in node.attr["_output_shapes"].list.shape]


def _bytes(node) -> int:
    keys = ("DstT", "dtype", "out_type", "T")
    kinds = [node.attr[key].type for key in keys if key in node.attr and node.attr[key].type]
    width = tf.as_dtype(kinds[0]).size if kinds else 4
    if node.op.endswith(("While", "If")):
        return 0  # The outputs are those of the function it calls.
    return sum(max(math.prod(shape), 0) * width for shape in _shapes(node))


def _rounds(node, nodes) -> int:
    """Returns the number of rounds of a loop: `maximum_iterations`, its second input."""
    name = _producer(node.input[1]) if len(node.input) > 1 else ""
    for other in nodes:
        if other.name == name and other.op == "Const":
            value = tf.make_ndarray(other.attr["value"].tensor)
            return max(int(value), 1) if value.ndim == 0 else 1
    return 1


def _operations(node, shapes: dict) -> int:
    """Returns the operations of a product or convolution: two per multiplication."""
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
