"""Recording of XLA compilations."""

import contextlib

import jax


@contextlib.contextmanager
def compilations(name):
    """Yield a list that grows by one name with each XLA compilation of a jitted function called `name`."""
    compiled = []

    def listen(event, duration, **facts):
        del duration
        if event == "/jax/core/compile/backend_compile_duration" and name in str(facts.get("fun_name")):
            compiled.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
