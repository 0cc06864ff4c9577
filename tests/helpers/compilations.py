"""A count of XLA compilations."""

import contextlib

import jax


@contextlib.contextmanager
def compilations(name):
    """Gives a list that grows with each XLA compilation of a jitted function of that name."""
    found = []

    def listen(event, duration, **facts):
        del duration
        if event == "/jax/core/compile/backend_compile_duration" and name in str(facts.get("fun_name")):
            found.append(facts["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
