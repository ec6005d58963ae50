"""What can go wrong while a local mesh is set up or run; every message says how to mend it."""

from __future__ import annotations


class DeployError(Exception):
    """Any failure of the local deployment; its text is written for the person at the keyboard."""


class ConsulMissingError(DeployError):
    """None of the ways to get a Consul binary worked."""


class PortTakenError(DeployError):
    """A port that this mesh has to keep is used by another program."""


class StateError(DeployError):
    """The state directory cannot be used as it is."""


class StartError(DeployError):
    """A process did not become healthy in time; the text holds the end of its log."""
