"""Where sandboxes come from: made on demand, or ready before they are needed."""

from spear_wasm.pool.capacity import Capacity
from spear_wasm.pool.factory import PoolFactory
from spear_wasm.pool.instance_pool import InstancePool
from spear_wasm.pool.null_pool import NullPool
from spear_wasm.pool.pool import Pool, PoolStats

__all__ = ["Capacity", "InstancePool", "NullPool", "Pool", "PoolFactory", "PoolStats"]
