"""The four services of the mesh: auth, storage, scheduler, trainer."""

import os

# gRPC's fork handlers run in each child process that uvloop starts, before it becomes another program: one child in ten
# died of them, and the living ones closed connections that they share with the service. No service uses gRPC in a
# forked child. gRPC reads this when it is first imported, which everything below this package does later.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
