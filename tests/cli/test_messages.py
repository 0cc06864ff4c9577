"""vae_jax/cli/messages.py: messages are printed on stderr, by one process."""

from vae_jax.cli.messages import log
from vae_jax.runtime import multihost


def test_messages_are_printed_on_stderr_by_the_primary_process_only(capsys, monkeypatch):
    log("one")
    monkeypatch.setattr(multihost, "is_primary", lambda: False)
    log("two")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "one\n")
