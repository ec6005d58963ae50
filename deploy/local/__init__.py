"""The whole mesh on one machine: Consul, NATS and the services as supervised processes on loopback.

`mesh` is the door: LocalMesh starts, watches and stops everything; `__main__` puts commands in front of it.
`state` says where things lie, `ports`, `certificates`, `consul` and `nats` make what the processes need,
`processes` says what they are, `supervisor` keeps them running, `health` and `endpoints` tell how they are and where.
"""
