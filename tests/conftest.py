from __future__ import annotations

from hypothesis import HealthCheck, settings

# An example that takes long is no failure: machines pause, and other tests may have the processors.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
