"""The layer graph of a network in evaluation.

    graph = layer_graph(network, variables, (224, 224, 3))

It lists every operation with its attributes, shapes and parameters, for programs that
write the network in another format, draw it, or compute it faster.
"""

from cnn_jax.networks.graph.fold import fold_batch_norm
from cnn_jax.networks.graph.nodes import Graph, Node, run
from cnn_jax.networks.graph.build import layer_graph
