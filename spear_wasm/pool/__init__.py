"""Where sandboxes come from: made on demand, made ready before they are needed, or kept from call to call."""

from spear_wasm.pool.capacity import Capacity
from spear_wasm.pool.factory import PoolFactory
from spear_wasm.pool.instance_pool import InstancePool
from spear_wasm.pool.null_pool import NullPool
from spear_wasm.pool.pool import Pool, PoolStats
from spear_wasm.pool.pooled_sandbox import Use
from spear_wasm.pool.terms import PoolTerms

__all__ = ["Capacity", "InstancePool", "NullPool", "Pool", "PoolFactory", "PoolStats", "PoolTerms", "Use"]
