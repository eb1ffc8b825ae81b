"""Throughput and latency of a port, measured beside other engines in one run."""

from porter.bench.measurement import Measurement, measure
from porter.bench.workload import Workload

__all__ = ["Measurement", "Workload", "measure"]
