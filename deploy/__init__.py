"""Ways to bring Loupe up: on this machine with one command, in containers, in Kubernetes."""
