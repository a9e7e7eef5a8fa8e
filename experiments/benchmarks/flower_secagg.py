"""Flower's SecAgg+ in one process: what a site and the server compute. Run by secure_aggregation.py --flower, or alone:

    PYTHON experiments/benchmarks/flower_secagg.py [--sites 10] [--dropouts 1] [--parameters 11179600]

PYTHON is the interpreter of an environment with `pip install flwr==1.42` (its pins do not go with this project's). Everything timed is
Flower's own: SecAggPlusWorkflow at the server, secaggplus_mod at each site. A grid stands between them that hands messages over in
this process, through Flower's serialisation, and an error instead of the masked vector of a site that drops out. A site's seconds
are those in the mod without what it wraps (the training, which is not there), the server's those in the workflow without the grid; of
these, ``strategy_s`` is FedAvg, which the workflow calls at its end. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections import defaultdict
from collections.abc import Iterable
from time import perf_counter, process_time
from typing import Any

import flwr
import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod import secaggplus_mod
from flwr.common import Code, FitRes, Status, ndarrays_to_parameters, parameters_to_ndarrays
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common.recorddict_compat import arrayrecord_to_parameters, fitres_to_recorddict, parameters_to_arrayrecord
from flwr.server.client_manager import SimpleClientManager
from flwr.server.compat.grid_client_proxy import GridClientProxy
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow import SecAggPlusWorkflow
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.supercore.task_identity import TaskIdentity

ARRAYS = 62
"""Arrays of a model, as many as ResNet-18 has parameters' tensors."""

CLIPPING, LEVELS, LARGEST_WEIGHT = 8.0, 2**22, 1000.0
"""Flower's defaults."""


def weight(site: int) -> int:
    """Images of a site."""
    return 400 + 60 * (site % 10)


def change(site: int, parameters: int) -> np.ndarray:
    """A site's vector."""
    return np.random.default_rng(site).standard_normal(parameters, np.float32) * np.float32(0.01)


class Site:
    """A client: its context, and its training, which is there already."""

    def __init__(self, number: int, parameters: int) -> None:
        self._number, self._parameters = number, parameters
        self._context = Context(run_id=1, node_id=number, node_config={}, state=RecordDict(), run_config={})
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.cpu_s = 0.0
        self.bytes_up = 0

    def handle(self, message: Message) -> Message:
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        cpu, begun = process_time(), perf_counter()
        self._apart_s, self._apart_cpu_s = 0.0, 0.0
        reply = secaggplus_mod(message, self._context, self._train)
        self.seconds[stage] += perf_counter() - begun - self._apart_s
        self.cpu_s += process_time() - cpu - self._apart_cpu_s
        sent = message_to_proto(reply)
        self.bytes_up += sent.ByteSize()
        return message_from_proto(sent)

    def _train(self, message: Message, context: Context) -> Message:
        cpu, begun = process_time(), perf_counter()
        arrays = np.array_split(change(self._number, self._parameters), ARRAYS)
        result = FitRes(Status(Code.OK, ""), ndarrays_to_parameters(arrays), weight(self._number), {})
        reply = Message(fitres_to_recorddict(result, False), reply_to=message)
        self._apart_s, self._apart_cpu_s = perf_counter() - begun, process_time() - cpu
        return reply


class InProcessGrid:
    """Hands messages to sites one after the other."""

    def __init__(self, sites: dict[int, Site], lost: set[int]) -> None:
        self._sites, self._lost = sites, lost
        self.seconds, self.cpu_s = 0.0, 0.0

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        cpu, begun = process_time(), perf_counter()
        replies = [self._reply(message) for message in messages]
        self.seconds += perf_counter() - begun
        self.cpu_s += process_time() - cpu
        return replies

    def _reply(self, message: Message) -> Message:
        number = message.metadata.dst_node_id
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if number in self._lost and stage == Stage.COLLECT_MASKED_VECTORS:
            return Message(Error(code=0, reason="lost"), reply_to=message)
        # The workflow gives all sites one record, from which the mod takes things out.
        return self._sites[number].handle(message_from_proto(message_to_proto(message)))


class TimedFedAvg(FedAvg):  # type: ignore[misc]
    """FedAvg, whose share of the workflow is told apart."""

    seconds = 0.0

    def aggregate_fit(self, *arguments: Any) -> Any:
        begun = perf_counter()
        result = super().aggregate_fit(*arguments)
        self.seconds += perf_counter() - begun
        return result


def server_context(grid: InProcessGrid, sites: Iterable[int], parameters: int) -> LegacyContext:
    """All that the workflow expects of a server in its first round."""
    numbers, manager = list(sites), SimpleClientManager()
    for number in numbers:
        manager.register(GridClientProxy(number, grid, 1))
    strategy = TimedFedAvg(fraction_fit=1.0, min_fit_clients=len(numbers), min_available_clients=len(numbers))
    bare = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config={})
    context = LegacyContext(bare, strategy=strategy, client_manager=manager)
    start = ndarrays_to_parameters(np.array_split(np.zeros(parameters, np.float32), ARRAYS))
    context.state.array_records[MAIN_PARAMS_RECORD] = parameters_to_arrayrecord(start, True)
    context.state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    return context


def errors(mean: np.ndarray, sites: Iterable[int], parameters: int) -> dict[str, Any]:
    """How far ``mean`` is from the true one over ``sites``, and whether each site's rounding can explain it."""
    numbers = list(sites)
    true = np.zeros(parameters)
    for number in numbers:
        true += weight(number) * change(number, parameters).astype(np.float64)
    total = sum(map(weight, numbers))
    difference = mean - true / total
    largest = float(np.abs(difference).max())
    # One step of each site; that weights are rounded too adds less than a hundredth of it where values are below 0.1.
    bound = 1.01 * len(numbers) * 2 * CLIPPING / LEVELS / (total / LARGEST_WEIGHT)
    return {"error_max": largest, "error_rms": float(np.sqrt(np.mean(difference**2))), "within_quantisation": largest <= bound}


def aggregate(options: argparse.Namespace) -> dict[str, Any]:
    """One aggregation; the last sites drop out after they have shared their keys."""
    sites = {number: Site(number, options.parameters) for number in range(1, options.sites + 1)}
    lost = set(list(sites)[options.sites - options.dropouts :])
    grid = InProcessGrid(sites, lost)
    context = server_context(grid, sites, options.parameters)
    workflow = SecAggPlusWorkflow(1.0, options.threshold, max_weight=LARGEST_WEIGHT, clipping_range=CLIPPING, quantization_range=LEVELS)
    cpu, begun = process_time(), perf_counter()
    workflow(grid, context)
    server_s, server_cpu_s = perf_counter() - begun - grid.seconds, process_time() - cpu - grid.cpu_s
    staying = [site for number, site in sites.items() if number not in lost]
    seconds = [sum(site.seconds.values()) for site in staying]
    arrays = parameters_to_ndarrays(arrayrecord_to_parameters(context.state.array_records[MAIN_PARAMS_RECORD], True))
    return {
        "version": flwr.__version__,
        "site_s": float(np.mean(seconds)),
        "site_max_s": max(seconds),
        "site_cpu_s": float(np.mean([site.cpu_s for site in staying])),
        "site_steps_s": {step: float(np.mean([site.seconds[step] for site in staying])) for step in Stage.all()},
        "driver_s": server_s,
        "driver_cpu_s": server_cpu_s,
        "strategy_s": context.strategy.seconds,
        "bytes_up": float(np.mean([site.bytes_up for site in staying])),
        "bytes_ratio": float(np.mean([site.bytes_up for site in staying])) / (4 * options.parameters),
        **errors(np.concatenate(arrays), sites.keys() - lost, options.parameters),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sites", type=int, default=10)
    parser.add_argument("--dropouts", type=int, default=1)
    parser.add_argument("--parameters", type=int, default=11_179_600)
    parser.add_argument("--threshold", type=float, default=0.6)
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
    print(json.dumps(aggregate(options)))


if __name__ == "__main__":
    main()
