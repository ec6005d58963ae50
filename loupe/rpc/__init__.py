"""How the mesh speaks gRPC: servers, channels, identity, access and errors, the same in every service."""
